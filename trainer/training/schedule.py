"""The number of steps, the learning rate of each, and the check for divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from ..base.errors import TrainerError
from ..base.recipe import TrainSettings

GRACE = 200  # steps after the warm-up before a loss above its start counts as divergence
RISE = 1.1  # times the first losses; small batches can stay at 1.02 times them for a while and still end well below
DECAY = 0.3  # share of the steps after the warm-up in which wsd's rate decays


class DivergedError(TrainerError):
    """Training that cannot succeed: the loss is NaN, or stays above its start."""


def total_steps(train: TrainSettings, rows: int) -> int:
    """Optimiser steps of a recipe over so many captions; 0 for ridge."""
    if train.strategy == "ridge":
        return 0
    if train.steps is not None:
        return train.steps
    return max(1, math.ceil(rows * train.epochs / train.batch))


def learning_rate(train: TrainSettings, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0."""
    if step < train.warmup:
        return train.lr * (step + 1) / (train.warmup + 1)
    if train.schedule == "constant":
        return train.lr
    passed = (step - train.warmup) / max(1, steps - train.warmup)  # share of the steps after the warm-up
    if train.schedule == "wsd":
        return train.lr * min(1.0, (1 - passed) / DECAY)
    return train.lr * 0.5 * (1 + math.cos(math.pi * passed))


def check_divergence(objectives: Sequence[float], step: int, train: TrainSettings) -> None:
    """Raise DivergedError if the last logged value is NaN, or the mean of the last ten well above the first three."""
    advice = f"lower --train.lr (now {train.lr:g}), lengthen --train.warmup ({train.warmup}) or set --train.clip"
    if not math.isfinite(objectives[-1]):
        raise DivergedError(f"the loss is {objectives[-1]} at step {step}: {advice}; earlier checkpoints are kept")
    first, last = fmean(objectives[:3]), fmean(objectives[-10:])
    if step > train.warmup + GRACE and last > RISE * first:
        raise DivergedError(f"at step {step} the loss is {last:.4f}, above {first:.4f} at the start: {advice}")
