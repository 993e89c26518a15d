"""Reads and writes safetensors files, with errors that say what is wrong; and a digest of weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch

HEADER_LIMIT = 100_000_000  # bytes, safetensors' own limit
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how .pt, .bin and .ckpt begin


class ArtifactError(ValueError):
    """A file that is not a usable artifact; the message names the path, what was found, what was expected, the cure."""

    def __init__(self, path: str | os.PathLike[str], found: str, expected: str, cure: str) -> None:
        self.path, self.found, self.expected, self.cure = str(path), found, expected, cure
        super().__init__(f"{self.path}: found {found}; expected {expected}. {cure}")


class NotAnArtifactError(ArtifactError):
    """Another kind of file: a checkpoint, a LoRA, a pickle."""


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


def read_tensors(path: str | os.PathLike[str], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, and no other bytes of the file. Raises as `read_header`."""
    with _open(path) as file:
        header = _header(path, file)
        entries: dict[str, Any] = {}
        data = b""
        for name in header.entries:
            if name.startswith(prefix):
                entries[name], content = _entry(path, file, header, name, len(data))
                data += content
    return _parse(path, _join(entries, data))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and all tensors, in the file's dtypes. Raises as `read_header`.

    The file is read and not mapped: touching a mapped file that was cut short would end the process.
    """
    with _open(path) as file:
        header = _header(path, file)
        file.seek(0)
        data = file.read()
    return header.metadata, _parse(path, data)


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
        raise ArtifactError(path, found, "a safetensors file", "Check the path.") from error


def _header(path: str | os.PathLike[str], file: BinaryIO) -> Header:
    start = file.read(8)
    if start[:2] in PICKLES:
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
        header = json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"its header is no JSON, {str(error)[:80]}") from error
    metadata = header.pop("__metadata__", {}) if type(header) is dict else None
    if type(metadata) is not dict:
        raise _unreadable(path, "its header is no JSON object of objects")
    return Header(metadata, header, 8 + length)


def _entry(
    path: str | os.PathLike[str], file: BinaryIO, header: Header, name: str, at: int
) -> tuple[dict[str, Any], bytes]:
    """A tensor's entry, moved to byte `at` of other data, and its bytes."""
    entry = header.entries[name]
    offsets = entry.get("data_offsets") if type(entry) is dict else None
    if type(offsets) is not list or len(offsets) != 2 or not all(type(each) is int for each in offsets):
        raise _unreadable(path, f"the entry of {name[:80]!a} has no offsets")
    begin, end = offsets
    if not 0 <= begin <= end <= os.fstat(file.fileno()).st_size - header.start:
        raise _unreadable(path, f"{name[:80]!a} lies outside the file")
    file.seek(header.start + begin)
    return {**entry, "data_offsets": [at, at + end - begin]}, file.read(end - begin)


def _join(entries: dict[str, Any], data: bytes) -> bytes:
    """The bytes of a safetensors file."""
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the data begin at a multiple of 8
    return b"".join((len(text).to_bytes(8, "little"), text, data))


def _parse(path: str | os.PathLike[str], data: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, KeyError for a dtype that torch lacks, and torch's own
        raise _unreadable(path, f"{type(error).__name__} {str(error)[:80]}") from error


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
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all. The same tensors and metadata give the same bytes."""
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    length = int.from_bytes(data[:8], "little")
    # safetensors writes metadata in an order that differs from run to run.
    header = {"__metadata__": dict(sorted(metadata.items()))} | json.loads(data[8 : 8 + length])
    with atomic_write(path) as file:
        file.write(_join(header, b""))
        file.write(memoryview(data)[8 + length :])


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and fp32 values."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return total.hexdigest()
