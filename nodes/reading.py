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
FLOORS = ("constant", "nearest", "ridge", "untrained")


@dataclass(frozen=True)
class Token:
    """A token: the stretch of the prompt that it stands for, and whether the vocabulary has it."""

    text: str
    known: bool
    weight: float


@dataclass(frozen=True)
class Score:
    """A line of the file's report: mean cosine loss over all positions, and how often a caption finds its own."""

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
    losses = {"this encoder": report.get("loss"), **(report.get("floors") or {})}
    found = {"this encoder": report.get("retrieval"), **(report.get("floors_retrieval") or {})}
    return [
        Score(name, float(losses[name]["all"]), _recall(found.get(name)))
        for name in ("this encoder", *FLOORS)
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


def content_vector(clip: Any, text: str) -> torch.Tensor:
    """(D,) mean of the unit vectors at a text's own positions, start and end included, over all windows.

    It is what the trainer's retrieval figures are of. Raises ValueError for a CLIP whose windows are not those of one
    text encoder.
    """
    tokens = clip.tokenize(text)
    tokenizer = getattr(clip.tokenizer, "clip_l", None)
    if list(tokens) != ["l"] or tokenizer is None:
        raise ValueError(
            f"clip has the text encoders {', '.join(tokens)}; connect a Stable Diffusion 1.5 checkpoint's CLIP."
        )
    z = clip.encode_from_tokens_scheduled(tokens)[0][0].float()
    z = torch.nn.functional.normalize(z, dim=-1).reshape(len(tokens["l"]), -1, z.shape[-1])  # (windows, W, D)
    counts = [[pair[0] for pair in window].index(tokenizer.end_token) + 1 for window in tokens["l"]]
    return torch.cat([window[:count] for window, count in zip(z, counts)]).mean(dim=0)


def nearest(clip: Any, text: str, reader: Any, captions: list[str]) -> list[tuple[str, float]]:
    """The captions nearest to the prompt with their cosines, best first.

    `reader` encodes the captions. All vectors are centred on the captions' mean: what every text has in common says
    nothing. Raises ValueError for fewer than two captions, whose mean would be the caption itself.
    """
    if len(captions) < 2:
        raise ValueError("captions holds one caption: give two or more, one a line, to compare the prompt with.")
    progress = comfy.utils.ProgressBar(len(captions))
    vectors = []
    for caption in captions:
        comfy.model_management.throw_exception_if_processing_interrupted()
        vectors.append(content_vector(reader, caption))
        progress.update(1)
    bank = torch.stack(vectors).cpu()  # (N, D)
    centre = bank.mean(dim=0)
    asked = content_vector(clip, text).cpu() - centre
    cosine = torch.nn.functional.cosine_similarity(asked[None], bank - centre, dim=1)
    best = cosine.topk(min(NEAREST, len(captions)))
    return [(captions[i], float(value)) for value, i in zip(best.values, best.indices)]
