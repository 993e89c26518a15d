"""The processes of a launcher, and the device they compute on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from zhclip.device import best_precision, matmul_precision, usable_gpu

from .recipe import SettingsError

if TYPE_CHECKING:
    from accelerate import PartialState

WAIT = timedelta(days=7)  # of processes for the main one, which scores and exports alone


def processes() -> PartialState:
    """This process among those that a launcher (`accelerate launch`, `torchrun`) started, if any, and its device."""
    from accelerate import PartialState

    # Without a GPU, gloo joins a launcher's processes only if `cpu` is set.
    return PartialState(cpu=not usable_gpu(), timeout=WAIT)


def use_device(setting: str) -> None:
    """Choose the device of this process's stages by --device: auto, cpu or cuda. Raises SettingsError."""
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    if setting == "cuda" and not usable_gpu():
        raise SettingsError(f"--device cuda: {gpu_problem() or 'torch finds no NVIDIA GPU'}")
    cpu = setting == "cpu" or not usable_gpu()
    if PartialState._shared_state and (processes().device.type == "cpu") != cpu:  # it keeps one device a process
        AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=cpu, timeout=WAIT)
    if sys.platform == "win32" and not cpu:
        limit_gpu_memory()


def limit_gpu_memory() -> None:
    """Let torch fail beyond the memory that is free now. Windows' driver would continue in main memory, so slowly that
    a smaller batch, which an error leads to, is better."""
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((free + torch.cuda.memory_reserved()) / total)


@contextmanager
def single_process() -> Iterator[None]:
    """In this block this process counts as the only one, for work during which those of a launcher wait for it."""
    from accelerate import DistributedType

    shared = processes()._shared_state
    before = dict(shared)
    shared.update(num_processes=1, process_index=0, local_process_index=0, distributed_type=DistributedType.NO)
    try:
        yield
    finally:
        shared.clear()
        shared.update(before)


def default_device() -> str:
    """The device of this process's stages: `cuda`, `cuda:1` for the second process of a launcher, or `cpu`."""
    return str(processes().device)


def gpu_problem() -> str | None:
    """Why this machine's GPU is not used, and what to install; None without a GPU or with a usable one."""
    install = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"
    if usable_gpu():
        return None
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        index = "cu126" if (major, minor) < (7, 5) else "cu128"  # CUDA 12.6 is the last with Maxwell, Pascal and Volta
        name = torch.cuda.get_device_name()
        return f"torch {torch.__version__} is not built for {name} (sm_{major}{minor}): {install}{index}"
    if torch.backends.mps.is_available() or torch.xpu.is_available():
        return "the CPU is used, since the trainer has been tried on NVIDIA and ROCm GPUs alone"
    if shutil.which("nvidia-smi") is None:
        return None
    if torch.version.cuda is None:
        return f"an NVIDIA driver is found, but torch {torch.__version__} is built without CUDA: {install}cu126"
    hidden = "unless CUDA_VISIBLE_DEVICES hides the GPU, update the driver"
    return f"an NVIDIA driver is found, but torch {torch.__version__} cannot use it: {hidden}, or {install}cu126"


def rounded_positions(count: int, device: torch.device) -> int:
    """A number of positions, on a GPU rounded up to a multiple of 8: cuDNN plans its attention for each new shape."""
    return count if device.type == "cpu" else -(-count // 8) * 8


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch reports that memory is used up: main memory, or a GPU's by its allocator, the driver or cuBLAS."""
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in words)


@contextmanager
def teacher_precision(device: torch.device) -> Iterator[None]:
    """Arithmetic of the teacher: fp16 where it is the best precision, else TF32 where there is one, else fp32.

    Mean 1 - cos of all-MiniLM-L6-v2's targets: fp16 3.3e-7, TF32 2.4e-7. Weights rounded to fp16 alone: 4.0e-7. The
    student stays in TF32 or fp32: fp16 turns its states by 1.1e-7, and rounding its weights by 3e-8.
    """
    half = best_precision(device.type == "cuda") == "fp16"
    with matmul_precision("high"), torch.autocast(device.type, torch.float16) if half else nullcontext():
        yield
