"""Which of a launcher's processes this is, and the device that it computes on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started; alone without them."""
    from accelerate import PartialState  # half a second, which --help need not wait for

    # Waiting for a process that does what only one can do, such as scoring, may take long.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


def default_device() -> str:
    """The first CUDA device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
