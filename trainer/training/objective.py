"""Losses and their parts, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from zhclip.vectors import unit

ZONES = ("all", "position0", "content", "end", "pad")
TEMPERATURE = 0.05  # of the contrast


def cosine_loss(z: torch.Tensor, target: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """1 - cos(z, target) along the last dimension: (..., D), (..., D) -> (...), from 0 to 2. The paper's loss. With
    `widths` of several parts, the mean of theirs."""
    return 1 - (unit(z.float(), widths) * unit(target.float(), widths)).sum(dim=-1)


def zone_masks(lengths: torch.Tensor, window: int) -> dict[str, torch.Tensor]:
    """Which positions belong to which zone, by the teacher's lengths (B,): each (B, window) bool.

    position0 is the start; content what stands between start and end; end the end token; pad all behind it.
    """
    position = torch.arange(window, device=lengths.device)[None, :]
    end = (lengths.long() - 1)[:, None]
    return {
        "all": torch.ones_like(position < end),
        "position0": (position == 0).expand(len(lengths), -1),
        "content": (position > 0) & (position < end),
        "end": position == end,
        "pad": position > end,
    }


def contrast_loss(
    zh: torch.Tensor, en: torch.Tensor, centre: torch.Tensor, own: torch.Tensor, widths: Sequence[int] = ()
) -> torch.Tensor:
    """InfoNCE from Chinese to English: (B, D) sentence vectors among a step's (N, D), all less `centre` (D,) -> (B,).
    With `widths` of several parts, the mean of theirs: in a joint one the part that varies most would decide.

    `own` (B, N) bool marks the English of the same caption, more than once where a small corpus fills a step twice. The
    English side is constant, so a step split over passes or processes has the same gradient as a whole one.
    """
    losses = []
    sides = (side.split(tuple(widths) or (zh.shape[-1],), dim=-1) for side in (zh - centre, en.float() - centre))
    for some, others in zip(*sides):
        similarity = normalize(some, dim=-1) @ normalize(others, dim=-1).T / TEMPERATURE
        losses.append(similarity.logsumexp(dim=1) - similarity.masked_fill(~own, -torch.inf).logsumexp(dim=1))
    return torch.stack(losses).mean(dim=0)
