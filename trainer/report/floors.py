"""The floors: predictors that need no training, against which every loss is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import normalize

from zhclip.structure import project

from ..cache.shards import Cache
from ..corpus.pairs import Pair
from ..models.student import Ridge
from ..models.teacher import Teacher

ORDINARY = ("constant", "nearest", "untrained", "ridge")


def answers(teacher: Teacher, pairs: list[Pair]) -> Callable[[list[int]], torch.Tensor]:
    """The teacher's output (N, W, D) for the English of the pairs at given indices, computed when asked for."""
    return lambda rows: teacher.encode([pairs[row].en for row in rows])[0].cpu()


@dataclass(frozen=True)
class Floors:
    """Predictors from a cache of other captions than those that are scored."""

    cache: Cache
    constant: torch.Tensor  # (W, D)
    ridge: Ridge
    centre: torch.Tensor  # (S,)
    targets: Callable[[list[int]], torch.Tensor]  # rows of the cache -> (N, W, D) at all positions
    pooled_ridge: Ridge | None

    @classmethod
    def of(cls, cache: Cache, penalty: float, targets: Callable[[list[int]], torch.Tensor] | None = None) -> Floors:
        """Solve them from the cache's sums. `targets`, when the cache does not keep all positions."""
        total = torch.stack([shard["pooled"].double().sum(dim=0) for shard in cache.shards]).sum(dim=0)
        centre = (total / len(cache)).float()
        targets = targets or partial(cache.rows, "target")
        return cls(cache, cache.constant(), cache.ridge(penalty), centre, targets, cache.projected_ridge(penalty))

    def nearest(self, pooled: torch.Tensor) -> list[int]:
        """(N, S) sentence vectors of the untrained student -> for each the caption here that lies nearest to it.

        Shard by shard: a copy of all sentence vectors would be the one thing in memory that grows with the corpus.
        """
        centred = normalize(pooled - self.centre, dim=-1)
        best = torch.full((len(pooled),), -torch.inf)
        row_of = torch.zeros(len(pooled), dtype=torch.long)
        first = 0
        for shard in self.cache.shards:
            likeness, row = (centred @ normalize(shard["pooled"] - self.centre, dim=-1).T).max(dim=1)
            row_of = torch.where(likeness > best, first + row, row_of)
            best = torch.maximum(likeness, best)
            first += len(shard["pooled"])
        return row_of.tolist()

    def predict(self, untrained: torch.Tensor, nearest: list[int]) -> dict[str, torch.Tensor]:
        """(B, W, S) untrained output and each caption's `nearest` one here -> (B, W, D) by predictor.

        `nearest` is the target of the training caption whose Chinese lies nearest by the untrained student.
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
        """(B, S) untrained output at the first position and each caption's `nearest` one here -> pooled vectors (B, G)
        by predictor; none without the teacher's."""
        constant, ridge = self.cache.projected_constant(), self.pooled_ridge
        predictions = {
            "constant": constant.expand(len(first), -1),
            "nearest": self.cache.rows("projected", nearest).float(),
        }
        if ridge is not None:
            predictions["ridge"] = project(first, ridge.weight, ridge.bias)
        return predictions
