"""Gradient descent from the ridge map towards the cached targets: the loop, its loss and its checkpoints. It hands on
`trained_student`."""

from . import checkpoint, kv, stage
from .batches import ROWS
from .loss import Loss
from .objective import ZONES, cosine_loss, zone_masks
from .stage import DivergedError, cpu_has_bf16, run, trained_student

__all__ = [
    "ROWS",
    "ZONES",
    "DivergedError",
    "Loss",
    "checkpoint",
    "cosine_loss",
    "cpu_has_bf16",
    "kv",
    "run",
    "stage",
    "trained_student",
    "zone_masks",
]
