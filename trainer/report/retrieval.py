"""Does a caption find its own translation among all that are scored?"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

RANKS = (1, 5, 10)
SIDES = ("zh_to_en", "en_to_zh")


def likeness(zh: torch.Tensor, en: torch.Tensor) -> torch.Tensor:
    """(N, D) sentence vectors of both sides -> (N, N) cosines, after each side is centred on its own mean."""
    return normalize(zh - zh.mean(dim=0), dim=-1) @ normalize(en - en.mean(dim=0), dim=-1).T


def ranks(similarity: torch.Tensor) -> torch.Tensor:
    """(N, N) -> (N,): how many others stand before each row's own. Ties count against: a constant predictor, to which
    all captions are equally near, must not score."""
    return (similarity >= similarity.diagonal()[:, None]).sum(dim=1) - 1


def recalls(similarity: torch.Tensor) -> dict[str, dict[str, float]]:
    """(N, N) zh by en -> R@k in both directions."""
    by_side = zip(SIDES, (ranks(similarity), ranks(similarity.T)))
    return {side: {f"R@{k}": float((rank < k).double().mean()) for k in RANKS} for side, rank in by_side}


def retrieval(zh: torch.Tensor, en: torch.Tensor) -> dict[str, dict[str, float]]:
    """(N, D) sentence vectors of both sides -> R@k in both directions."""
    return recalls(likeness(zh, en))


def neighbours(similarity: torch.Tensor) -> torch.Tensor:
    """(N, N) -> (N,): the column most alike to each row beside its own."""
    own = torch.eye(len(similarity), dtype=torch.bool)
    return similarity.masked_fill(own, -torch.inf).argmax(dim=1)
