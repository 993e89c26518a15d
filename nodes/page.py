"""A report that is shown as text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from . import drawing
from .messages import message
from .report import Score

WIDTH = 976  # and a margin of 24 on both sides
TITLE_SIZE, HEADING_SIZE, NOTE_SIZE = 26, 19, 14
WARNING_COLOR = "#fde8d8"


class Page:
    """Lines of text, and the blocks that show the same in a picture."""

    def __init__(self, title: str) -> None:
        self.lines = [title]
        self.blocks = [drawing.paragraph(title, WIDTH, TITLE_SIZE)]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.lines += ["", text]
        self.blocks.append(drawing.paragraph(text, WIDTH, HEADING_SIZE, space_above=16))

    def note(self, text: str) -> None:
        """Add a paragraph in small letters."""
        self.lines.append(text)
        self.blocks.append(drawing.paragraph(text, WIDTH, NOTE_SIZE, drawing.FAINT))

    def warning(self, text: str) -> None:
        """Add a paragraph on a coloured background."""
        self.lines.append(message("warning", text=text))
        self.blocks.append(drawing.paragraph(self.lines[-1], WIDTH, background=WARNING_COLOR))

    def block(self, block: Image.Image, lines: Sequence[str]) -> None:
        """Add a part of the picture, and what it says as lines of text."""
        self.lines += lines
        self.blocks.append(block)

    def scores(self, scores: Sequence[Score]) -> None:
        """Add the evaluation of an encoder beside its baselines, if there is one."""
        if not scores:
            return
        self.heading(message("own_report"))
        note = message("figures")
        losses = {score.name: score.loss for score in scores}
        if {"aligned", "constant"} <= set(losses):
            note += message("skill", skill=1 - losses["aligned"] / losses["constant"])
        self.note(note)
        colors = {"aligned": drawing.BLUE}
        rows = [(message(f"predictor_{s.name}"), s.loss, str(s), colors.get(s.name, drawing.SKY)) for s in scores]
        self.block(drawing.bars(rows, WIDTH), [f"  {name}: {figures}" for name, _, figures, _ in rows])

    def text(self) -> str:
        """The lines."""
        return "\n".join(self.lines) + "\n"

    def image(self) -> torch.Tensor:
        """The blocks below one another, 1024 pixels wide, as ComfyUI's IMAGE (1, H, W, 3)."""
        return drawing.to_tensor(drawing.stack(self.blocks))
