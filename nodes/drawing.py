"""Labelled grids, heat maps, bars and coloured text as Pillow images, and between those and ComfyUI's IMAGE.

Each block is an image of a given width; `stack` sets blocks below one another. Colours are Okabe and Ito's (2008),
which people with the common kinds of colour blindness tell apart; no meaning is carried by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


def to_pil(pixels: torch.Tensor) -> Image.Image:
    """(H, W, C) floats of 0 to 1 with 1, 3 or 4 channels, one of ComfyUI's IMAGE -> an RGB image."""
    array = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
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


def labelled_grid(images: torch.Tensor, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """An IMAGE of rows x columns pictures (N, H, W, C), row by row, with each row's label at its left and each column's
    above. A narrow picture is centred under its label."""
    high, wide = images.shape[1:3]
    cell = max(wide, 96)
    size = min(max(high // 18, TEXT), 40)
    left = min(max(width(row, size) for row in rows), max(cell // 2, 10 * size))
    heads, sides = [wrap(c, size, cell) for c in columns], [wrap(r, size, left) for r in rows]
    top = max(len(head) for head in heads) * height(size)
    row_h = [max(high, len(side) * height(size)) for side in sides]
    x0, y = left + 2 * GAP if left else GAP, top + 2 * GAP
    image, draw = sheet(x0 + len(columns) * (cell + GAP), y + sum(h + GAP for h in row_h))
    lefts = [x0 + c * (cell + GAP) for c in range(len(columns))]
    for x, head in zip(lefts, heads):
        _lines(draw, x, GAP + top - len(head) * height(size), cell, head, size, 0.5)
    shown = map(to_pil, images)
    for side, tall in zip(sides, row_h):
        _lines(draw, GAP, y + (tall - len(side) * height(size)) // 2, left, side, size, 1)
        for x in lefts:
            image.paste(next(shown), (x + (cell - wide) // 2, y + (tall - high) // 2))
        y += tall + GAP
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
        room = wide - 2 * inset
        whole = [part.text] if apart else pieces(part.text)
        fitting = ([unit] if width(unit.rstrip(), size) <= room else wrap(unit, size, room) for unit in whole)
        units = [(bit, size) for bits in fitting for bit in bits]
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


def bars(rows: Sequence[tuple[str, float, str, str]], top: float, wide: int = 976) -> Image.Image:
    """Rows of (label, value, what is written after the bar, colour); a bar of `top` is the longest."""
    left = min(max(width(row[0], TEXT) for row in rows), wide // 2) + 2 * GAP
    right = max(width(row[2], TEXT) for row in rows) + 2 * GAP
    labels = [wrap(row[0], TEXT, left - 2 * GAP) for row in rows]
    image, draw = sheet(wide, sum(len(label) * height(TEXT) + 6 for label in labels))
    y = 0
    for (_, value, after, mark), label in zip(rows, labels):
        _lines(draw, 0, y, left, label, TEXT, 0)
        end = left + max((wide - left - right) * min(max(value / top, 0.0), 1.0) if top else 0.0, 1)
        draw.rectangle((left, y + 4, end, y + height(TEXT) - 2), fill=mark)
        write(draw, end + GAP, y, after, TEXT, INK)
        y += len(label) * height(TEXT) + 6
    return image
