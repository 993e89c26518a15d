"""What ends a stage from outside, said in one line: a full disk, Ctrl-C, a polite kill."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
