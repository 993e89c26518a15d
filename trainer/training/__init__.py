"""Gradient descent from the ridge map towards the cached targets: the loop, its loss and its checkpoints. It hands on
`trained_student`."""

from . import checkpoint, kv, opening
from .batches import ROWS
from .loss import Loss
from .objective import ZONES, cosine_loss, zone_masks
from .opening import trained_student
from .schedule import DivergedError
from .stage import clip_gradient, run

__all__ = [
    "ROWS",
    "ZONES",
    "DivergedError",
    "Loss",
    "checkpoint",
    "clip_gradient",
    "cosine_loss",
    "kv",
    "opening",
    "run",
    "trained_student",
    "zone_masks",
]
