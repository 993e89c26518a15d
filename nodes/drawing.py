"""Labelled grids, heat maps, tables and coloured text as Pillow images, and between those and ComfyUI's IMAGE.

Each block is an image of a given width; `stack` sets blocks below one another. Colours are Okabe and Ito's (2008),
which people with the common kinds of colour blindness tell apart; no meaning is carried by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from .lettering import height, pieces, width, wrap, write

INK, FAINT, PAPER, LINE, TINT = "#1d2330", "#5b6472", "#ffffff", "#c9ced6", "#eceff4"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
# From dark to light with even steps of lightness, blue to yellow: read alike in grey and by colour-blind eyes.
RAMP = ((18, 32, 74), (42, 82, 132), (74, 130, 140), (130, 175, 125), (205, 210, 110), (253, 240, 160))
TEXT = 16
GAP = 8


def to_pil(image: Any) -> Image.Image:
    """A Pillow image, or a float tensor (H, W, C) or (1, H, W, C) of 0 to 1 with 1, 3 or 4 channels -> RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = torch.as_tensor(image).detach().float().cpu()
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A Pillow image -> (1, H, W, 3) float32 of 0 to 1, ComfyUI's IMAGE."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]


def sheet(wide: float, high: float, fill: str = PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty image and its pen."""
    image = Image.new("RGB", (max(1, round(wide)), max(1, round(high))), fill)
    return image, ImageDraw.Draw(image)


def stack(blocks: Sequence[Image.Image], margin: int = 24, gap: int = 8) -> Image.Image:
    """Blocks below one another on one sheet."""
    wide = max(block.width for block in blocks) + 2 * margin
    image, _ = sheet(wide, sum(block.height + gap for block in blocks) - gap + 2 * margin)
    y = margin
    for block in blocks:
        image.paste(block, (margin, y))
        y += block.height + gap
    return image


def paragraph(
    text: str, wide: int, size: int = TEXT, ink: str = INK, paper: str = PAPER, above: int = 0
) -> Image.Image:
    """Wrapped text with `above` pixels of space before it; on a paper of another colour, with a margin inside."""
    margin = 0 if paper == PAPER else GAP
    lines = wrap(text, size, wide - 2 * margin)
    image, draw = sheet(wide, above + len(lines) * height(size) + 2 * margin, paper)
    _lines(draw, margin, above + margin, wide - 2 * margin, lines, size, 0, ink)
    return image


def labelled_grid(images: Sequence[Any], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Images (see to_pil) row by row, with each row's label at its left and each column's above.

    Images of different sizes are centred in cells of the largest. Raises ValueError unless there are rows x columns.
    """
    if len(images) != len(rows) * len(columns) or not len(images):
        raise ValueError(f"{len(images)} images do not fill {len(rows)} rows of {len(columns)} columns.")
    shown = [to_pil(image) for image in images]
    cell_w, cell_h = max(max(i.width for i in shown), 96), max(i.height for i in shown)
    size = min(max(cell_h // 18, TEXT), 40)
    left = min(max(width(row, size) for row in rows), max(cell_w // 2, 10 * size))
    heads, sides = [wrap(c, size, cell_w) for c in columns], [wrap(r, size, left) for r in rows]
    top = max(len(head) for head in heads) * height(size)
    row_h = [max(cell_h, len(side) * height(size)) for side in sides]
    x0, y0 = left + 2 * GAP if left else GAP, top + 2 * GAP
    image, draw = sheet(x0 + len(columns) * (cell_w + GAP), y0 + sum(h + GAP for h in row_h))
    for c, head in enumerate(heads):
        _lines(draw, x0 + c * (cell_w + GAP), GAP + top - len(head) * height(size), cell_w, head, size, 0.5)
    y = y0
    for r, side in enumerate(sides):
        _lines(draw, GAP, y + (row_h[r] - len(side) * height(size)) // 2, left, side, size, 1)
        for c in range(len(columns)):
            one = shown[r * len(columns) + c]
            x = x0 + c * (cell_w + GAP) + (cell_w - one.width) // 2
            image.paste(one, (x, y + (row_h[r] - one.height) // 2))
        y += row_h[r] + GAP
    return image


def _lines(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    room: float,
    lines: list[str],
    size: int,
    align: float,
    ink: str = INK,
) -> None:
    """Lines in a column `room` wide; align 0 is left, 0.5 centred, 1 right."""
    for i, line in enumerate(lines):
        write(draw, x + (room - width(line, size)) * align, y + i * height(size), line, size, ink)


def colour(share: float) -> str:
    """A colour of the ramp; share from 0 to 1."""
    at = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(RAMP[low], RAMP[low + 1]))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def figure(value: float) -> str:
    """Two decimals, and never -0.00."""
    return f"{round(value, 2) + 0.0:.2f}"


def on(share: float) -> str:
    """The ink that is read best on a colour of the ramp."""
    return PAPER if share < 0.45 else INK


def heat_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
    wide: int = 976,
    gaps: Sequence[int] = (),
) -> Image.Image:
    """Cells coloured from `low` to `high` with their figures in them, and a scale below. `gaps` are the columns that
    stand apart from the one before."""
    left = min(max(width(row, TEXT) for row in rows), wide // 3) + GAP
    cell = (wide - left - 16 * len(gaps)) / len(columns)
    heads = [wrap(column, 14, cell - GAP) for column in columns]
    top, line = max(len(head) for head in heads) * height(14) + 4, height(TEXT) + 2
    image, draw = sheet(wide, top + line * len(rows) + 36)
    lefts = [left + cell * c + 16 * sum(c >= g for g in gaps) for c in range(len(columns))]
    for x, head in zip(lefts, heads):
        _lines(draw, x, top - 4 - len(head) * height(14), cell, head, 14, 0.5, FAINT)
    for r, row in enumerate(rows):
        y = top + r * line
        _lines(draw, 0, y, left - GAP, wrap(row, TEXT, left - GAP)[:1], TEXT, 1)
        for x, value in zip(lefts, values[r]):
            share = (value - low) / (high - low)
            draw.rectangle((x, y, x + cell - 2, y + line - 2), fill=colour(share))
            _lines(draw, x, y, cell - 2, [figure(value)], TEXT, 0.5, on(share))
    _scale(draw, left, top + line * len(rows) + 10, min(320, wide - left - 120), low, high)
    return image


def _scale(draw: ImageDraw.ImageDraw, x: float, y: float, long: float, low: float, high: float) -> None:
    x = write(draw, x, y - 4, f"{figure(low)} ", 14, FAINT)
    for step in range(64):
        draw.rectangle((x + long * step / 64, y, x + long * (step + 1) / 64, y + 12), fill=colour(step / 63))
    write(draw, x + long, y - 4, f" {figure(high)}", 14, FAINT)


class Part(NamedTuple):
    """A stretch of text: the colour of its underline, a small note after it, and whether it stands on a tint."""

    text: str
    mark: str = LINE
    note: str = ""
    tinted: bool = False


def flow(parts: Sequence[Part], wide: int, size: int = TEXT, apart: int = 0) -> Image.Image:
    """Stretches of text set one after another and wrapped. `apart` is the space between them: with some, each stands in
    a box of its own, as tokens do.
    """
    line, inset, small = height(size) + 10, 4 if apart else 0, round(size * 0.75)
    placed: list[tuple[float, float, float, Part, str, int]] = []
    x, y = 0.0, 0.0
    for part in parts:
        whole = [part.text] if apart else pieces(part.text)
        units = [(bit, size) for unit in whole for bit in _bits(unit, size, wide - 2 * inset)]
        for unit, of_size in [*units, *([(part.note, small)] if part.note else [])]:
            long = width(unit, of_size) + 2 * inset
            if x and x + width(unit.rstrip(), of_size) + 2 * inset > wide:
                x, y = 0.0, y + line
            placed.append((x, y, long, part, unit, of_size))
            x += long
        x += apart
    image, draw = sheet(wide, y + line)
    for left, top, across, part, unit, of_size in placed:
        box = (left, top + 2, left + across - 1, top + line - 6)
        draw.rectangle(box, fill=TINT if part.tinted else None, outline=part.mark if apart else None)
        draw.rectangle((left, top + line - 9, left + across - 1, top + line - 6), fill=part.mark)
        write(draw, left + inset, top + (2 if of_size == size else 0), unit, of_size, INK)
    return image


def _bits(unit: str, size: int, room: int) -> list[str]:
    return [unit] if width(unit.rstrip(), size) <= room else wrap(unit, size, room)


def bars(rows: Sequence[tuple[str, float, str, str]], top: float, wide: int = 976) -> Image.Image:
    """Rows of (label, value, what is written after the bar, colour); a bar of `top` is the longest."""
    left = min(max(width(row[0], TEXT) for row in rows), wide // 2) + 2 * GAP
    right = max(width(row[2], TEXT) for row in rows) + 2 * GAP
    line = height(TEXT) + 6
    labels = [wrap(row[0], TEXT, left - 2 * GAP) for row in rows]
    highs = [max(1, len(label)) * height(TEXT) + 6 for label in labels]
    image, draw = sheet(wide, sum(highs))
    y = 0
    for (_, value, after, mark), label, high in zip(rows, labels, highs):
        _lines(draw, 0, y, left, label, TEXT, 0)
        long = (wide - left - right) * min(max(value / top, 0.0), 1.0) if top else 0.0
        draw.rectangle((left, y + 4, left + max(long, 1), y + line - 8), fill=mark)
        write(draw, left + max(long, 1) + GAP, y, after, TEXT, INK)
        y += high
    return image
