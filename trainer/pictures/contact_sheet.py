"""A labelled grid of pictures as one picture, its labels in Chinese and Latin. Pillow only."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..base import SettingsError

# The nodes' own face, by its path: the trainer runs from the same folder, and imports nothing of theirs. Elsewhere,
# as from a wheel, a Chinese face of Windows, macOS or Linux does.
FACES = (
    str(Path(__file__).resolve().parent.parent / "nodes" / "fonts" / "zhclip-sans.woff"),
    *("msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc"),
)
INK, PAPER = "#1d2330", "#ffffff"
GAP = 8
LEADING = 1.4


@functools.cache
def face(size: int) -> ImageFont.FreeTypeFont:
    """The first of FACES that is there. Raises SettingsError where none is."""
    for name in FACES:
        try:
            return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError:
            continue
    raise SettingsError(
        f"no font with Chinese characters for the labels: run from the repository, whose {FACES[0]} is one, or install "
        "Noto Sans CJK"
    )


def wrap(text: str, size: int, room: float) -> list[str]:
    """Lines of at most `room` pixels, broken at the last space that fits, or else, as Chinese is, anywhere."""
    lines = []
    while text and face(size).getlength(text) > room:
        fits = next((n for n in range(len(text) - 1, 1, -1) if face(size).getlength(text[:n]) <= room), 1)
        space = text.rfind(" ", 0, fits + 1)
        cut = space if space > 0 else fits
        lines.append(text[:cut])
        text = text[cut:].lstrip()
    return [*lines, text]


def contact_sheet(
    pictures: Sequence[Sequence[Path]], rows: Sequence[str], columns: Sequence[Sequence[str]]
) -> Image.Image:
    """Pictures of one size row by row, each row's label at its left and each column's lines of text above."""
    first = Image.open(pictures[0][0])
    wide, high = first.size
    size = min(max(high // 20, 14), 32)
    line = round(size * LEADING)
    cell = max(wide, 8 * size)
    left = min(max(round(max(face(size).getlength(row) for row in rows)), 1), 12 * size)
    heads = [[part for text in texts for part in wrap(text, size, cell)] for texts in columns]
    sides = [wrap(row, size, left) for row in rows]
    top = max(len(head) for head in heads) * line + 2 * GAP
    tall = [max(high, len(side) * line) for side in sides]
    sheet = Image.new("RGB", (left + 2 * GAP + len(columns) * (cell + GAP), top + sum(tall) + len(tall) * GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for at, head in enumerate(heads):
        x = left + 2 * GAP + at * (cell + GAP)
        _write(draw, x, top - GAP - len(head) * line, head, size, cell, 0.5)
    y = top
    for side, shown, height in zip(sides, pictures, tall):
        _write(draw, GAP, y + (height - len(side) * line) // 2, side, size, left, 1)
        for at, path in enumerate(shown):
            x = left + 2 * GAP + at * (cell + GAP) + (cell - wide) // 2
            sheet.paste(Image.open(path).convert("RGB"), (x, y + (height - high) // 2))
        y += height + GAP
    return sheet


def _write(
    draw: ImageDraw.ImageDraw, x: float, y: float, lines: list[str], size: int, room: float, align: float
) -> None:
    """Lines in a column `room` wide; align 0.5 is centred, 1 right."""
    for at, text in enumerate(lines):
        offset = (room - face(size).getlength(text)) * align
        draw.text((x + offset, y + (at + 0.78) * size * LEADING), text, font=face(size), fill=INK, anchor="ls")
