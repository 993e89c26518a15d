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


def best_precision() -> str:
    """Accelerate's name of the fastest precision that the default device computes in: bf16, fp16, or no for fp32."""
    if not torch.cuda.is_available():
        return "bf16" if cpu_has_bf16() else "no"
    return "bf16" if torch.version.hip else precision_of(torch.cuda.get_device_capability())


def precision_of(capability: tuple[int, int]) -> str:
    """The same of an NVIDIA GPU by its compute capability.

    Before Ampere (8.0) bf16 is emulated, though torch.cuda.is_bf16_supported() counts it. Volta and Turing (7.x: V100,
    T4, RTX 20) are fast in fp16, which needs a gradient scaler; most older ones are slower in it than in fp32.
    """
    return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "no"


def has_bf16() -> bool:
    """Whether the default device multiplies in bf16 itself; where it does not, bf16 is slower than fp32."""
    return best_precision() == "bf16"


def cpu_has_bf16() -> bool:
    """Whether the CPU has the bf16 instructions."""
    # get_capabilities came after torch 2.4
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16"))


def free_bytes(path: Path) -> int:
    """Free space in bytes on the disk of a path that may not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
