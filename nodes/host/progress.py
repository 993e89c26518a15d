"""Progress of a training under its node: one bar over all stages, a picture of the losses, and a line of words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from PIL import Image

from .. import drawing
from ..common import prompt_server

PARTS = 1000  # of the bar
REFRESH_SECONDS = 1.0
SIZE = (512, 288)  # pixels of the picture


class Interrupted(Exception):
    """The user pressed Cancel. Not ComfyUI's own exception, which since 2026 is no Exception."""


class Monitor:
    """Listens to a training's progress events, shows them, and raises `interrupted` once the user cancels."""

    def __init__(self, node_id: str | None, interrupted: type[Exception] = Interrupted) -> None:
        self.node_id, self.interrupted = node_id, interrupted
        self.bar = comfy.utils.ProgressBar(PARTS, node_id=node_id)
        self.thread, self.began, self.shown, self.share = threading.get_ident(), time.monotonic(), 0.0, 0.0
        self.event: Any = None
        self.event_time = self.began
        self.seconds: dict[str, float] = {}  # planned, of the stage that runs and those after it
        self.losses: list[tuple[int, float]] = []  # (step, loss)
        self.dev: list[tuple[int, float]] = []  # (step, R@1)
        self.constant_loss: float | None = None

    def __call__(self, event: Any) -> None:
        """Take a trainer.progress.Progress. Raises `interrupted`."""
        now = time.monotonic()
        if event.stage == "run":
            self.seconds = dict(list(event.metrics.items())[event.done :])
        if "loss" in event.metrics:
            self.losses.append((event.done, event.metrics["loss"]))
            self.constant_loss = event.metrics.get("constant_loss")
        if "dev_recall" in event.metrics:
            self.dev.append((event.done, event.metrics["dev_recall"]))
        self.event, self.event_time = event, now
        self.refresh()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Also refresh before each layer, so that a long batch is shown and can be interrupted too."""
        handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: self.refresh())
        try:
            yield
        finally:
            handle.remove()

    def refresh(self) -> None:
        """Look for Cancel, and show the state once a second. Raises `interrupted`."""
        if threading.get_ident() != self.thread:
            return
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if time.monotonic() - self.shown >= REFRESH_SECONDS:
                self.shown = time.monotonic()
                self._show()
        except comfy.model_management.InterruptProcessingException as error:
            raise self.interrupted from error

    def seconds_left(self) -> float | None:
        """Of the whole training; None before anything is known."""
        event = self.event
        stage = event.stage.partition(" ")[0] if event else ""
        current = self.seconds.get(stage)
        if event and event.seconds_left is not None and event.stage != "run":
            current = event.seconds_left
        if event and event.stage == "run":
            current = next(iter(self.seconds.values()), None)
        if current is None:
            return None
        later = sum(list(self.seconds.values())[1:])
        return max(0.0, current - (time.monotonic() - self.event_time)) + later

    def words(self) -> str:
        """What is done now, how far it is, and the minutes left."""
        event = self.event
        if event is None:
            return "Reading the models"
        left = self.seconds_left()
        if event.stage == "run":
            text = f"Stage {event.done + 1} of {event.total}: {next(iter(self.seconds), '')}"
        elif event.stage.startswith("download"):
            text = f"{event.stage}: {event.done / 1e6:.0f} of {event.total / 1e6:.0f} MB"
        else:
            text = f"{event.stage}: {event.done}" + (f" of {event.total}" if event.total else "")
        if self.losses and event.stage == "train":
            text += f", loss {self.losses[-1][1]:.3f}"
        if self.dev and event.stage == "train":
            text += f", R@1 {self.dev[-1][1]:.3f}"
        if left is not None:
            text += f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
        return text

    def _show(self) -> None:
        left, passed = self.seconds_left(), time.monotonic() - self.began
        if left is not None and self.seconds:
            self.share = max(self.share, passed / (passed + left) if passed + left else 0.0)
        preview = ("JPEG", curve(self.losses, self.constant_loss, self.dev), max(SIZE)) if self.losses else None
        self.bar.update_absolute(round(self.share * PARTS), PARTS, preview)
        self.say(self.words())

    def finish(self) -> None:
        """Fill the bar and empty the line of words."""
        self.bar.update_absolute(PARTS, PARTS)
        self.say("")

    def say(self, text: str) -> None:
        """Show a line under the node."""
        server = prompt_server()
        if server is not None and self.node_id is not None:
            server.send_progress_text(text, self.node_id)


def curve(losses: list[tuple[int, float]], constant: float | None, dev: list[tuple[int, float]]) -> Image.Image:
    """The loss of each logged step, the constant predictor's loss as a line, and the last retrieval of dev pairs."""
    width, height = SIZE
    image, draw = drawing.canvas(width, height)
    top, bottom, left = 56, height - 28, 12
    values = [loss for _, loss in losses] + ([constant] if constant else [])
    low, high = min(values) * 0.98, max(values) * 1.02
    last = max(step for step, _ in losses)

    def at(step: int, loss: float) -> tuple[float, float]:
        x = left + (width - 2 * left) * step / max(1, last)
        return x, bottom - (bottom - top) * (loss - low) / max(1e-9, high - low)

    points = [at(*pair) for pair in losses]
    draw.line((left, bottom, width - left, bottom), fill=drawing.LINE)
    if constant:
        y = at(0, constant)[1]
        draw.line((left, y, width - left, y), fill=drawing.ORANGE, width=2)
    draw.line(points if len(points) > 1 else [(left, points[0][1]), *points], fill=drawing.BLUE, width=3)
    title = f"loss {losses[-1][1]:.3f}" + (f"   constant {constant:.3f}" if constant else "")
    drawing.draw_text(draw, left, 4, title, drawing.TEXT, drawing.INK)
    found = f"dev R@1 {dev[-1][1]:.3f} at step {dev[-1][0]}" if dev else ""
    drawing.draw_text(draw, left, 28, found, 14, drawing.FAINT)
    drawing.draw_text(draw, left, bottom + 4, f"step {last}", 14, drawing.FAINT)
    return image


def loss_map(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The losses of a run's metrics as core's Plot Loss Graph reads them, which needs two different ones."""
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    constant = [float(row["constant_loss"]) for row in rows if "constant_loss" in row]
    return {"loss": losses if len(set(losses)) > 1 else constant[:1] + losses}
