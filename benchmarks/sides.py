"""Weighted words in one language, encoded once, from which every way of weighting is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.encoders import Student
from zhclip.emphasis import Row, combine, rows
from zhclip.tokens import Window

BATCH = 128


def encode(encoder: Student, todo: Sequence[Row]) -> Tensor:
    """Rows -> (rows, W, D)."""
    ids = torch.tensor([row.ids for row in todo])
    hidden = torch.tensor([[at in row.hidden for at in range(len(row.ids))] for row in todo])
    return torch.cat([encoder.encode_ids(*part) for part in zip(ids.split(BATCH), hidden.split(BATCH))])


def at_weight(windows: Sequence[Window], weight: float) -> list[Window]:
    """The windows with this weight where they have one other than 1."""
    return [replace(w, weights=[weight if x != 1.0 else 1.0 for x in w.weights]) for w in windows]


@dataclass(frozen=True)
class Side:
    """Windows of one weighted span each, their encodings with and without it, and the empty prompt's."""

    windows: list[Window]
    full: Tensor  # (N, W, D)
    without: Tensor  # (N, W, D)
    empty: Tensor  # (W, D)

    @classmethod
    def of(cls, encoder: Student, windows: list[Window]) -> Side:
        """Encode every window, and once more with its weighted tokens hidden."""
        full, without = encode(encoder, rows(windows)).chunk(2)
        return cls(windows, full, without, encoder.encode([""])[0])

    def by_contrast(self, weight: float) -> Tensor:
        """What the nodes compute."""
        return combine(torch.cat([self.full, self.without]), at_weight(self.windows, weight))

    def by_position(self, weight: float, windows: Sequence[Window] | None = None) -> Tensor:
        """(z - empty) * weight + empty at the positions of the weighted tokens, comfy.sd1_clip's rule for CLIP; or at
        those of other windows of the same length."""
        marked = torch.tensor([[x != 1.0 for x in window.weights] for window in windows or self.windows])
        return torch.where(marked[..., None], (self.full - self.empty) * weight + self.empty, self.full)

    def by_contrast_keeping_norms(self, weight: float) -> Tensor:
        """By contrast, then each vector scaled to the norm that it has without weights."""
        z = self.by_contrast(weight)
        return torch.nn.functional.normalize(z, dim=-1) * self.full.norm(dim=-1, keepdim=True)

    def by_contrast_keeping_mean_norm(self, weight: float) -> Tensor:
        """By contrast, then each window scaled as a whole to the mean norm that it has without weights."""
        z = self.by_contrast(weight)
        return z * (self.full.norm(dim=-1).mean(dim=1) / z.norm(dim=-1).mean(dim=1))[:, None, None]
