"""Does a caption find its own translation among all that are scored?"""

from __future__ import annotations

import torch

from zhclip.vectors import centred_similarity, recall

RANKS = (1, 5, 10)
SIDES = ("zh_to_en", "en_to_zh")


def recalls(similarity: torch.Tensor) -> dict[str, dict[str, float]]:
    """(N, N) zh by en -> R@k in both directions."""
    by_side = zip(SIDES, (similarity, similarity.T))
    return {side: {f"R@{k}": recall(own, k) for k in RANKS} for side, own in by_side}


def retrieval(zh: torch.Tensor, en: torch.Tensor) -> dict[str, dict[str, float]]:
    """(N, D) sentence vectors of both sides -> R@k in both directions."""
    return recalls(centred_similarity(zh, en))


def neighbours(similarity: torch.Tensor) -> torch.Tensor:
    """(N, N) -> (N,): the column most alike to each row beside its own."""
    own = torch.eye(len(similarity), dtype=torch.bool)
    return similarity.masked_fill(own, -torch.inf).argmax(dim=1)
