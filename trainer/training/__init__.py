"""Gradient descent from the ridge map towards the cached targets: the loop, its loss and its checkpoints. It hands on
`trained_student`."""

from . import checkpoint, opening
from .batches import Captions, Piece
from .loss import Loss
from .objective import cosine_loss, zone_masks
from .opening import check_settings, precision, trained_student
from .schedule import DivergedError, total_steps
from .stage import clip_gradient, run
