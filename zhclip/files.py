"""Safetensors files: opened, with a name for what is wrong with one, and written whole or not at all; and a digest of
weights that no container changes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


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


def opened(path: str | os.PathLike[str]) -> safe_open:
    """The file, to be read tensor by tensor. Raises ArtifactError, NotAnArtifactError or DamagedArtifactError."""
    if not Path(path).is_file():
        raise ArtifactError(path, "no file", "a safetensors file", "Check the path.")
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        with open(path, "rb") as file:
            start = file.read(16)
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise NotAnArtifactError(
                path,
                "a file of Python objects (.pt, .bin, .ckpt), which can run code",
                "a safetensors file",
                "Export the encoder again, or look for its safetensors file.",
            ) from error
        raise DamagedArtifactError(
            path,
            f"a file that safetensors cannot read ({error})",
            "a whole safetensors file",
            "It may be truncated: copy or download it again.",
        ) from error


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
