"""What ends a stage from outside, said in one line: a full disk, Ctrl-C, a polite kill."""

from __future__ import annotations

import errno
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from safetensors import SafetensorError
from tqdm import tqdm

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the system allows no larger file",
    112: "the disk is full",  # Windows' own number, in safetensors' messages
}


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. `kept`: where the same command goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept = "from its start"


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Stopped. A second one ends the process at once, which does no damage either."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for number in before:
        signal.signal(number, stop)
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
            return (
                f"{path}: {FULL[number]} ({_free(path) / 1e6:.1f} MB are free there); make room, or move the folder to "
                f"another disk and name it by {move}, then give the same command again: it goes on where it stopped"
            )
        error = error.__cause__ or error.__context__
    return None


def _free(path: Path) -> int:
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
