"""One process a folder: two runs that write the same files would end in a mixture of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from filelock import FileLock, Timeout

PATIENCE = timedelta(hours=12)  # how long one process of a run waits for the others


class BusyError(RuntimeError):
    """A folder in which another process is working."""


def processes() -> PartialState:
    """The processes of this run. Without a GPU, gloo joins those of a launcher only where the CPU is asked for."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


@contextmanager
def hold(lock: Path, what: str, instead: str) -> Iterator[None]:
    """Hold the file `lock` for `what`, whose place the flag `instead` chooses. Raises BusyError when another holds it.

    The system lets go of it when a process ends, however it ends; the empty file stays. Of the processes that a
    launcher started, the main one holds it for all.
    """
    state = processes()
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(lock)
    if state.is_main_process:
        try:
            file.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(
                f"{what}: another process is working there; wait until it has ended, or give another {instead}"
            ) from error
    state.wait_for_everyone()  # a launcher ends the others when the main one was refused
    try:
        yield
    finally:
        file.release()
