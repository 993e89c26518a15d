"""The processes of a launcher, the device they compute on, and free disk space."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
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


def free_bytes(path: Path) -> int:
    """Free space in bytes on the disk of a path that may not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
