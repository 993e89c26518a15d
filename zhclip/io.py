"""Safetensors files: opened, with a name for what is wrong with one, and written whole or not at all; and a digest of
weights that no container changes."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

HEADER_LIMIT = 100_000_000  # bytes, as safetensors itself has it: more is another kind of file
OBJECTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
DIMENSIONS = 8  # of a tensor
# By safetensors' names, those of an artifact.
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "U8": torch.uint8}


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
    """A format version that this code does not know."""


class Entry(NamedTuple):
    """Where a tensor lies: bytes [begin, end) behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """One safetensors file, opened once: whatever is read of it is of the same content, or refused.

    Read and not mapped: of a mapped file, overwritten or cut short, the next page that is touched ends the process.
    """

    def __init__(self, path: str | os.PathLike[str], file: io.FileIO) -> None:
        self.path, self._file = path, file
        self.identity = identity(file)
        self.start, header = _header(path, file, self.identity[SIZE])
        metadata = header.pop("__metadata__", {})
        self.metadata: dict[str, Any] = metadata if type(metadata) is dict else {}
        self._header = header

    @functools.cached_property
    def entries(self) -> dict[str, Entry]:
        """Every tensor's place; together they are the file, without a gap and none twice. Raises
        DamagedArtifactError."""
        entries = {name: _entry(self.path, name, found) for name, found in self._header.items()}
        end = 0
        for entry in sorted(entries.values(), key=lambda entry: entry[2:]):
            if entry.begin != end:
                raise _unreadable(self.path, "its tensors overlap or leave a gap")
            end = entry.end
        if end != self.identity[SIZE] - self.start:
            raise _unreadable(self.path, "its tensors do not end where the file ends")
        return entries

    def read(self, name: str) -> torch.Tensor:
        """A tensor of its own memory. Raises DamagedArtifactError when the file has changed since it was opened."""
        entry = self.entries[name]
        memory = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        self._file.seek(self.start + entry.begin)
        fill(self._file, memory, self.path, self.identity)
        return memory.view(entry.dtype).view(entry.shape)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[SafetensorsFile]:
    """The file, to be read tensor by tensor. Raises ArtifactError, NotAnArtifactError or DamagedArtifactError."""
    if not Path(path).is_file():
        raise ArtifactError(path, "no file", "a safetensors file", "Check the path.")
    with unbuffered(path) as file:
        yield SafetensorsFile(path, file)


@contextmanager
def unbuffered(path: str | os.PathLike[str]) -> Iterator[io.FileIO]:
    """The file's bytes. Raises ArtifactError where it cannot be opened."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(io.FileIO(path))
        except OSError as error:
            found = f"a file that cannot be opened ({error.strerror})"
            raise ArtifactError(path, found, "one to read", "Check that it is there and may be read.") from error
        yield file


def identity(file: io.FileIO) -> tuple[int, ...]:
    """What another file at the same path, or another content of the same file, differs in."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


SIZE = 2  # in `identity`


def fill(file: io.FileIO, into: torch.Tensor, path: str | os.PathLike[str], seen: tuple[int, ...]) -> None:
    """Fill (n,) uint8 from where an unbuffered file stands, which is still the one that was seen. Raises
    DamagedArtifactError: weights of two files would be an encoder of neither."""
    left = into.numpy().data
    while left and (count := file.readinto(left)):
        left = left[count:]
    if left or identity(file) != seen:
        raise DamagedArtifactError(
            path, "another file than a moment ago", "one that stays while it is read", "Load it again."
        )


def _header(path: str | os.PathLike[str], file: io.FileIO, size: int) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and the header's JSON."""
    start = file.read(8)
    if start[:2] in OBJECTS:
        raise NotAnArtifactError(
            path,
            "a file of Python objects (.pt, .bin, .ckpt), which can run code",
            "a safetensors file",
            "Export the encoder again, or look for its safetensors file.",
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        raise _unreadable(path, "its header is not whole")
    if length > HEADER_LIMIT:
        raise _unreadable(path, f"a header of {length} bytes, over {HEADER_LIMIT}")
    text = torch.empty(length, dtype=torch.uint8)
    fill(file, text, path, identity(file))
    try:
        header = json.loads(text.numpy().tobytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"its header is no JSON, {str(error)[:80]}") from error
    if type(header) is not dict:
        raise _unreadable(path, "its header is no JSON object")
    return 8 + length, header


def _entry(path: str | os.PathLike[str], name: str, found: Any) -> Entry:
    wrong = f"its header's entry {name[:80]!a} makes no sense"
    if type(found) is not dict or set(found) != {"dtype", "shape", "data_offsets"}:
        raise _unreadable(path, wrong)
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    for numbers in (shape, offsets):
        if type(numbers) is not list or not all(type(number) is int and number >= 0 for number in numbers):
            raise _unreadable(path, wrong)
    if len(offsets) != 2 or len(shape) > DIMENSIONS:
        raise _unreadable(path, wrong)
    if type(dtype) is not str or dtype not in DTYPES:
        raise DamagedArtifactError(
            path, f"{name[:80]} of dtype {str(dtype)[:20]}", f"one of {', '.join(DTYPES)}", "Export it again."
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _unreadable(path, wrong)
    return Entry(DTYPES[dtype], tuple(shape), begin, end)


def _unreadable(path: str | os.PathLike[str], reason: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        path,
        f"a file that safetensors cannot read ({reason})",
        "a whole safetensors file",
        "It may be truncated: copy or download it again.",
    )


def write(tensors: dict[str, torch.Tensor], path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write a temporary file beside `path`, then rename it: a reader never sees half a file. The same tensors and
    metadata give the same bytes."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=target.name + ".", suffix=".tmp", dir=target.parent)
    os.close(handle)
    try:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, temporary, metadata)
        _sort_header(Path(temporary))
        os.chmod(temporary, 0o644)  # mkstemp makes files that other users of a shared ComfyUI could not read
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sort_header(path: Path) -> None:
    """Put the header's keys in order, in place: safetensors writes them in an order that differs from run to run, and
    the same encoder should be the same bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        if len(text) > size:  # never seen; the unsorted header is as good a file
            return
        file.seek(8)
        file.write(text.ljust(size))


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and fp32 values."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return total.hexdigest()
