"""How long a training takes, how fast it learns at each step, and when it has gone wrong."""

from __future__ import annotations

import math
from statistics import fmean

from ..base.errors import TrainerError
from ..base.recipe import TrainSettings

SETTLE = 200  # steps after the warm-up before a loss above its start counts as divergence
# So far above it: behind a warm start from the closed form, small batches stood at 1.02 times its loss for a while, and
# one such run ended well below it.
ABOVE = 1.1
DECAY = 0.3  # share of the steps behind the warm-up in which wsd's rate falls


class DivergedError(TrainerError):
    """Training that went wrong: NaN, or a loss that stays above its start."""


def total_steps(train: TrainSettings, rows: int) -> int:
    """Optimiser steps of a recipe over so many captions; none for ridge."""
    if train.strategy == "ridge":
        return 0
    if train.steps is not None:
        return train.steps
    return max(1, math.ceil(rows * train.epochs / train.batch))


def rate(train: TrainSettings, step: int, steps: int) -> float:
    """Learning rate of one step, counted from 0."""
    if step < train.warmup:
        return train.lr * (step + 1) / (train.warmup + 1)
    if train.schedule == "constant":
        return train.lr
    progress = (step - train.warmup) / max(1, steps - train.warmup)
    if train.schedule == "wsd":
        return train.lr * min(1.0, (1 - progress) / DECAY)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


def check(losses: dict[str, list[float]], value: float, step: int, train: TrainSettings) -> None:
    """Raise DivergedError on NaN, or when the running mean of the last logged losses stays well above the first ones.

    `losses` is carried through checkpoints and changed here: its first three values, and the last ten.
    """
    advice = (
        f"lower --train.lr (now {train.lr:g}), lengthen --train.warmup (now {train.warmup}) "
        f"or set --train.clip (now {train.clip})"
    )
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step}: {advice}; checkpoints before it are kept")
    if len(losses["start"]) < 3:
        losses["start"].append(value)
    losses["recent"] = [*losses["recent"], value][-10:]
    start, recent = fmean(losses["start"]), fmean(losses["recent"])
    if step > train.warmup + SETTLE and recent > ABOVE * start:
        raise DivergedError(
            f"at step {step} the loss's running mean is {recent:.4f}, above its {start:.4f} at the start: {advice}"
        )
