"""The processes of a launcher, and the device they compute on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started; a single one without them."""
    from accelerate import PartialState

    # Without a GPU, gloo joins the processes of a launcher only where the CPU is asked for. A process may wait for days
    # while another one does what is done once, such as scoring.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))


def default_device() -> str:
    """The first CUDA device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
