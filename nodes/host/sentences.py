"""Sentence vectors of any CLIP with one text encoder."""

from __future__ import annotations

from typing import Any

import torch

from .progress import steps

BATCH = 16


def sentence_vectors(clip: Any, texts: list[str]) -> torch.Tensor:
    """(N, D): of each text the mean of the unit vectors at its own positions, start and end included.

    It is what the trainer's retrieval figures are of. Raises ValueError for a CLIP of more than one text encoder.
    """
    vectors = []
    for begin in steps(range(0, len(texts), BATCH)):
        tokens = [clip.tokenize(text) for text in texts[begin : begin + BATCH]]
        if list(tokens[0]) != ["l"]:
            raise ValueError(
                f"clip has the text encoders {', '.join(tokens[0])}; connect a Stable Diffusion 1.5 checkpoint's CLIP."
            )
        vectors += _vectors(clip, [one["l"] for one in tokens])
    return torch.stack(vectors)


def _vectors(clip: Any, texts: list[list[list[tuple[Any, ...]]]]) -> list[torch.Tensor]:
    """A sentence vector of each text's windows, all windows encoded at once."""
    windows = [window for text in texts for window in text]
    z = clip.encode_from_tokens({"l": windows}).float().cpu()
    z = torch.nn.functional.normalize(z, dim=-1).reshape(len(windows), -1, z.shape[-1])  # (windows, W, D)
    end = clip.tokenizer.clip_l.end_token
    own = iter(one[: [pair[0] for pair in window].index(end) + 1] for one, window in zip(z, windows))
    return [torch.cat([next(own) for _ in text]).mean(dim=0) for text in texts]
