"""Reads and writes safetensors files, with errors that say what is wrong; and a digest of weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

TORCH_PREFIXES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how .pt, .bin and .ckpt begin
AnyPath = str | os.PathLike[str]
Tensors = dict[str, torch.Tensor]
EXPORT_AGAIN = "Update ZhCLIP, or export the file again."


class ArtifactError(ValueError):
    """A file that is not a usable artifact; the message names the path, what was found, what was expected, the cure."""

    def __init__(self, path: AnyPath, found: str, expected: str, cure: str = EXPORT_AGAIN) -> None:
        self.path, self.found, self.expected, self.cure = str(path), found, expected, cure
        super().__init__(f"{self.path}: found {found}; expected {expected}. {cure}")


class NotAnArtifactError(ArtifactError):
    """Another kind of file: a checkpoint, a LoRA, a file of Python objects."""


class DamagedArtifactError(ArtifactError):
    """A truncated file, or one whose tensors do not match its own metadata."""


class VersionError(ArtifactError):
    """A format version that this code does not know."""


@contextmanager
def open_safetensors(path: AnyPath) -> Iterator[Any]:
    """`safetensors.safe_open` for torch, with its errors inside the block as ArtifactError, NotAnArtifactError or
    DamagedArtifactError. Its tensors are views of the mapped file: clone those that outlive the block, since touching
    a mapped file that was cut short ends the process."""
    cure = "Export the encoder again, or look for its safetensors file."
    try:
        with open(path, "rb") as raw:
            if raw.read(2) in TORCH_PREFIXES:
                found = "a file of Python objects (.pt, .bin, .ckpt), which can run code"
                raise NotAnArtifactError(path, found, "a safetensors file", cure)
        with safe_open(path, "pt") as file:
            yield file
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        raise ArtifactError(path, found, "a safetensors file", "Check the path.") from error
    except (SafetensorError, AttributeError, RuntimeError) as error:  # torch knows fewer dtypes and dimensions
        found = f"a file that safetensors cannot read ({ascii(str(error)[:80])[1:-1]})"
        cure = "It may be truncated: copy or download it again."
        raise DamagedArtifactError(path, found, "a whole safetensors file", cure) from error


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
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


def save_tensors(path: AnyPath, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] = {}) -> None:
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
