"""One process a folder: two runs that write the same files would end in a mixture of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .device import processes
from .errors import TrainerError
from .files import sweep
from .recipe import Recipe

# What a killed run can leave beside the stages' results in its folder, and in the cache's.
LEFT = (
    "recipe.yaml.tmp",
    ".*.making",
    "logs/.*.making",
    "report.*.tmp",
    *(f"{part}/*.tmp" for part in ("corpus", "checkpoints", "card")),
)
LEFT_IN_CACHE = ("train*/*/*.tmp", "dev*/*/*.tmp")


class BusyError(TrainerError):
    """A folder in which another process is working."""


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


@contextmanager
def hold_run(recipe: Recipe) -> Iterator[None]:
    """Hold a run's folder, cleared of what killed runs left there. Raises BusyError."""
    with hold(recipe.folder / ".lock", f"--run {recipe.run}", "--run"):
        if processes().is_main_process:
            sweep(recipe.folder, *LEFT)
        yield


@contextmanager
def hold_cache(recipe: Recipe) -> Iterator[None]:
    """Hold the cache's folder, which runs can share, cleared likewise. Raises BusyError."""
    folder = recipe.cache_folder
    with hold(folder / ".lock", f"--cache.dir {folder}", "--cache.dir"):
        if processes().is_main_process:
            sweep(folder, *LEFT_IN_CACHE)
        yield
