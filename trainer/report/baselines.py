"""Baselines: predictors without gradient descent, with which every loss is compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import normalize

from zhclip.structure import project

from ..cache.shards import POOLED, Cache
from ..corpus.pairs import Pair
from ..models.teacher import Teacher

Targets = Callable[[list[int]], torch.Tensor]


def teacher_targets(teacher: Teacher, pairs: list[Pair]) -> Targets:
    """A function from indices of the pairs to the teacher's output (N, W, D) for their English, computed per call."""
    return lambda rows: teacher.encode([pairs[row].en for row in rows])[0].cpu()


class Baselines:
    """Predictors from a cache of other captions than the scored ones, solved from its sums.

    penalty: of the ridge regression. targets: indices of the cache's captions -> targets (N, W, D), needed if the cache
    does not have all positions.
    """

    def __init__(self, cache: Cache, penalty: float, targets: Targets | None = None) -> None:
        self.cache, self.targets = cache, targets or partial(cache.rows, "target")
        self.constant = cache.constant()  # (W, D)
        self.ridge = cache.ridge(penalty)
        self.pooled_ridge = cache.ridge(penalty, POOLED) if cache.pooled_width else None
        total = torch.stack([shard["zh_sentence"].double().sum(dim=0) for shard in cache.shards]).sum(dim=0)
        self.centre = (total / len(cache)).float()  # (S,) mean sentence vector of the untrained student

    def nearest(self, vectors: torch.Tensor) -> list[int]:
        """For each sentence vector (N, S) of the untrained student, the row of the cache with the largest cosine.

        Shard by shard, so that memory does not grow with the corpus.
        """
        centred = normalize(vectors - self.centre, dim=-1)
        best, rows = torch.full((len(vectors),), -torch.inf), torch.zeros(len(vectors), dtype=torch.long)
        first = 0
        for shard in self.cache.shards:
            cosine, row = (centred @ normalize(shard["zh_sentence"] - self.centre, dim=-1).T).max(dim=1)
            rows = torch.where(cosine > best, first + row, rows)
            best = torch.maximum(cosine, best)
            first += len(shard["zh_sentence"])
        return rows.tolist()

    def predict(self, untrained: torch.Tensor, nearest: list[int]) -> dict[str, torch.Tensor]:
        """Predictions (B, W, D) by name, from the untrained student's output (B, W, S) and `nearest` of each caption.

        `untrained` itself is one only if it is as wide as the teacher's output.
        """
        predictions = {
            "constant": self.constant.expand(len(untrained), -1, -1),
            "nearest": self.targets(nearest).float(),
            "ridge": project(untrained, self.ridge.weight, self.ridge.bias),
        }
        if untrained.shape[-1] == self.constant.shape[-1]:
            predictions["untrained"] = untrained
        return predictions

    def predict_pooled(self, first: torch.Tensor, nearest: list[int]) -> dict[str, torch.Tensor]:
        """Predictions of pooled vectors (B, G), from the untrained student's output (B, S) at the first position."""
        predictions = {
            "constant": self.cache.constant(POOLED).expand(len(first), -1),
            "nearest": self.cache.rows("teacher_pooled", nearest).float(),
        }
        if self.pooled_ridge is not None:
            predictions["ridge"] = project(first, self.pooled_ridge.weight, self.pooled_ridge.bias)
        return predictions
