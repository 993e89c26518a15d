"""Losses and their parts, as pure functions of tensors."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

ZONES = ("all", "position0", "content", "end", "pad")


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of the last dimension scaled to norm 1."""
    return normalize(x, dim=-1)


def cosine_loss(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - cos(z, target) along the last dimension: (B, W, D), (B, W, D) -> (B, W), from 0 to 2. The paper's loss."""
    return 1 - (unit(z.float()) * unit(target.float())).sum(dim=-1)


def zone_masks(lengths: torch.Tensor, window: int) -> dict[str, torch.Tensor]:
    """Which positions belong to which zone, by the teacher's lengths (B,): each (B, window) bool.

    position0 is the start; content what stands between start and end; end the end token; pad all behind it.
    """
    position = torch.arange(window)[None, :]
    end = (lengths.long() - 1)[:, None]
    return {
        "all": torch.ones(len(lengths), window, dtype=torch.bool),
        "position0": (position == 0).expand(len(lengths), -1),
        "content": (position > 0) & (position < end),
        "end": position == end,
        "pad": position > end,
    }
