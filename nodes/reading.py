"""What an encoder makes of a prompt, as plain values: tokens, languages, nearest captions, the report's floors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ..zhclip.artifact import Meta
from .clip import SKIP_LAYER, WindowEncoder

NEAREST = 5
BATCH = 16
FLOORS = ("ridge", "nearest", "constant", "untrained")


@dataclass(frozen=True)
class Token:
    """A token: the stretch of the prompt that it stands for, and whether the vocabulary has it."""

    text: str
    known: bool
    weight: float


@dataclass(frozen=True)
class Score:
    """A predictor of the file's report: mean cosine loss over all positions, and how often a caption finds its own."""

    name: str
    loss: float
    recall: float | None


def windows_of(clip: Any, text: str) -> list[list[Token]]:
    """The prompt's windows, without what frames and pads them."""
    prompt = clip.tokenizer.clip_l.prompt
    pieces, out = iter(prompt.pieces(text)), []
    for window in prompt.weighted_windows(text):
        held = slice(1, window.ids.index(prompt.special.end))
        pairs = zip(window.ids[held], window.weights[held])
        out.append([Token(next(pieces), i != prompt.special.unknown, weight) for i, weight in pairs])
    return out


def layer_in_use(clip: Any, encoder: WindowEncoder) -> str:
    """Which hidden state CLIP Set Last Layer left in use, and whether the file was trained for it."""
    layers, skip = encoder.transformer.num_layers, encoder.transformer.skip is not None
    chosen = getattr(clip, "layer_idx", None)
    if chosen is None or chosen % layers == layers - 1:
        other = "; the file has a target for the layer before it too (clip skip)" if skip else ""
        return f"the last of {layers}{other}"
    if skip and chosen % layers == SKIP_LAYER % layers:
        return f"{chosen} of {layers}, which the file was trained for"
    return (
        f"{chosen} of {layers}, which the file has no target for: its states go through what the last was trained for"
    )


def scores(meta: Meta) -> list[Score]:
    """The encoder and its floors, by the report in its file; empty without one."""
    report = meta.report
    losses = {"aligned": report.get("loss"), **(report.get("floors") or {})}
    found = {"aligned": report.get("retrieval"), **(report.get("floors_retrieval") or {})}
    return [
        Score(name, float(losses[name]["all"]), _recall(found.get(name)))
        for name in ("aligned", *FLOORS)
        if losses.get(name) and "all" in losses[name]
    ]


def _recall(found: Any) -> float | None:
    try:
        return float(found["zh_to_en"]["R@1"])
    except (KeyError, TypeError):
        return None


def encode(clip: Any, text: str) -> torch.Tensor:
    """(1, T, D) conditioning of a prompt, as the stock CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def same_width(vectors: torch.Tensor, width: int) -> torch.Tensor:
    """The clip's vectors, if they are as wide as the encoder's. Raises ValueError."""
    if vectors.shape[-1] != width:
        raise ValueError(
            f"clip gives a conditioning {vectors.shape[-1]} wide and the encoder one of {width}: connect the CLIP of a "
            "checkpoint of the kind that the encoder was aligned to."
        )
    return vectors


def content_vectors(clip: Any, texts: list[str]) -> torch.Tensor:
    """(N, D) sentence vectors: the mean of the unit vectors at a text's own positions, start and end included.

    It is what the trainer's retrieval figures are of. Raises ValueError for a CLIP of more than one text encoder.
    """
    progress = comfy.utils.ProgressBar(len(texts))
    vectors = []
    for begin in range(0, len(texts), BATCH):
        comfy.model_management.throw_exception_if_processing_interrupted()
        some = [clip.tokenize(text) for text in texts[begin : begin + BATCH]]
        if list(some[0]) != ["l"]:
            raise ValueError(
                f"clip has the text encoders {', '.join(some[0])}; connect a Stable Diffusion 1.5 checkpoint's CLIP."
            )
        vectors += _vectors(clip, [tokens["l"] for tokens in some])
        progress.update(len(some))
    return torch.stack(vectors)


def _vectors(clip: Any, texts: list[list[list[tuple[Any, ...]]]]) -> list[torch.Tensor]:
    """A sentence vector of each text's windows, all windows encoded at once."""
    windows = [window for text in texts for window in text]
    z = clip.encode_from_tokens({"l": windows}).float().cpu()
    z = torch.nn.functional.normalize(z, dim=-1).reshape(len(windows), -1, z.shape[-1])  # (windows, W, D)
    end = clip.tokenizer.clip_l.end_token
    own = iter(one[: [pair[0] for pair in window].index(end) + 1] for one, window in zip(z, windows))
    return [torch.cat([next(own) for _ in text]).mean(dim=0) for text in texts]


def nearest(clip: Any, text: str, reader: Any, captions: list[str]) -> list[tuple[str, float]]:
    """The captions nearest to the prompt with their cosines, best first.

    `reader` encodes the captions. All vectors are centred on the captions' mean: what every text has in common says
    nothing. Raises ValueError for fewer than two captions, whose mean would be the caption itself.
    """
    if len(captions) < 2:
        raise ValueError("captions holds one caption: give two or more, one a line, to compare the prompt with.")
    asked = content_vectors(clip, [text])  # (1, D)
    bank = same_width(content_vectors(reader, captions), asked.shape[-1])  # (N, D)
    centre = bank.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(asked - centre, bank - centre, dim=1)
    best = cosine.topk(min(NEAREST, len(captions)))
    return [(captions[i], float(value)) for value, i in zip(best.values, best.indices)]
