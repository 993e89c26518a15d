"""Weights that are kept beside those that learn: their moving average, and the best so far by dev skill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

Weights = Mapping[str, torch.Tensor]


@dataclass
class Kept:
    """What a run keeps. `decay` is the average's; None: there is none, and the weights themselves are what is kept."""

    decay: float | None
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_skill: float = -math.inf
    best_step: int = 0
    waited: int = 0

    @torch.no_grad()
    def follow(self, weights: Weights, step: int) -> None:
        """Take an optimiser step, counted from 1, into the average. Its decay grows from 0, so that the untrained start
        does not weigh on it."""
        if self.decay is None:
            return
        if not self.average:
            self.average = {name: tensor.detach().clone() for name, tensor in weights.items()}
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in weights.items():
            self.average[name].lerp_(tensor.detach(), 1 - decay)

    @contextmanager
    def applied(self, weights: Weights) -> Iterator[Weights]:
        """What is to be kept, in place of the weights that learn, for as long as the block lasts."""
        if not self.average:
            yield weights
            return
        learning = {name: tensor.detach().clone() for name, tensor in weights.items()}
        _put(weights, self.average)
        try:
            yield weights
        finally:
            _put(weights, learning)

    def judge(self, weights: Weights, skill: float, step: int) -> None:
        """Remember these weights when no earlier ones had a better dev skill."""
        if skill > self.best_skill:
            self.best_skill, self.best_step, self.waited = skill, step, 0
            self.best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            self.waited += 1

    def exhausted(self, patience: int | None) -> bool:
        """Whether the dev skill has not risen for so many scorings."""
        return patience is not None and self.waited >= patience


def _put(weights: Weights, values: Weights) -> None:
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(values[name])
