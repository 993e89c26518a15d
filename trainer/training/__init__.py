"""Gradient descent from the ridge map towards the cached targets: the loop, its loss and its checkpoints. It hands on
`trained_student`."""

from . import checkpoint, kv, opening
from .batches import ROWS, Captions, Piece
from .loss import Loss
from .objective import ZONES, cosine_loss, zone_masks
from .opening import check_settings, precision, trained_student
from .schedule import DivergedError, total_steps
from .stage import clip_gradient, run

__all__ = [
    "ROWS",
    "ZONES",
    "Captions",
    "DivergedError",
    "Loss",
    "Piece",
    "check_settings",
    "checkpoint",
    "clip_gradient",
    "cosine_loss",
    "kv",
    "opening",
    "precision",
    "run",
    "total_steps",
    "trained_student",
    "zone_masks",
]
