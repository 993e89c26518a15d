"""What the painter is conditioned on: the last hidden states of the English encoder, at all 40 positions."""

from pathlib import Path

import torch
from torch import Tensor

from painter.unet import WINDOW
from trainer.encoders import dimensions_of, load_student
from zhclip.artifact import Artifact, CorpusInfo, Meta, TeacherInfo, save

CHUNK = 256


@torch.no_grad()
def english_states(folder: Path, captions: list[str]) -> Tensor:
    """Encode captions with a BERT in Hugging Face layout, under its own mask, padded to the painter's window.

    Returns (len(captions), 40, width), fp16. ValueError names a caption that is longer than the window.
    """
    encoder = load_student(str(folder), WINDOW)
    states = []
    for start in range(0, len(captions), CHUNK):
        batch = captions[start : start + CHUNK]
        longest = max(batch, key=encoder.tokens.length)
        if encoder.tokens.length(longest) > WINDOW:
            raise ValueError(f"Caption over {WINDOW} tokens: {longest!r}. Shorten it.")
        states.append(encoder.encode(batch).half())
    return torch.cat(states)


def write_artifact(folder: Path, path: Path) -> None:
    """Write the English encoder itself as an artifact, so that the same nodes can paint English."""
    encoder = load_student(str(folder), WINDOW)
    dimensions = dimensions_of(encoder.bert)
    meta = Meta(
        dimensions=dimensions,
        special_ids=encoder.tokens.special,
        window=WINDOW,
        mask_padding=True,
        position0="learnt",
        teacher=TeacherInfo(id=folder.name, sha256="", layer=-1, width=dimensions.width),
        strategy="teacher",
        corpus=CorpusInfo(rows=0, sha256=""),
        licence="Apache-2.0",
    )
    weights = {name: tensor for name, tensor in encoder.bert.state_dict().items() if "position_ids" not in name}
    save(Artifact(meta, weights, encoder.tokens.tokenizer.to_str().encode("utf-8")), path)
