"""English captions alone: YFCC's metadata of photographs, or one caption a line.

YFCC100M is a table without a header (23 columns; 25 where row number and hash were added), its texts URL-encoded. Title
and description are a photograph's two captions. https://multimediacommons.wordpress.com/yfcc100m-core-dataset/
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .lines import Row, lines

# Columns of the camera, the title and the description, by the number of columns.
YFCC = {23: (5, 6, 7), 25: (7, 8, 9)}
ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
TAG = re.compile(r"</?[A-Za-z][^<>]*>")
LAST_HASHTAGS = re.compile(r"(?:\s*#\w+)+\s*$")


def is_yfcc(fields: list[str]) -> bool:
    """Whether a first line is YFCC100M's: it has its columns, and a number where the photograph's id stands."""
    return len(fields) in YFCC and fields[len(fields) // 24].isdigit()


def read_yfcc(file: Path) -> Iterator[Row]:
    """Titles and descriptions of YFCC100M's own tab-separated metadata, decoded. zh is empty."""
    for number, line, fault in lines(file):
        fields = line.split("\t")
        if len(fields) not in YFCC:
            yield Row(number, "", line, fault or "missing column")
            continue
        camera, title, description = (unquote(fields[at]) for at in YFCC[len(fields)])
        yield from captions(number, camera, title, description, fault)


def read_text(file: Path) -> Iterator[Row]:
    """One English caption a line."""
    for number, line, fault in lines(file):
        yield Row(number, "", line, fault)


def captions(number: int, camera: str, title: str, description: str, fault: str = "") -> Iterator[Row]:
    """The rows of one photograph: what its title and its description say, or one empty row."""
    texts = [text for text in (title, description) if text.strip()] or [""]
    for text in dict.fromkeys(texts):
        en = plain(text)
        if text.strip() and not en:
            yield Row(number, "", text, fault or "only hashtags or markup")
        elif en and en.lower() == " ".join(camera.lower().split()):
            yield Row(number, "", en, fault or "camera name")
        else:
            yield Row(number, "", en, fault)


def decoded(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of a table with columns title or description, which may be encoded or not."""
    for row in rows:
        text = row.en if re.search(r"\s", row.en.strip()) else unquote(row.en)
        yield from captions(row.number, "", text, "", row.fault)


def unquote(text: str) -> str:
    """URL-encoded text as it was: %20 and + are spaces. Bytes that are not UTF-8 become U+FFFD."""
    raw = ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.replace("+", " ").encode("utf-8"))
    return raw.decode("utf-8", "replace")


def plain(text: str) -> str:
    """A caption without HTML and hashtags: its first line that has any text. Tags at the end go, others lose their
    sign."""
    text = re.sub(r"<br\s*/?>|</p>", "\n", html.unescape(html.unescape(text)), flags=re.I)
    for line in TAG.sub(" ", text).splitlines():
        kept = re.sub(r"#(?=\w)", "", LAST_HASHTAGS.sub("", line))
        if kept.strip():
            return " ".join(kept.split())
    return ""
