"""Gradient descent from the ridge map towards the cached targets: the loop, its loss and its checkpoints. It hands on
`trained_student`."""

from . import checkpoint, kv, opening
from .batches import ROWS
from .loss import Loss
from .objective import ZONES, cosine_loss, zone_masks
from .opening import trained_student
from .schedule import DivergedError
from .stage import clip_gradient, run
