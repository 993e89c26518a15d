"""The processes of a launcher, and the device they compute on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory is used up: a GPU's, by its allocator, the driver or cuBLAS, or main
    memory."""
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in words)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set torch's precision of fp32 matrix products, and restore the process's setting afterwards.

    "highest" is fp32. "high" lets GPUs that have TF32 round to it; all-MiniLM-L6-v2's targets then change by a mean
    1 - cos of 2.4e-7.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
