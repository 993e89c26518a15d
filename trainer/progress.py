"""Progress events of the trainer's stages: the command line draws bars from them, a node of ComfyUI its own bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
REPEAT_SECONDS = 0.5  # between events inside a batch


@dataclass(frozen=True)
class Progress:
    """One event: `done` of `total` steps, batches, shards or rows; `total` is 0 where it is not known.

    stage: name of the stage, followed by the part of it where it has several loops (`cache train`, `cache dev`).
    seconds_left: estimate for this loop; None before its first step.
    metrics: figures of this step, such as `loss`; empty for most events.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Cancelled(Exception):
    """Raised by a listener to stop a stage. The same call continues from what is on disk."""


Listener = Callable[[Progress], None]


class Counter:
    """Counts the steps of one loop and sends an event at its start and after each step. No listener: no events."""

    def __init__(self, stage: str, total: int, listener: Listener | None, done: int = 0) -> None:
        self.stage, self.total, self.listener, self.done = stage, total, listener, done
        self.first, self.began, self.sent = done, time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int = 1, metrics: dict[str, float] | None = None) -> None:
        """`count` more are done. Raises what the listener raises, such as Cancelled."""
        self.done += count
        if self.listener:
            steps, seconds = self.done - self.first, time.monotonic() - self.began
            left = seconds / steps * (self.total - self.done) if steps else None
            self.listener(Progress(self.stage, self.done, self.total, left, metrics or {}))
            self.sent = time.monotonic()

    @contextmanager
    def repeated_during_forward(self) -> Iterator[None]:
        """In this block, send the last event again when a torch module has run and REPEAT_SECONDS have passed.

        A batch takes many seconds on a CPU; so it can be cancelled inside.
        """
        from torch.nn.modules.module import register_module_forward_hook

        def repeat(*_: object) -> None:
            if time.monotonic() - self.sent > REPEAT_SECONDS:
                self.add(0)

        hook = register_module_forward_hook(repeat) if self.listener else None
        try:
            yield
        finally:
            if hook:
                hook.remove()


def track(items: Iterable[T], stage: str, total: int, listener: Listener | None) -> Iterator[T]:
    """Yield the items; send an event at the start and after each."""
    counter = Counter(stage, total, listener)
    for item in items:
        yield item
        counter.add()
