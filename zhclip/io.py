"""Reads and writes safetensors files, with errors that say what is wrong; and a digest of weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch

HEADER_LIMIT = 100_000_000  # bytes, safetensors' own limit
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "U8": torch.uint8}
OBJECT_FILES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how .pt, .bin and .ckpt begin


class ArtifactError(ValueError):
    """A file that is not a usable artifact; the message names the path, what was found, what was expected, the cure."""

    def __init__(self, path: str | os.PathLike[str], found: str, expected: str, cure: str) -> None:
        self.path, self.found, self.expected, self.cure = str(path), found, expected, cure
        super().__init__(f"{self.path}: found {found}; expected {expected}. {cure}")


class NotAnArtifactError(ArtifactError):
    """Another kind of file: a checkpoint, a LoRA, a file of Python objects."""


class DamagedArtifactError(ArtifactError):
    """A truncated file, or one whose tensors do not match its own metadata."""


class VersionError(ArtifactError):
    """A format version, tensor or metadata key that this code does not know."""


class Header(NamedTuple):
    """A file's header: its metadata, its tensors' entries by name as JSON, and the byte at which the data begins."""

    metadata: dict[str, Any]
    entries: dict[str, Any]
    start: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header alone, without any tensor. Raises ArtifactError, NotAnArtifactError or DamagedArtifactError."""
    with _open(path) as file:
        return _header(path, file)


def read_tensors(path: str | os.PathLike[str], prefix: str = "") -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata, and the tensors whose names begin with `prefix`, in the file's dtypes. Raises as `read_header`.

    Each tensor is read into memory of its own. Mapping the file would not copy less once the tensors are used, and
    touching a mapped file that was cut short ends the process.
    """
    with _open(path) as file:
        header = _header(path, file)
        wanted = {name: entry for name, entry in header.entries.items() if name.startswith(prefix)}
        return header.metadata, {name: _tensor(path, file, header, name) for name in wanted}


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
        raise ArtifactError(path, found, "a safetensors file", "Check the path.") from error


def _header(path: str | os.PathLike[str], file: BufferedReader) -> Header:
    start = file.read(8)
    if start[:2] in OBJECT_FILES:
        raise NotAnArtifactError(
            path,
            "a file of Python objects (.pt, .bin, .ckpt), which can run code",
            "a safetensors file",
            "Export the encoder again, or look for its safetensors file.",
        )
    length, size = int.from_bytes(start, "little"), os.fstat(file.fileno()).st_size
    if not 2 <= length <= min(HEADER_LIMIT, size - 8):
        raise _unreadable(path, "its header is not whole")
    try:
        entries = json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"its header is no JSON, {str(error)[:80]}") from error
    metadata = entries.pop("__metadata__", {}) if type(entries) is dict else None
    if type(metadata) is not dict or not all(type(entry) is dict for entry in entries.values()):
        raise _unreadable(path, "its header is no JSON object of objects")
    _check_offsets(path, entries, size - 8 - length)
    return Header(metadata, entries, 8 + length)


def _check_offsets(path: str | os.PathLike[str], entries: dict[str, Any], size: int) -> None:
    """Refuse tensors that do not fill the data of `size` bytes one after another, as in a truncated file."""
    offsets = [entry.get("data_offsets") for entry in entries.values()]
    if not all(type(each) is list and [type(at) for at in each] == [int, int] for each in offsets):
        raise _unreadable(path, "a tensor has no offsets")
    bounds = [0, *itertools.chain(*sorted(offsets)), size]
    if bounds[::2] != bounds[1::2] or bounds != sorted(bounds):
        raise _unreadable(path, "its tensors overlap, leave a gap or end elsewhere than the file")


def _tensor(path: str | os.PathLike[str], file: BufferedReader, header: Header, name: str) -> torch.Tensor:
    entry = header.entries[name]
    begin, end = entry["data_offsets"]
    dtype, shape = DTYPES.get(str(entry.get("dtype"))), entry.get("shape")
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 8:
        raise _unreadable(path, f"{name[:80]!a} has no shape")
    if dtype is None or math.prod(shape) * dtype.itemsize != end - begin:
        raise _unreadable(path, f"{name[:80]!a} has another dtype than {', '.join(DTYPES)}, or another size")
    data = torch.empty(end - begin, dtype=torch.uint8)
    file.seek(header.start + begin)
    if file.readinto(data.numpy().data) != len(data):
        raise _unreadable(path, "it became shorter while it was read")
    return data.view(dtype).reshape(shape)


def _unreadable(path: str | os.PathLike[str], reason: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        path,
        f"a file that safetensors cannot read ({reason})",
        "a whole safetensors file",
        "It may be truncated: copy or download it again.",
    )


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` when the block ends without an error; a reader never sees half of it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error  # a write that fails does not say where
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] = {}
) -> None:
    """Write a safetensors file, whole or not at all. The same tensors and metadata give the same bytes."""
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    length = int.from_bytes(data[:8], "little")
    # safetensors writes metadata in an order that differs from run to run.
    header = {"__metadata__": dict(sorted(metadata.items()))} | json.loads(data[8 : 8 + length])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the data begin at a multiple of 8
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(data)[8 + length :])


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and fp32 values."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return total.hexdigest()
