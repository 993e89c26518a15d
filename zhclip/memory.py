"""An artifact in memory of its own, for a host that keeps it.

`bert` may be of another dtype than the file's, which then never lies in memory as a whole. Most of the time goes into
fresh memory, which another thread can wait for while a model is built.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable

import torch

from .artifact import Artifact, assemble, check_finite, check_tensors, meta_of
from .io import fill, opened, unbuffered

BUFFER = 8 << 20  # bytes that are converted at once
PORTIONS = 20  # of the second half, so that two threads end together
POPULATE_WRITE = 23  # madvise's, of Linux 5.14 and later; Python has no name for it


def allot(path: str | os.PathLike[str], dtype: torch.dtype) -> tuple[Artifact, list[Callable[[], None]]]:
    """As `artifact.load`, but `bert` is of the given dtype and everything else fp32; and what fills `bert`, begun in
    this order by one thread or several, which raises DamagedArtifactError when the file has changed meanwhile. Raises
    as `artifact.load` does; whether `bert` is finite, `check_finite` says when it is filled.
    """
    with opened(path) as file:
        meta, entries = meta_of(file), file.entries
        check_tensors(path, meta, {name: entry[:2] for name, entry in entries.items()})
        bert = {name: entry for name, entry in entries.items() if name.startswith("bert.")}
        if all(entry.dtype == dtype and entry.begin % dtype.itemsize == 0 for entry in bert.values()):
            memory = torch.empty(max(entry.end for entry in bert.values()), dtype=torch.uint8)
            fills = _portions(path, file.identity, file.start, memory)
            own = {name: memory[e.begin : e.end].view(dtype).view(e.shape) for name, e in bert.items()}
        else:
            own = {name: torch.empty(entry.shape, dtype=dtype) for name, entry in bert.items()}
            fills = [
                functools.partial(_convert, path, file.identity, file.start + entry.begin, entry.dtype, own[name])
                for name, entry in bert.items()
            ]
        rest = {name: file.read(name) for name in entries if name not in bert}
    check_finite(path, rest)
    tokenizer_json = rest.pop("tokenizer_json").numpy().tobytes()
    own |= {name: tensor.to(torch.float32) for name, tensor in rest.items()}
    return assemble(path, meta, own, tokenizer_json), fills


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
    with unbuffered(path) as file:
        file.seek(start)
        fill(file, into, path, seen)


@torch.inference_mode()  # nodes run in it, their tensors may be written nowhere else, and a thread starts outside
def _convert(
    path: str | os.PathLike[str], seen: tuple[int, ...], start: int, stored: torch.dtype, into: torch.Tensor
) -> None:
    """Fill a tensor from byte `start` on, where it is stored in another dtype."""
    flat = into.view(-1)
    buffer = torch.empty(min(BUFFER, len(flat) * stored.itemsize), dtype=torch.uint8)
    with unbuffered(path) as file:
        file.seek(start)
        for part in flat.split(BUFFER // stored.itemsize):
            read = buffer[: len(part) * stored.itemsize]
            fill(file, read, path, seen)
            part.copy_(read.view(stored))
