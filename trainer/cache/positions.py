"""Which positions of a caption are stored and trained on, and how much each counts.

Padding is masked as keys, so a padded query neither changes nor sees another position's output: leaving some out is
exact for all that remain. A caption keeps the positions of its text and a few of the padded ones behind it, drawn once
and weighted so that the mean over all positions stays unbiased.
"""

from __future__ import annotations

import torch


def keep(lengths: torch.Tensor, chance: torch.Tensor, pads: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of each caption in ascending order, one caption after another (sum of counts,), and counts (N,).

    lengths: (N,) positions that a caption's text takes. All of [0, length) are kept, and of the others the `pads` with
    the lowest `chance` (N, window), random numbers from 0 to 1; all others when pads is None.
    """
    window = chance.shape[1]
    counts = torch.full_like(lengths, window) if pads is None else (lengths + pads).clamp(max=window)
    text = torch.arange(window) < lengths[:, None]
    rank = chance.masked_fill(text, -1).argsort(dim=1).argsort(dim=1)
    return (rank < counts[:, None]).nonzero()[:, 1], counts


def shares(lengths: torch.Tensor, counts: torch.Tensor, window: int) -> torch.Tensor:
    """(B, P) how much each of a batch's kept positions counts; a caption's sum to 1. P is the largest count.

    A position of text stands for itself; a kept padded one for its share of all padded ones; what fills a caption up to
    the batch's largest count for nothing.
    """
    at, lengths, counts = torch.arange(int(counts.max()), device=counts.device), lengths[:, None], counts[:, None]
    padded = (window - lengths) / (counts - lengths).clamp(min=1)
    return torch.where(at < lengths, 1.0, padded).masked_fill(at >= counts, 0.0) / window
