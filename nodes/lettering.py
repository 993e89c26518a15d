"""Measures, wraps and draws text in the font that the pack ships, Chinese and Latin. Pillow only."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from PIL import ImageDraw, ImageFont

FONT_FILE = Path(__file__).resolve().parent / "fonts" / "zhclip-sans.woff"
LINE_SPACING = 1.4  # line height over font size
BASELINE = 1.05  # distance of the baseline from the top of the line, over font size
# A line may be broken between words, and before and after each wide character; not before what closes a clause.
WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U0001f000-\U0003ffff"
CLOSING = ",.;:!?)\u2019\u201d\u3001\u3002\u300b\u300d\uff01\uff09\uff0c\uff1a\uff1b\uff1f"
BREAK_UNIT = re.compile(rf"(?:[{WIDE}]|[^\s{WIDE}]+)[{CLOSING}]*\s*|\s+")


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The shipped font: ASCII, Latin-1, GB 2312 and the most common traditional characters (fonts/README.md)."""
    return ImageFont.truetype(str(FONT_FILE), size, layout_engine=ImageFont.Layout.BASIC)


def line_height(size: int) -> int:
    """Height of a line in pixels."""
    return round(size * LINE_SPACING)


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return round(font(size).getlength(text))


def draw_text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, color: str) -> None:
    """Draw a line of text with its top left corner at (x, y). What the font lacks is drawn as its empty box."""
    draw.text((x, y + size * BASELINE), text, font=font(size), fill=color, anchor="ls")


def wrap(text: str, size: int, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces and between Chinese characters, and inside a word only where it
    is longer than a line. The text's own line ends stay."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for unit in break_units(paragraph):
            for part in [unit] if text_width(unit.rstrip(), size) <= width else unit:
                if line and text_width((line + part).rstrip(), size) > width:
                    lines.append(line.rstrip())
                    line = ""
                line += part
        lines.append(line.rstrip())
    return lines


def break_units(text: str) -> list[str]:
    """The units between which a line may be broken, which joined are the text."""
    return BREAK_UNIT.findall(text)
