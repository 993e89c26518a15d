"""Files that are there whole or not at all: tensors with a checksum, and text.

A file is written under a temporary name beside its own, flushed to the disk and renamed. The temporary name is always
the same, so what a killed run left behind is overwritten by the next one.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from .errors import TrainerError

CHECKSUM = "crc32"  # header key; crc32 read 2.2 GB/s where sha256 read 1.2, and chance is the enemy here, not a forger


class DamagedError(TrainerError):
    """A file of ours that is truncated, changed or of another kind; the message names it and the cure."""


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> None:
    """Write one safetensors file whole or not at all. Equal content gives equal bytes.

    The header's keys are sorted, which safetensors does not do, and a checksum of everything joins them.
    """
    packed = memoryview(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))
    size = int.from_bytes(packed[:8], "little")
    layout, data = json.loads(bytes(packed[8 : 8 + size])), packed[8 + size :]
    layout["__metadata__"] = dict(sorted((header or {}).items()))
    layout["__metadata__"][CHECKSUM] = _checksum(layout, data)
    text = json.dumps(layout, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at a multiple of 8 bytes
    with replacing(path) as file:
        for part in (len(text).to_bytes(8, "little"), text, data):
            file.write(part)


def read_tensors(path: Path, cure: str, verify: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a file that `write_tensors` wrote, memory-mapped.

    `cure`: what to do when it is damaged. Without `verify` a truncated or foreign file is found, flipped bytes are not;
    with it the whole file is read once. Raises DamagedError, FileNotFoundError.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise DamagedError(f"{path}: damaged ({error}); {cure}") from error
    if verify:
        _verify(path, cure)
    return tensors


def read_header(path: Path, cure: str) -> dict[str, str]:
    """The header that was given to `write_tensors`. Raises DamagedError, FileNotFoundError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            found = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedError(f"{path}: damaged ({error}); {cure}") from error
    return {key: value for key, value in found.items() if key != CHECKSUM}


def read_json(path: Path, cure: str) -> Any:
    """A small JSON file of ours. Raises DamagedError, FileNotFoundError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path}: damaged ({error}); {cure}") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all, in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of `path` when the block ends, and is gone when the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)  # on a full disk every byte of it is needed
        if isinstance(error, OSError) and error.filename is None:  # a write that fails does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same of a folder: an empty one to fill."""
    with scratch(path) as folder:
        made = folder / path.name
        made.mkdir()
        yield made
        shutil.rmtree(path, ignore_errors=True)
        made.replace(path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder .NAME.making beside `path`, gone afterwards, for what others write in their own way. One that a
    killed run left is emptied first: call it where no other process can be writing."""
    folder = path.with_name(f".{path.name}.making")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_sha256(*paths: Path, named: bool = False) -> str:
    """Digest of files, in this order, each behind its name if `named`; of one file, what sha256sum says."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() if named else b"")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def _verify(path: Path, cure: str) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        size = int.from_bytes(mapped[:8], "little")
        layout = json.loads(mapped[8 : 8 + size])
        with memoryview(mapped) as whole, whole[8 + size :] as data:
            good = layout.get("__metadata__", {}).get(CHECKSUM) == _checksum(layout, data)
    if not good:
        raise DamagedError(f"{path}: damaged (its bytes do not fit its checksum); {cure}")


def _checksum(layout: dict[str, Any], data: memoryview) -> str:
    """Of the tensors' bytes, and of the header without the checksum itself."""
    header = {key: value for key, value in layout.get("__metadata__", {}).items() if key != CHECKSUM}
    text = json.dumps({**layout, "__metadata__": header}, sort_keys=True).encode("utf-8")
    return f"{zlib.crc32(data, zlib.crc32(text)):08x}"
