"""Calibration: a closed-form correction of an encoder's projection towards another CLIP than its teacher.

With x the student's hidden state at a position, z = W x + b its present vector and y the checkpoint's, the target is y
scaled to the norm of z, which the loss 1 - cos leaves free. The residual r = |z| y / |y| - z is fitted on x by ridge
regression (ridge.py): W' = W + M, b' = b + d. The penalty is on the correction, so that where the pairs tell little the
encoder stays as it was. It is chosen, and the result evaluated, on pairs of another style than those that are fitted,
since prompts are of many styles (docs/calibrate.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .positions import Batch
from .ridge import RidgeSums, choose_penalty, solve
from .structure import Structure
from .vectors import centred_similarity, norms, recall, scaled, sentence_vector, standardise, unit

EVALUATE, CHOOSE, FIT = "evaluate", "choose", "fit"  # uses of a batch: evaluation, choice of the penalty, regression


class LayerFit:
    """The calibration of what follows one of the student's layers.

    `old` is the present structure: projection, position 0 and moments, without norms, which no cosine sees. `empty`
    (W, D) is the CLIP's empty prompt, whose first vector is stored and not fitted, since a causal CLIP gives it for
    every prompt, unless `constant_first` is False. Where `old` standardises, the fit and all figures are of
    standardised vectors.
    """

    def __init__(self, old: Structure, empty: torch.Tensor, constant_first: bool = True) -> None:
        window, width = empty.shape
        hidden = width if old.proj_weight is None else old.proj_weight.shape[1]
        self.old, self.new, self.constant_first = old.standardised(), Structure(), constant_first
        self.mean, self.std, self.widths = old.mean, old.std, old.widths
        self.empty = standardise(empty.clone(), self.mean, self.std)  # a file holds no tensor twice
        self.sums = {use: RidgeSums.zeros(window, hidden, width) for use in (FIT, CHOOSE)}
        self.held_out: list[tuple[torch.Tensor, torch.Tensor, Batch]] = []
        self.count = torch.zeros(window, 1, dtype=torch.float64)
        self.norm_sum = torch.zeros(window, max(1, len(old.widths)), dtype=torch.float64)
        self.unit_sum = torch.zeros(window, width, dtype=torch.float64)
        self.penalty = 0.0
        self.before, self.after, self.constant = (PairScore(old.widths) for _ in range(3))

    def add(self, use: str, x: torch.Tensor, y: torch.Tensor, batch: Batch) -> None:
        """Add a batch's hidden states (B, P, S) and the CLIP's vectors (B, P, D), fp32, for one of the uses."""
        y = standardise(y, self.mean, self.std)
        if use == EVALUATE:
            self.held_out.append((x, y, batch))
            return
        count, weights = x.shape[1], batch.weights[:, :, None]
        self.count[:count] += weights.double().sum(dim=0)
        self.norm_sum[:count] += (norms(y, self.widths) * weights).double().sum(dim=0)
        self.unit_sum[:count] += (unit(y, self.widths) * weights).double().sum(dim=0)
        positions = torch.arange(count).expand(len(x), count)
        fitted = batch.weights * (positions > 0) if self.constant_first else batch.weights
        self.sums[use].add(x.double(), residual(self.old, x, y).double(), positions, fitted)

    def solve(self) -> None:
        """Set `new`, the calibrated structure, and evaluate it and `old` on the pairs for evaluation."""
        old, position0 = self.old, self.empty[0].clone() if self.constant_first else None
        self.penalty = choose_penalty(self.sums[FIT], self.sums[CHOOSE])
        weight, bias = solve(self.sums[FIT].merge(self.sums[CHOOSE]), self.penalty)
        weight = weight + (torch.eye(*weight.shape) if old.proj_weight is None else old.proj_weight)
        bias = bias if old.proj_bias is None else bias + old.proj_bias
        projection = Structure(weight.float(), bias.float(), position0, widths=self.widths)
        norm_table, constant = (self.norm_sum / self.count).float(), (self.unit_sum / self.count).float()
        self.new = replace(projection, empty=self.empty, norms=norm_table).restored(self.mean, self.std)
        for x, y, batch in self.held_out:
            self.before.add(old.apply(x), y, batch)
            self.after.add(projection.apply(x), y, batch)
            self.constant.add(constant[: batch.positions].expand_as(y), y, batch)

    def improves(self, gain: float) -> bool:
        """Whether the loss falls by more than that share of itself."""
        return self.after.loss() < (1 - gain) * self.before.loss()

    def figures(self) -> dict[str, Any]:
        """Loss and recall before and after, for the file's report."""
        loss = {"before": self.before.loss(), "after": self.after.loss(), "constant": self.constant.loss()}
        at_1 = {"before": self.before.recall(), "after": self.after.recall()}
        return {"loss": loss, "R@1 zh_to_en": at_1, "penalty": self.penalty}


def residual(old: Structure, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """r above: hidden states (B, P, S) and the CLIP's vectors (B, P, D) -> (B, P, D)."""
    z = old.apply(x)
    return scaled(y, norms(z, old.widths), old.widths) - z


@dataclass
class PairScore:
    """The mean of 1 - cos over all positions, and R@1 by sentence vectors, as in trainer/report."""

    widths: tuple[int, ...] = ()
    total: float = 0.0
    count: float = 0.0
    zh: list[torch.Tensor] = field(default_factory=list)
    en: list[torch.Tensor] = field(default_factory=list)

    def add(self, z: torch.Tensor, y: torch.Tensor, batch: Batch) -> None:
        """Add the encoder's vectors (B, P, D) and the CLIP's (B, P, D) of a batch."""
        cosine = (unit(z, self.widths) * unit(y, self.widths)).sum(dim=-1)
        self.total += float(((1 - cosine) * batch.weights).sum())
        self.count += float(batch.weights.sum())
        self.zh.append(sentence_vector(z, batch.mask("zh"), self.widths))
        self.en.append(sentence_vector(y, batch.mask("en"), self.widths))

    def loss(self) -> float:
        """The loss, 0 to 2."""
        return self.total / self.count

    def recall(self) -> float:
        """Share of the Chinese texts whose own English one is the nearest; ties count against."""
        return recall(centred_similarity(torch.cat(self.zh), torch.cat(self.en)))
