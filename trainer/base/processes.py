"""Which of a launcher's processes this is, and the device that it computes on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState


def processes(patience: timedelta = timedelta(hours=12)) -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started; alone without them. `patience`: how long
    one waits for another that does what only one can do, such as scoring. The first call's counts."""
    from accelerate import PartialState  # half a second, which --help need not wait for

    # Without a GPU, gloo joins the processes of a launcher only where the CPU is asked for.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=patience)


def default_device() -> str:
    """The first CUDA device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bf16() -> bool:
    """Whether the default device multiplies in bf16 itself; where it does not, bf16 is slower than fp32."""
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether the CPU has the bf16 instructions."""
    # get_capabilities came after torch 2.4
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16"))
