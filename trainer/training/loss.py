"""What a step minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zhclip.vectors import sentence_vector

from ..base.recipe import TrainSettings
from ..cache.shards import Cache
from ..models.student import Student
from .objective import contrast_loss, cosine_loss

POOLED = 0.5  # weight of the pooled vector's loss beside that of all positions


@dataclass(frozen=True)
class Loss:
    """The terms of a recipe, with the constants that they need."""

    train: TrainSettings
    student: Student
    centre: torch.Tensor | None = None  # (D,) mean English sentence vector
    widths: tuple[int, ...] = ()  # of the targets' parts

    @classmethod
    def of(cls, cache: Cache, train: TrainSettings, student: Student, device: torch.device) -> Loss:
        """Read the constants from the cache."""
        centre = (cache.sums["en_pooled_sum"] / len(cache)).float().to(device) if train.contrast else None
        return cls(train, student, centre, cache.widths)

    def __call__(
        self, z: torch.Tensor, pooled: torch.Tensor | None, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The model's output (B, P, D), with (B, G) or None, and a batch -> scalars by name.

        `loss` is the plain cosine loss over all positions, the one to hold beside the floors; `objective` is what is
        minimised; the others are its parts before their weights.
        """
        train = self.train
        cosine = cosine_loss(z, batch["target"], self.widths)  # (B, P)
        terms = {"loss": (cosine.detach() * batch["drawn"]).sum(dim=1).mean()}
        objective = (cosine * batch["drawn"]).sum(dim=1).mean()
        if pooled is not None:
            terms["pooled"] = cosine_loss(pooled, batch["projected"]).mean()
            objective = objective + POOLED * terms["pooled"]
        if train.contrast and self.centre is not None:
            text = self.student.tokens.key_mask(batch["ids"])
            zh = sentence_vector(z, text, self.widths)
            terms["contrast"] = contrast_loss(zh, batch["en"], self.centre, batch["own"], self.widths).mean()
            objective = objective + train.contrast * terms["contrast"]
        return terms | {"objective": objective}
