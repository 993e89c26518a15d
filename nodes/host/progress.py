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
from ..messages import message

PARTS = 1000  # of the bar
REFRESH_SECONDS = 1.0
SIZE = (512, 288)  # pixels of the picture


class Monitor:
    """A listener of a training's events: it shows them, and raises `cancelled` once the user has pressed Cancel."""

    def __init__(self, node_id: str | None, cancelled: type[Exception]) -> None:
        self.node_id, self.cancelled = node_id, cancelled
        self.seconds = {"download": 60.0, "stages": 1200.0}  # of each stage in their order, until they are planned
        self.bar = comfy.utils.ProgressBar(PARTS, node_id=node_id)
        self.thread, self.shown, self.share = threading.get_ident(), 0.0, 0.0
        self.stage, self.text = "", message("reading")
        self.left: float | None = None  # seconds
        self.losses: list[tuple[int, float]] = []  # (step, loss)
        self.dev: list[tuple[int, float]] = []  # (step, R@1)
        self.constant: list[float] = []  # the constant predictor's loss

    def __call__(self, event: Any) -> None:
        """Take a trainer.progress.Progress. Raises `cancelled`."""
        if "loss" in event.metrics:
            self.losses.append((event.done, event.metrics["loss"]))
            self.constant = [event.metrics["constant_loss"]]
        if "dev_recall" in event.metrics:
            self.dev.append((event.done, event.metrics["dev_recall"]))
        if event.stage == "run":  # a stage begins
            self.seconds = dict(event.metrics)
            self.stage, share, self.left = list(event.metrics)[event.done], 0.0, event.seconds_left
            self.text = message("stage", number=event.done + 1, total=event.total, stage=self.stage)
        else:
            self.stage, share, self.left = event.stage.partition(" ")[0], 0.0, None
            self.text = event.stage
            if event.total:
                share = event.done / event.total
                unit = 1e6 if self.stage == "download" else 1
                key = "megabytes" if self.stage == "download" else "items"
                self.text += message(key, done=event.done / unit, total=event.total / unit)
        if self.stage in self.seconds:
            seconds, at = list(self.seconds.values()), list(self.seconds).index(self.stage)
            remaining, later = seconds[at] * (1 - share), sum(seconds[at + 1 :])
            self.share = max(self.share, 1 - (remaining + later) / sum(seconds))
            if event.stage != "run" and event.seconds_left and remaining:  # the later stages at the pace of this one
                self.left = event.seconds_left * (1 + later / remaining)
        self.refresh()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Also refresh before each layer, so that a long batch can be cancelled too."""
        handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: self.refresh())
        try:
            yield
        finally:
            handle.remove()

    def refresh(self) -> None:
        """Look for Cancel, and show the state once a second. Raises `cancelled`."""
        if threading.get_ident() != self.thread:  # another thread's module
            return
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if time.monotonic() - self.shown >= REFRESH_SECONDS:
                self.shown = time.monotonic()
                preview = ("JPEG", self.picture(), max(SIZE)) if self.losses else None
                self.bar.update_absolute(round(self.share * PARTS), PARTS, preview)
                server = prompt_server()
                if server is not None and self.node_id is not None:
                    server.send_progress_text(self.words(), self.node_id)
        except comfy.model_management.InterruptProcessingException as error:  # since 2026 no Exception
            raise self.cancelled from error

    def words(self) -> str:
        """What is done now, how far it is, and the time left."""
        text = self.text
        if self.losses and self.stage == "train":
            text += message("loss", loss=self.losses[-1][1])
        if self.left:
            long = self.left >= 90
            text += message("minutes_left", left=self.left / 60) if long else message("seconds_left", left=self.left)
        return text

    def finish(self, text: str) -> None:
        """Fill the bar, and show a last line: the front end keeps one where it is sent none."""
        self.text, self.stage, self.left, self.share, self.shown = text, "", None, 1.0, 0.0
        self.refresh()

    def picture(self) -> Image.Image:
        """The losses, the constant predictor's as a line, and the last retrieval of dev pairs."""
        width, height = SIZE
        image, draw = drawing.canvas(width, height)
        top, bottom, left = 56, height - 28, 12
        values = [loss for _, loss in self.losses] + self.constant
        low, high = min(values) * 0.98, max(values) * 1.02
        last, loss = self.losses[-1]

        def y(value: float) -> float:
            return bottom - (bottom - top) * (value - low) / max(1e-9, high - low)

        draw.line((left, bottom, width - left, bottom), fill=drawing.LINE)
        for value in self.constant:
            draw.line((left, y(value), width - left, y(value)), fill=drawing.ORANGE, width=2)
        points = [(left + (width - 2 * left) * step / max(1, last), y(value)) for step, value in self.losses]
        draw.line([(left, points[0][1]), *points], fill=drawing.BLUE, width=3)
        title = f"loss {loss:.3f}" + "".join(f"   constant {value:.3f}" for value in self.constant)
        drawing.draw_text(draw, left, 4, title, drawing.TEXT, drawing.INK)
        recall = f"dev R@1 {self.dev[-1][1]:.3f} at step {self.dev[-1][0]}" if self.dev else ""
        drawing.draw_text(draw, left, 28, recall, 14, drawing.FAINT)
        drawing.draw_text(draw, left, bottom + 4, f"step {last}", 14, drawing.FAINT)
        return image
