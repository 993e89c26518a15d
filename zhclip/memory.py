"""An artifact in memory of its own, for a host that keeps it.

Mapped tensors, as `artifact.load` has them, end the process when the file is overwritten, and keep Windows from
replacing it. Most of the time goes into fresh memory, which another thread can wait for while a model is built.
"""

from __future__ import annotations

import ctypes
import functools
import json
import mmap
import os
import sys
from collections.abc import Callable
from typing import IO, Any

import torch

from .artifact import Artifact, assemble, check_tensors, mapped, read_meta
from .files import DamagedArtifactError

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}  # by safetensors' names
PORTIONS = 20  # of the second half, so that two threads end together
POPULATE_WRITE = 23  # madvise's, of Linux 5.14 and later; Python has no name for it


def allot(path: str | os.PathLike[str], dtype: torch.dtype) -> tuple[Artifact, list[Callable[[], None]]]:
    """As `artifact.load`, but `bert` is of the given dtype and everything else fp32; and what fills `bert`, begun in
    this order by one thread or several, which raises DamagedArtifactError when the file has changed meanwhile. Raises
    as `artifact.load` does.
    """
    meta = read_meta(path)
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start, seen = file.tell(), _identity(file)
    del header["__metadata__"]
    check_tensors(path, meta, {name: tuple(entry["shape"]) for name, entry in header.items()})
    bert = {name: header.pop(name) for name in list(header) if name.startswith("bert.")}
    if all(_is_stored_as(dtype, entry) for entry in bert.values()):
        memory = torch.empty(max(entry["data_offsets"][1] for entry in bert.values()), dtype=torch.uint8)
        fills = _portions(path, seen, start, memory)
        own = {name: _view(memory, entry, dtype) for name, entry in bert.items()}
    else:
        stored = mapped(path, list(bert))
        own = {name: torch.empty_like(tensor, dtype=dtype) for name, tensor in stored.items()}
        fills = [functools.partial(_convert, list(own.values()), list(stored.values()))]
    rest = mapped(path, list(header))
    tokenizer_json = rest.pop("tokenizer_json").numpy().tobytes()
    own |= {name: tensor.to(torch.float32, copy=True) for name, tensor in rest.items()}
    return assemble(meta, own, tokenizer_json), fills


def _is_stored_as(dtype: torch.dtype, entry: dict[str, Any]) -> bool:
    return DTYPES.get(entry["dtype"]) == dtype and entry["data_offsets"][0] % dtype.itemsize == 0


def _view(memory: torch.Tensor, entry: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    return memory[slice(*entry["data_offsets"])].view(dtype).view(entry["shape"])


def _identity(file: IO[bytes]) -> tuple[int, ...]:
    """What another file at the same path, or another content of the same file, differs in."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _portions(
    path: str | os.PathLike[str], seen: tuple[int, ...], start: int, memory: torch.Tensor
) -> list[Callable[[], None]]:
    """What reads the file from byte `start` on into (n,) uint8.

    The first half is read while a model is built: in one go, because between two reads a thread waits for Python's
    lock, and without `_populate`, which keeps every other thread from memory of its own.
    """
    half = len(memory) // 2
    portions = (memory[:half], *memory[half:].tensor_split(PORTIONS))
    return [
        functools.partial(_read, path, seen, start + int(portion.storage_offset()), portion, populate=at > 0)
        for at, portion in enumerate(portions)
    ]


def _populate(memory: torch.Tensor) -> None:
    """Have the system hand out (n,) uint8 of fresh memory at once: page by page, as it is written, reading takes a
    fifth longer. A system that does not know the request refuses it, and nothing is lost."""
    if sys.platform == "linux":
        start = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = max(0, memory.data_ptr() + len(memory) - start)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), POPULATE_WRITE)


def _read(path: str | os.PathLike[str], seen: tuple[int, ...], start: int, into: torch.Tensor, populate: bool) -> None:
    """Fill (n,) uint8 from byte `start` of the file on, which is still the one that was seen."""
    if populate:
        _populate(into)
    left = into.numpy().data
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(left)):
            left = left[count:]
        if left or _identity(file) != seen:  # weights of two files would be an encoder of neither
            raise DamagedArtifactError(
                path, "another file than a moment ago", "one that stays while it is read", "Load it again."
            )


@torch.inference_mode()  # nodes run in it, their tensors may be written nowhere else, and a thread starts outside
def _convert(own: list[torch.Tensor], stored: list[torch.Tensor]) -> None:
    # In one call, for each takes Python's lock, which a busy thread gives back every 5 ms.
    torch._foreach_copy_(own, stored)
