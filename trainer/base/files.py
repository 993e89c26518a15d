"""Files that are written whole or not at all: tensors, text and folders.

A file is written under a temporary name, flushed to the disk and renamed. The temporary name is always the same, so a
resumed run overwrites what a killed one left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from zhclip.io import atomic_write, save_tensors

from .errors import TrainerError


class DamagedError(TrainerError):
    """A file of the trainer's own that is truncated or of another kind; the message says what to do."""


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all. Equal content gives equal bytes."""
    save_tensors(path, tensors, header or {})


def read_tensors(path: Path, hint: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that `write_tensors` wrote, memory-mapped. `hint`: what to do when it is damaged.

    Raises DamagedError, FileNotFoundError.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedError(f"{path}: damaged ({error}); {hint}") from error


def read_header(path: Path, hint: str) -> dict[str, str]:
    """The header that was given to `write_tensors`. Raises DamagedError, FileNotFoundError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise DamagedError(f"{path}: damaged ({error}); {hint}") from error


def read_json(path: Path, hint: str) -> Any:
    """The value of a JSON file. Raises DamagedError, FileNotFoundError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path}: damaged ({error}); {hint}") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` when the block ends."""
    with scratch(path) as folder:
        filled = folder / path.name
        filled.mkdir()
        yield filled
        shutil.rmtree(path, ignore_errors=True)
        filled.replace(path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder .NAME.tmp beside `path`, deleted afterwards. One that a killed run left is emptied first."""
    folder = path.with_name(f".{path.name}.tmp")
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
