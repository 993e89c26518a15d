"""Files and folders that are written whole or not at all, locks on folders, and free disk space.

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
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from zhclip.io import atomic_write

from .device import processes
from .errors import TrainerError


class DamagedError(TrainerError):
    """A file of the trainer's own that is truncated or of another kind; the message says what to do."""


class BusyError(TrainerError):
    """Another process works in the folder."""


@contextmanager
def _damage_named(path: Path, hint: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: damaged ({error}); {hint}") from error


def read_tensors(path: Path, hint: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, memory-mapped. `hint`: what to do when it is damaged.

    Raises DamagedError, FileNotFoundError.
    """
    with _damage_named(path, hint):
        return load_file(path)


def read_metadata(path: Path, hint: str) -> dict[str, str]:
    """The metadata of a safetensors file. Raises DamagedError, FileNotFoundError."""
    with _damage_named(path, hint), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_json(path: Path, hint: str) -> Any:
    """The value of a JSON file. Raises DamagedError, FileNotFoundError."""
    with _damage_named(path, hint):
        return json.loads(path.read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder .NAME.tmp beside `path`, deleted afterwards. One that a killed run left is emptied first."""
    folder = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def hold(folder: Path, flag: str) -> Iterator[None]:
    """Hold FOLDER/.lock, as one process per folder does. Raises BusyError if another process holds it.

    flag: the setting that names the folder, for the message. The operating system releases the lock when the process
    ends; the empty file stays. The main process of a launcher holds it for all.
    """
    state, lock = processes(), FileLock(folder / ".lock")
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            hint = f"wait until it has ended, or give another {flag}"
            raise BusyError(f"{flag} {folder}: another process is working there; {hint}") from error
    state.wait_for_everyone()  # a launcher ends the others when the main one was refused
    try:
        yield
    finally:
        lock.release()


def file_sha256(*paths: Path, named: bool = False) -> str:
    """Digest of files in this order, with each one's name before its content if `named`; of one file, sha256sum's."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() if named else b"")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def free_bytes(path: Path) -> int:
    """Free space in bytes on the disk of a path that may not exist yet."""
    return shutil.disk_usage(next(parent for parent in (path, *path.absolute().parents) if parent.exists())).free
