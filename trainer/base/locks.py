"""One process per folder: two runs that write the same files would mix their results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .device import processes
from .errors import TrainerError


class BusyError(TrainerError):
    """Another process works in the folder."""


@contextmanager
def hold(folder: Path, flag: str) -> Iterator[None]:
    """Hold FOLDER/.lock. `flag` is the setting that names the folder. Raises BusyError if another process holds it.

    The operating system releases the lock when the process ends; the empty file stays. Of the processes that a launcher
    started, the main one holds it for all.
    """
    state = processes()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    if state.is_main_process:
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(
                f"{flag} {folder}: another process is working there; wait until it has ended, or give another {flag}"
            ) from error
    state.wait_for_everyone()  # a launcher ends the others when the main one was refused
    try:
        yield
    finally:
        lock.release()
