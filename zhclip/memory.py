"""An artifact in memory of its own, for a host that keeps it.

Mapped tensors, as `artifact.load` has them, end the process when the file is overwritten, and keep Windows from
replacing it. Most of the time goes into fresh memory, which other threads can wait for while a model is built.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import IO, Any

import torch

from .artifact import Artifact, DamagedArtifactError, assemble, check_tensors, mapped, read_meta

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}  # by safetensors' names
PORTIONS = 8  # more than threads, which then end together


def allot(path: str | os.PathLike[str], dtype: torch.dtype) -> tuple[Artifact, list[Callable[[], None]]]:
    """As `artifact.load`, but `bert` is of the given dtype and everything else fp32; and what fills `bert`, called by
    threads in any order, which raises DamagedArtifactError when the file has changed meanwhile. Raises as
    `artifact.load` does.
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
        fills: list[Callable[[], None]] = [
            functools.partial(_read, path, seen, start + int(portion.storage_offset()), portion)
            for portion in memory.tensor_split(PORTIONS)
        ]
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


def _read(path: str | os.PathLike[str], seen: tuple[int, ...], start: int, into: torch.Tensor) -> None:
    """Fill (n,) uint8 from byte `start` of the file on, which is still the one that was seen."""
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
