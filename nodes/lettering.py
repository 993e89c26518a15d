"""Draws lines of text in the font that the pack ships, Chinese and Latin. Pillow only.

A character that the font lacks is drawn as a box with its code point.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageDraw, ImageFont

FONT_FILE = Path(__file__).resolve().parent / "fonts" / "zhclip-sans.woff"
NONCHARACTER = "\U0010ffff"  # every font draws its missing glyph for it
LINE_SPACING = 1.4  # line height over font size
BASELINE = 1.05  # distance of the baseline from the top of the line, over font size
CODE_POINT_SIZE = 0.62  # size of the digits in a missing glyph's box, over font size


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The shipped font: ASCII, Latin-1, GB 2312 and the most common traditional characters (fonts/README.md)."""
    return ImageFont.truetype(str(FONT_FILE), size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=16384)
def has_glyph(character: str) -> bool:
    """Whether the font draws something for the character, other than its missing glyph."""
    return character.isspace() or _bitmap(character) not in (_bitmap(NONCHARACTER), b"")


def _bitmap(character: str) -> bytes:
    mask = font(24).getmask(character)
    return bytes(mask) if any(mask.size) else b""


def split_by_glyph(text: str) -> Iterator[tuple[str, bool]]:
    """Runs of characters that have a glyph, and single characters that have none: (text, has a glyph). White space,
    line ends among it, becomes spaces."""
    run = ""
    for character in text:
        if has_glyph(character):
            run += " " if character.isspace() else character
            continue
        if run:
            yield run, True
        yield character, False
        run = ""
    if run:
        yield run, True


def line_height(size: int) -> int:
    """Height of a line in pixels."""
    return round(size * LINE_SPACING)


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return round(sum(_advance(run, known, size) for run, known in split_by_glyph(text)))


def _advance(run: str, known: bool, size: int) -> float:
    return font(size).getlength(run) if known else _small(size).getlength(code_point(run)) + 6


def _small(size: int) -> ImageFont.FreeTypeFont:
    return font(round(size * CODE_POINT_SIZE))


def code_point(character: str) -> str:
    """U+4E00."""
    return f"U+{ord(character):04X}"


def draw_text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, color: str) -> float:
    """Draw a line of text with its top left corner at (x, y). Returns the x coordinate of its end."""
    for run, known in split_by_glyph(text):
        end = x + _advance(run, known, size)
        if known:
            draw.text((x, y + size * BASELINE), run, font=font(size), fill=color, anchor="ls")
        else:
            draw.rectangle((x + 1, y + size * 0.2, end - 2, y + size * 1.2), outline=color)
            draw.text((x + 3, y + size * 0.95), code_point(run), font=_small(size), fill=color, anchor="ls")
        x = end
    return x


def wrap(text: str, size: int, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces and between Chinese characters, and inside a word only where it
    is longer than a line. The text's own line ends stay."""
    return [line for paragraph in text.splitlines() or [""] for line in _wrap_paragraph(paragraph, size, width)]


def _wrap_paragraph(text: str, size: int, width: float) -> list[str]:
    lines, line = [], ""
    for unit in break_units(text):
        if text_width((line + unit).rstrip(), size) <= width:
            line += unit
            continue
        if line.strip():
            lines.append(line.rstrip())
        line = unit.lstrip()
        while text_width(line.rstrip(), size) > width and len(line) > 1:
            fits = next((n for n in range(len(line) - 1, 1, -1) if text_width(line[:n], size) <= width), 1)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def break_units(text: str) -> Iterator[str]:
    """The units between which a line may be broken: words with the spaces after them, and single wide characters.
    Punctuation stays with what it follows."""
    unit = ""
    for character in text:
        after = unit[-1:]
        breakable = _is_wide(character) or _is_wide(after) or after.isspace()
        if unit and breakable and not character.isspace() and not _is_punctuation(character):
            yield unit
            unit = ""
        unit += character
    if unit:
        yield unit


def _is_wide(character: str) -> bool:
    return bool(character) and unicodedata.east_asian_width(character) in "WF"


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character) in ("Po", "Pe", "Pf")
