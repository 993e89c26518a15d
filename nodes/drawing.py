"""Draws labelled grids, paragraphs, bars and marked text as Pillow images, and converts to ComfyUI's IMAGE.

Each block is an image of a given width; `stack` puts blocks below one another. Colours are Okabe and Ito's (2008),
which people with the common kinds of colour blindness tell apart; no meaning is carried by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from .lettering import break_units, draw_text, line_height, text_width, wrap

INK, FAINT, PAPER, LINE, TINT = "#1d2330", "#5b6472", "#ffffff", "#c9ced6", "#eceff4"
BLUE, ORANGE, RED, SKY = "#0072b2", "#e69f00", "#d55e00", "#56b4e9"
TEXT = 16  # font size
GAP = 8  # pixels


class TextSpan(NamedTuple):
    """A stretch of text, the colour of its underline, a small note after it, and whether it has a tinted background."""

    text: str
    underline: str = LINE
    note: str = ""
    tinted: bool = False


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A Pillow image -> (1, H, W, 3) float32 from 0 to 1, ComfyUI's IMAGE."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]


def canvas(width: float, height: float, color: str = PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty image and what draws on it."""
    image = Image.new("RGB", (max(1, round(width)), max(1, round(height))), color)
    return image, ImageDraw.Draw(image)


def stack(blocks: Sequence[Image.Image], margin: int = 24, gap: int = GAP) -> Image.Image:
    """Blocks below one another, with a margin around them."""
    width = max(block.width for block in blocks) + 2 * margin
    image, _ = canvas(width, sum(block.height + gap for block in blocks) - gap + 2 * margin)
    y = margin
    for block in blocks:
        image.paste(block, (margin, y))
        y += block.height + gap
    return image


def paragraph(
    text: str, width: int, size: int = TEXT, color: str = INK, background: str = PAPER, space_above: int = 0
) -> Image.Image:
    """Wrapped text; on another background than PAPER, with a margin inside."""
    margin = 0 if background == PAPER else GAP
    lines = wrap(text, size, width - 2 * margin)
    image, draw = canvas(width, space_above + len(lines) * line_height(size) + 2 * margin, background)
    for i, line in enumerate(lines):
        draw_text(draw, margin, space_above + margin + i * line_height(size), line, size, color)
    return image


def labelled_grid(images: torch.Tensor, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """rows x columns pictures (N, H, W, C), 0 to 1, row by row, with each row's label at its left and each column's
    above. A picture narrower than 96 pixels stands in a cell of that width, for the label's sake."""
    height, width = images.shape[1:3]
    cell = max(width, 96)
    size = min(max(height // 18, TEXT), 40)
    left = min(max(text_width(row, size) for row in rows), max(cell // 2, 10 * size))
    above, beside = [paragraph(c, cell, size) for c in columns], [paragraph(r, left, size) for r in rows]
    top = max(label.height for label in above)
    row_heights = [max(height, label.height) for label in beside]
    image, _ = canvas(left + 2 * GAP + len(columns) * (cell + GAP), top + 2 * GAP + sum(h + GAP for h in row_heights))
    xs, y = [left + 2 * GAP + c * (cell + GAP) for c in range(len(columns))], top + 2 * GAP
    for x, label in zip(xs, above):
        image.paste(label, (x, GAP + top - label.height))
    pictures = iter((images[..., :3].float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    for label, row_height in zip(beside, row_heights):
        image.paste(label, (GAP, y + (row_height - label.height) // 2))
        for x in xs:
            image.paste(Image.fromarray(next(pictures)), (x, y + (row_height - height) // 2))
        y += row_height + GAP
    return image


def flow(spans: Sequence[TextSpan], width: int, size: int = TEXT, spacing: int = 0) -> Image.Image:
    """Spans one after another, wrapped. With a spacing between them, each has an outline of its own, as tokens do."""
    line, inset, small = line_height(size) + 10, 4 if spacing else 0, round(size * 0.75)
    placed: list[tuple[float, float, float, TextSpan, str, int]] = []
    x, y = 0.0, 0.0
    for span in spans:
        units = [span.text] if spacing else break_units(span.text)
        # A unit longer than a line is broken; `wrap` would take the spaces from the end of another one.
        fitting = [u for unit in units for u in (wrap(unit, size, width) if text_width(unit, size) > width else [unit])]
        for text, text_size in [*((unit, size) for unit in fitting), *([(span.note, small)] if span.note else [])]:
            end = x + text_width(text, text_size) + 2 * inset
            if x and x + text_width(text.rstrip(), text_size) + 2 * inset > width:
                x, y, end = 0.0, y + line, end - x
            placed.append((x, y, end - 1, span, text, text_size))
            x = end
        x += spacing
    image, draw = canvas(width, y + line)
    for left, top, end, span, text, text_size in placed:
        bottom = top + line - 6
        outline = span.underline if spacing else None
        draw.rectangle((left, top + 2, end, bottom), fill=TINT if span.tinted else None, outline=outline)
        draw.rectangle((left, bottom - 3, end, bottom), fill=span.underline)
        draw_text(draw, left + inset, top + (2 if text_size == size else 0), text, text_size, INK)
    return image


def bars(rows: Sequence[tuple[str, float, str, str]], width: int) -> Image.Image:
    """Horizontal bars of (label, value, text after the bar, colour); the largest value's is the longest."""
    left = max(text_width(label, TEXT) for label, _, _, _ in rows) + 2 * GAP
    right = max(text_width(after, TEXT) for _, _, after, _ in rows) + 2 * GAP
    step, largest = line_height(TEXT) + 6, max(row[1] for row in rows)
    image, draw = canvas(width, len(rows) * step)
    for y, (label, value, after, color) in zip(range(0, image.height, step), rows):
        end = left + max((width - left - right) * value / max(largest, 1e-9), 1)
        draw_text(draw, 0, y, label, TEXT, INK)
        draw.rectangle((left, y + 4, end, y + step - 8), fill=color)
        draw_text(draw, end + GAP, y, after, TEXT, INK)
    return image
