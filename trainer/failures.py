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
from dataclasses import dataclass
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


@dataclass
class Stop:
    """What Ctrl-C or SIGTERM says. `where`: where the same command goes on."""

    stage: str
    where: Callable[[], str] = lambda: "where it stopped"

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle the signal: end the process, as kill -9 may at any moment, but in words.

        Nothing is raised: libraries turn an exception inside a call from C into another one, and go on.
        """
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # a second Ctrl-C waits for no disk
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            line = f"\n{self.stage}: stopped; the same command goes on {self.where()}\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())  # print may be what was stopped
        os._exit(128 + number)


@contextmanager
def stoppable(stage: str) -> Iterator[Stop]:
    """Let Ctrl-C and SIGTERM end the process in words while the block lasts."""
    stop = Stop(stage)
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
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
            return (
                f"{path}: {FULL[number]} ({_free(path) / 1e6:.1f} MB are free there); make room, or move the folder to "
                f"another disk and name it by {move}, then give the same command again: it goes on where it stopped"
            )
        error = error.__cause__ or error.__context__
    return None


def _free(path: Path) -> int:
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
