"""The weights of the best dev skill so far, kept beside those that learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class Best:
    """The best weights, the step they are of, and how many scorings since then were no better."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    skill: float = -math.inf
    step: int = 0
    waited: int = 0

    def judge(self, weights: Mapping[str, torch.Tensor], skill: float, step: int) -> None:
        """Keep these weights when no earlier ones had a better dev skill."""
        if skill > self.skill:
            self.skill, self.step, self.waited = skill, step, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            self.waited += 1

    def exhausted(self, patience: int | None) -> bool:
        """Whether the dev skill has not risen for so many scorings."""
        return patience is not None and self.waited >= patience
