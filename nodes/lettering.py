"""Lettering for pictures: Chinese and Latin in one line, and no character dropped without a trace. Pillow only.

The face that the pack ships draws first, so that a picture looks alike on every system. Characters that it lacks come
from a Chinese face of the system, where one is installed; what no face has is drawn as a box with its code point.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageDraw, ImageFont

SHIPPED = Path(__file__).resolve().parent / "fonts" / "zhclip-sans.woff"
# File names of faces with many Chinese glyphs. Pillow looks for them where Windows, macOS and Linux keep fonts.
SYSTEM = (
    "msyh.ttc",
    "simhei.ttf",
    "simsun.ttc",
    "msjh.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "SourceHanSansCN-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "uming.ttc",
    "DejaVuSans.ttf",
)
NOWHERE = "\U0010ffff"  # a noncharacter, for which every face draws its missing glyph
LEADING = 1.4  # line height over font size
BASELINE = 1.05  # from a line's top, over font size
BOX = 0.62  # the size of a code point's digits, over font size


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The shipped face: ASCII, Latin-1, GB 2312 and the commonest traditional characters (fonts/README.md)."""
    return ImageFont.truetype(str(SHIPPED), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """Faces of this system that may have what the shipped one lacks, in order of preference."""
    faces = []
    for name in SYSTEM:
        try:
            faces.append(ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC))
        except OSError:  # not installed here
            continue
    return tuple(faces)


def has(face: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether the face draws the character by a glyph of its own: its ink is not that of the missing glyph."""
    return character.isspace() or _ink(face, character) not in (_ink(face, NOWHERE), b"")


@functools.lru_cache(maxsize=4096)
def _ink(face: ImageFont.FreeTypeFont, character: str) -> bytes:
    mask = face.getmask(character)
    return bytes(mask) if any(mask.size) else b""


@functools.lru_cache(maxsize=16384)
def face_of(character: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The first face that has the character, or None."""
    if has(font(size), character):
        return font(size)
    return next((face for face in system_fonts(size) if has(face, character)), None)


def runs(text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont | None]]:
    """Stretches of a line that one face draws; without a face, single characters."""
    stretch, face = "", None
    for character in line_of(text):
        other = face_of(character, size)
        if stretch and (other is not face or other is None):
            yield stretch, face
            stretch = ""
        stretch, face = stretch + character, other
    if stretch:
        yield stretch, face


def line_of(text: str) -> str:
    """The text on one line: line ends and tabs as spaces."""
    return "".join(" " if c.isspace() else c for c in text)


def code_point(character: str) -> str:
    """U+4E00."""
    return f"U+{ord(character):04X}"


def height(size: int) -> int:
    """Height of a line."""
    return round(size * LEADING)


def width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return round(sum(_advance(stretch, face, size) for stretch, face in runs(text, size)))


def _advance(stretch: str, face: ImageFont.FreeTypeFont | None, size: int) -> float:
    if face is None:
        return font(round(size * BOX)).getlength(code_point(stretch)) + 6
    return face.getlength(stretch)


def write(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, fill: str) -> float:
    """Draw a line with its top left at (x, y). Returns where it ends."""
    for stretch, face in runs(text, size):
        end = x + _advance(stretch, face, size)
        if face is None:
            draw.rectangle((x + 1, y + size * 0.2, end - 2, y + size * 1.2), outline=fill)
            small = font(round(size * BOX))
            draw.text((x + 3, y + size * 0.95), code_point(stretch), font=small, fill=fill, anchor="ls")
        else:
            draw.text((x, y + size * BASELINE), stretch, font=face, fill=fill, anchor="ls")
        x = end
    return x


def wrap(text: str, size: int, room: float) -> list[str]:
    """Lines of at most `room` pixels, broken at spaces, between Chinese characters, and in a word only when it is
    longer than a line. Line ends of the text stay.
    """
    return [line for paragraph in text.splitlines() or [""] for line in _wrap_one(paragraph, size, room)]


def _wrap_one(text: str, size: int, room: float) -> list[str]:
    lines, line = [], ""
    for piece in pieces(text):
        if width((line + piece).rstrip(), size) <= room:
            line += piece
            continue
        if line.strip():
            lines.append(line.rstrip())
        line = piece.lstrip()
        while width(line.rstrip(), size) > room and len(line) > 1:
            fits = next((n for n in range(len(line) - 1, 1, -1) if width(line[:n], size) <= room), 1)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def pieces(text: str) -> Iterator[str]:
    """What a line may be broken between: words with the spaces after them, and single wide characters. Punctuation
    stays with what it follows."""
    piece = ""
    for character in text:
        wide = unicodedata.east_asian_width(character) in "WF"
        punctuation = unicodedata.category(character) in ("Po", "Pe", "Pf")
        after_wide = bool(piece) and unicodedata.east_asian_width(piece[-1]) in "WF"
        after_space = piece[-1:].isspace()
        starts = (wide or after_wide or after_space) and not punctuation and not character.isspace()
        if piece and starts:
            yield piece
            piece = ""
        piece += character
    if piece:
        yield piece
