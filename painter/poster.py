"""One picture of the demonstration: paintings side by side, each with its prompt above and its reading below."""

import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from painter.drawable import words

FONT = Path(__file__).resolve().parent.parent / "nodes" / "fonts" / "zhclip-sans.woff"
INK, FAINT = "#1d2330", "#6b7280"
SIDE, PANEL = 468, 500
TOP, BOTTOM = 96, 70
LINE_CHARACTERS = 46


class Painting(NamedTuple):
    """One panel.

    encoder: a key of words.json's `poster`; picture: (H, W, 3) in 0..1; shows: what the reader of pictures sees in it.
    """

    prompt: str
    encoder: str
    picture: NDArray[np.float32]
    shows: str


def compose(paintings: list[Painting], path: Path) -> None:
    """Write the picture as PNG."""
    poster = Image.new("RGB", (PANEL * len(paintings), TOP + SIDE + BOTTOM), "white")
    canvas = ImageDraw.Draw(poster)
    for panel, painting in enumerate(paintings):
        middle = PANEL * panel + PANEL // 2
        pixels = Image.fromarray((painting.picture * 255).round().astype(np.uint8))
        poster.paste(pixels.resize((SIDE, SIDE), Image.Resampling.NEAREST), (middle - SIDE // 2, TOP))
        title = f"{words()['poster'][painting.encoder]}\n{textwrap.fill(painting.prompt, LINE_CHARACTERS)}"
        caption = textwrap.fill(painting.shows, LINE_CHARACTERS)
        for text, y, anchor, size, colour in (
            (title, TOP - 12, "md", 17, INK),
            (caption, TOP + SIDE + 12, "ma", 16, FAINT),
        ):
            font = ImageFont.truetype(str(FONT), size)
            canvas.multiline_text((middle, y), text, colour, font, anchor, spacing=8, align="center")
    poster.save(path)
