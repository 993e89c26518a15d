"""Calibration: a closed-form correction of an encoder's projection towards another CLIP than its teacher. Pure tensors.

A fine-tuned checkpoint's CLIP answers a little differently from the CLIP that the encoder was aligned to. Let x be the
student's hidden state at a position, z = W x + b its vector by the projection as it stands, y the checkpoint's vector.
The loss, 1 - cos, leaves the norm of z free, so the goal at that position is y scaled to the norm of z, and what is
missing is r = |z| y / |y| - z. The correction is a ridge regression (ridge.py) of r on x, the one that trainer/cache.py
solves for its start, with the penalty on the correction and not on the map: W' = W + D, b' = b + d, and pairs that say
nothing leave the encoder as it was. With a projection of zeros it is the trainer's ridge to unit targets.

The pairs are of one style and prompts are not, so a penalty chosen on more of the same pairs is too small. It is to be
chosen, and the result judged, on pairs that were written otherwise than those that are fitted (docs/calibrate.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .positions import Batch
from .ridge import RidgeSums, choose_penalty, solve
from .structure import Structure
from .vectors import centred_similarity, norms, recall, scaled, sentence_vector, standardise, unit

JUDGE, CHOOSE, FIT = "judge", "choose", "fit"  # what a batch of pairs is for


class Layer:
    """One of the student's layers: what follows it now, what batches of pairs say of it, and what shall follow it.

    `now` is its projection and its vector of position 0, without the norms, which no cosine sees. `empty` (W, D) is the
    CLIP's empty prompt, of which the first vector is that of every prompt: CLIP is causal, so its first position sees
    itself alone. That position is stored and takes no part in the fit, unless `constant_first` is False. Where `now`
    standardises, the fit and all figures are of standardised vectors; of a vector of parts, of each part's own norm.
    """

    def __init__(self, now: Structure, empty: torch.Tensor, constant_first: bool = True) -> None:
        window, width = empty.shape
        hidden = width if now.proj_weight is None else now.proj_weight.shape[1]
        self.now, self.new, self.constant_first = now.standardised(), Structure(), constant_first
        self.mean, self.std, self.widths = now.mean, now.std, now.widths
        self.empty = self.standardised(empty.clone())  # a file holds no tensor twice
        self.fitted, self.chooser = (RidgeSums.zeros(window, hidden, width) for _ in range(2))
        self.held: list[tuple[torch.Tensor, torch.Tensor, Batch]] = []
        self.count = torch.zeros(window, dtype=torch.float64)
        self.norm = torch.zeros(window, max(1, len(now.widths)), dtype=torch.float64)
        self.unit = torch.zeros(window, width, dtype=torch.float64)
        self.penalty = 0.0
        self.before, self.after, self.constant = (Evaluation(now.widths) for _ in range(3))

    def standardised(self, y: torch.Tensor) -> torch.Tensor:
        """The CLIP's own vectors (..., D) as the fit sees them."""
        return standardise(y, self.mean, self.std)

    def add(self, use: str, x: torch.Tensor, y: torch.Tensor, batch: Batch) -> None:
        """A batch's states (B, P, S) and the CLIP's vectors (B, P, D), of the first P positions, fp32.

        Those that JUDGE are kept; those that CHOOSE the penalty join the others when it is chosen.
        """
        y = self.standardised(y)
        if use == JUDGE:
            self.held.append((x, y, batch))
            return
        p, weights = x.shape[1], batch.weights
        self.count[:p] += weights.double().sum(dim=0)
        self.norm[:p] += (norms(y, self.widths) * weights[:, :, None]).double().sum(dim=0)
        self.unit[:p] += (unit(y, self.widths) * weights[:, :, None]).double().sum(dim=0)
        if self.constant_first:
            weights = weights.clone()
            weights[:, 0] = 0
        sums = self.chooser if use == CHOOSE else self.fitted
        positions = torch.arange(p).expand(len(x), p)
        sums.add(x.double(), missing(self.now, x, y).double(), positions, weights)

    def solve(self) -> None:
        """Set `new`, what shall follow the layer, and evaluate it and `now` on the pairs that judge."""
        self.penalty = choose_penalty(self.fitted, self.chooser)
        weight, bias = solve(self.fitted.merge(self.chooser), self.penalty)
        now, position0 = self.now, self.empty[0].clone() if self.constant_first else None
        old = torch.eye(*weight.shape) if now.proj_weight is None else now.proj_weight
        weight = (old.double() + weight).float()
        bias = (bias if now.proj_bias is None else now.proj_bias + bias).float()
        table = (self.norm / self.count[:, None]).float()
        made = Structure(weight, bias, position0, self.empty, table if self.widths else table[:, 0], widths=self.widths)
        self.new = made.restored(self.mean, self.std)
        constant = (self.unit / self.count[:, None]).float()  # the direction of the best constant predictor
        for x, y, batch in self.held:
            self.before.add(now.apply(x), y, batch)
            self.after.add(Structure(weight, bias, position0).apply(x), y, batch)
            self.constant.add(constant[: batch.positions].expand_as(y), y, batch)

    def helps(self, gain: float) -> bool:
        """Whether the loss falls by more than that share of itself."""
        return self.after.loss() < (1 - gain) * self.before.loss()

    def figures(self) -> dict[str, Any]:
        """For the file's report."""
        loss = {"before": self.before.loss(), "after": self.after.loss(), "constant": self.constant.loss()}
        recall = {"before": self.before.recall(), "after": self.after.recall()}
        return {"loss": loss, "R@1 zh_to_en": recall, "penalty": self.penalty}


def missing(now: Structure, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """r of the module's text: states (B, P, S) and the CLIP's vectors (B, P, D) -> (B, P, D)."""
    z = now.apply(x)
    return scaled(y, norms(z, now.widths), now.widths) - z


@dataclass
class Evaluation:
    """How near vectors come to the CLIP's: mean of 1 - cos over all positions, and retrieval, by trainer/evaluate.py's
    rules. `widths` of their parts."""

    widths: tuple[int, ...] = ()
    total: float = 0.0
    count: float = 0.0
    zh: list[torch.Tensor] = field(default_factory=list)
    en: list[torch.Tensor] = field(default_factory=list)

    def add(self, z: torch.Tensor, y: torch.Tensor, batch: Batch) -> None:
        """Vectors (B, P, D) and the CLIP's (B, P, D) of a batch of the held-out pairs."""
        cosine = (unit(z, self.widths) * unit(y, self.widths)).sum(dim=-1)
        self.total += float(((1 - cosine) * batch.weights).sum())
        self.count += float(batch.weights.sum())
        self.zh.append(sentence_vector(z, batch.mask("zh"), self.widths))
        self.en.append(sentence_vector(y, batch.mask("en"), self.widths))

    def loss(self) -> float:
        """The loss, 0 to 2."""
        return self.total / self.count

    def recall(self) -> float:
        """Share of the Chinese texts whose own English one is the nearest, both sides centred; ties count against."""
        return recall(centred_similarity(torch.cat(self.zh), torch.cat(self.en)))
