"""What ends a stage from outside, said in one line: a full disk, Ctrl-C, a polite kill."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError
from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the system allows no larger file",
    112: "the disk is full",  # Windows' own number, in safetensors' messages
}


_places: list[Callable[[], str]] = [lambda: "where it stopped"]  # innermost last; a process has one signal handler


@contextmanager
def goes_on(where: str | Callable[[], str]) -> Iterator[None]:
    """Name the place at which the same command goes on, should it be stopped in the block."""
    _places.append(where if callable(where) else lambda: where)
    try:
        yield
    finally:
        _places.pop()


@contextmanager
def stoppable(stage: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process while the block lasts, as kill -9 may at any moment, but in words.

    Nothing is raised: libraries turn an exception inside a call from C into another one, and go on.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # a second Ctrl-C waits for no disk
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            line = f"\n{stage}: stopped; the same command goes on {_places[-1]()}\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())  # print may be what was stopped
        os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(line: str) -> None:
    """One line to stderr, below the progress bars that are still open."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(line, file=sys.stderr)


def full_disk(error: BaseException | None, folder: Path, move: str) -> str | None:
    """One sentence when a full disk is behind the error, else None.

    `folder` is named when the error itself names no file; `move`: the flags that lead to another disk.
    """
    while error is not None:
        number, named = None, None
        if isinstance(error, OSError):
            number, named = error.errno, error.filename
        elif isinstance(error, SafetensorError) and (found := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(found[1])
        if number in FULL:
            path = Path(named or folder)
            cure = "raise that limit (`ulimit -f`)"
            if number != errno.EFBIG:
                cure = f"make room ({free_bytes(path) / 1e6:.1f} MB are free there)"
            return (
                f"{path}: {FULL[number]}; {cure}, or move the folder to another disk and name it by {move}, then give "
                "the same command again: it goes on where it stopped"
            )
        error = error.__cause__ or error.__context__
    return None


def reason(error: BaseException) -> str:
    """What a library's error says, in one line that is not too long to read."""
    return " ".join(str(error).split())[:300]


def free_bytes(path: Path) -> int:
    """What the disk of a path, which need not be there yet, has free."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
