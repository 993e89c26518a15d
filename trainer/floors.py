"""What needs no gradient to come close: the predictors that every loss is read against."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zhclip.structure import project

from .cache import Cache
from .objective import unit
from .student import Ridge

ORDINARY = ("constant", "nearest", "untrained", "ridge")


@dataclass(frozen=True)
class Floors:
    """Predictors from a cache of other captions than those that are scored."""

    cache: Cache
    constant: torch.Tensor  # (W, D)
    ridge: Ridge
    centre: torch.Tensor  # (S,)

    @classmethod
    def of(cls, cache: Cache, penalty: float) -> Floors:
        """Solve them from the cache's sums."""
        total = torch.stack([shard["pooled"].double().sum(dim=0) for shard in cache.shards]).sum(dim=0)
        return cls(cache, cache.constant(), cache.ridge(penalty), (total / len(cache)).float())

    def nearest(self, pooled: torch.Tensor) -> list[int]:
        """(N, S) sentence vectors of the untrained student -> for each the caption here that lies nearest to it.

        Shard by shard: a copy of all sentence vectors would be the one thing in memory that grows with the corpus.
        """
        centred = unit(pooled - self.centre)
        best = torch.full((len(pooled),), -torch.inf)
        found = torch.zeros(len(pooled), dtype=torch.long)
        first = 0
        for shard in self.cache.shards:
            likeness, row = (centred @ unit(shard["pooled"] - self.centre).T).max(dim=1)
            found = torch.where(likeness > best, first + row, found)
            best = torch.maximum(likeness, best)
            first += len(shard["pooled"])
        return found.tolist()

    def predict(self, untrained: torch.Tensor, nearest: list[int]) -> dict[str, torch.Tensor]:
        """(B, W, S) untrained output and each caption's `nearest` one here -> (B, W, D) by predictor.

        `nearest` is the target of the training caption whose Chinese lies nearest by the untrained student.
        """
        predictions = {
            "constant": self.constant.expand(len(untrained), -1, -1),
            "nearest": self.cache.rows("target", nearest).float(),
            "ridge": project(untrained, self.ridge.weight, self.ridge.bias),
        }
        if untrained.shape[-1] == self.constant.shape[-1]:
            predictions["untrained"] = untrained
        return predictions
