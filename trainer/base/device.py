"""The processes of a launcher, and the device they compute on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from zhclip.device import usable_gpu

from .recipe import SettingsError

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started, and its device; a single one without a
    launcher."""
    from accelerate import PartialState

    # Without a GPU, gloo joins the processes of a launcher only where the CPU is asked for. A process may wait for days
    # while another one does what is done once, such as scoring.
    return PartialState(cpu=not usable_gpu(), timeout=timedelta(days=7))


def use_device(setting: str) -> None:
    """Choose the device of this process's stages by --device: auto, cpu or cuda. Raises SettingsError."""
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    if setting == "cuda" and not usable_gpu():
        raise SettingsError(f"--device cuda: {gpu_problem() or 'torch finds no NVIDIA GPU'}")
    cpu = setting == "cpu" or not usable_gpu()
    if PartialState._shared_state and (processes().device.type == "cpu") != cpu:  # it keeps one device a process
        AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=cpu, timeout=timedelta(days=7))


def default_device() -> str:
    """The device of this process's stages: `cuda`, `cuda:1` for the second process of a launcher, or `cpu`."""
    return str(processes().device)


def gpu_problem() -> str | None:
    """Why torch cannot use this machine's NVIDIA GPU, and what to install; None without a GPU or with a usable one."""
    if usable_gpu():
        return None
    install = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        index = "cu126" if (major, minor) < (7, 5) else "cu128"  # CUDA 12.6 is the last with Maxwell, Pascal and Volta
        name = torch.cuda.get_device_name()
        return f"torch {torch.__version__} is not built for {name} (sm_{major}{minor}): {install}{index}"
    if shutil.which("nvidia-smi") is None:
        return None
    found = f"an NVIDIA driver is found, but torch {torch.__version__}"
    if torch.version.cuda is None:
        return f"{found} is built without CUDA: {install}cu126"
    return f"{found} cannot use it: unless CUDA_VISIBLE_DEVICES hides the GPU, update the driver, or {install}cu126"


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
