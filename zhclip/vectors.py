"""Vectors of one or several parts: norms, unit vectors, standardisation, sentence vectors and retrieval.

SDXL's conditioning is two CLIPs' hidden states side by side. `widths` are the widths of such parts, which sum to D; an
empty sequence stands for one part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize


def _parts(x: torch.Tensor, widths: Sequence[int]) -> tuple[torch.Tensor, ...]:
    return x.split(tuple(widths) or (x.shape[-1],), dim=-1)


def norms(x: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """The norm of each part: (..., D) -> (..., P)."""
    return torch.stack([part.norm(dim=-1) for part in _parts(x, widths)], dim=-1)


def scaled(x: torch.Tensor, lengths: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """Each part of x (..., D) scaled to the norm given in `lengths` (..., P) -> (..., D)."""
    parts = zip(_parts(x, widths), lengths.split(1, dim=-1))
    return torch.cat([normalize(part, dim=-1) * length for part, length in parts], dim=-1)


def unit(x: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """Each part of x (..., D) scaled to norm P ** -0.5, so that the whole has norm 1.

    The dot product of two such vectors is the mean of their parts' cosines: no part outweighs another by its norm.
    """
    if len(widths) < 2:
        return normalize(x, dim=-1)
    return scaled(x, x.new_full((len(widths),), len(widths) ** -0.5), widths)


def standardise(x: torch.Tensor, mean: torch.Tensor | None, std: torch.Tensor | None) -> torch.Tensor:
    """(x - mean) / std for x (..., D), mean and std (D,); x itself without them."""
    return x if mean is None or std is None else (x - mean.to(x)) / std.to(x)


def sentence_vector(x: torch.Tensor, mask: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """The mean of the unit vectors of x (B, W, D) where mask (B, W) is True -> (B, D); zeros where it is nowhere."""
    return (unit(x, widths) * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)


def centred_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosines (N, M) of a (N, D) and b (M, D), each centred on its own mean."""
    return normalize(a - a.mean(dim=0), dim=-1) @ normalize(b - b.mean(dim=0), dim=-1).T


def ranks(similarity: torch.Tensor) -> torch.Tensor:
    """Rank (N,) of each row's diagonal element in similarity (N, N), from 0 for the largest. Ties count against it, so
    that a constant predictor, to which all rows are equally similar, does not score."""
    return (similarity >= similarity.diagonal()[:, None]).sum(dim=1) - 1


def recall(similarity: torch.Tensor, k: int = 1) -> float:
    """R@k: the share of rows of similarity (N, N) whose diagonal element is among the k largest."""
    return float((ranks(similarity) < k).double().mean())
