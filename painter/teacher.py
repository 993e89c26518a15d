"""What the painter is conditioned on: the last hidden states of the English encoder, at all 24 positions."""

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from painter.unet import WINDOW
from zhclip.artifact import Artifact, CorpusInfo, Dimensions, Meta, SpecialIds, TeacherInfo, save

CHUNK = 256


@torch.no_grad()
def english_states(folder: Path, captions: list[str]) -> Tensor:
    """Encode captions with a BERT in Hugging Face layout, under its own mask, padded to the window.

    Returns (len(captions), 24, width), fp16. ValueError names a caption that is longer than the window.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"No encoder at {folder}: config.json is missing. Make it: python -m painter.real_pair DIR"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    states = []
    for start in range(0, len(captions), CHUNK):
        batch = tokenizer(captions[start : start + CHUNK], padding="max_length", max_length=WINDOW, return_tensors="pt")
        if batch["input_ids"].shape[1] > WINDOW:
            longest = max(captions[start : start + CHUNK], key=lambda text: len(tokenizer(text)["input_ids"]))
            raise ValueError(f"Caption over {WINDOW} tokens: {longest!r}. Shorten it.")
        states.append(model(**batch).last_hidden_state.half())
    return torch.cat(states)


def write_artifact(folder: Path, path: Path) -> None:
    """Write the English encoder itself as an artifact, so that the same nodes can paint English."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    width = config["hidden_size"]
    meta = Meta(
        dimensions=Dimensions(
            layers=config["num_hidden_layers"],
            width=width,
            heads=config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            types=config["type_vocab_size"],
            layer_norm_eps=config["layer_norm_eps"],
        ),
        special_ids=SpecialIds(
            tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
        ),
        window=WINDOW,
        mask_padding=True,
        position0="learnt",
        teacher=TeacherInfo(id=folder.name, sha256="", layer=-1, width=width),
        strategy="teacher",
        corpus=CorpusInfo(rows=0, sha256=""),
        licence="Apache-2.0",
    )
    weights = {name: tensor for name, tensor in model.state_dict().items() if "position_ids" not in name}
    save(Artifact(meta, weights, tokenizer.backend_tokenizer.to_str().encode("utf-8")), path)
