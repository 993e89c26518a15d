"""English captions of photographs, for translation: YFCC100M's metadata.

A table without a header (23 columns; 25 where row number and hash were added), its texts URL-encoded. Title and
description are a photograph's two captions. https://multimediacommons.wordpress.com/yfcc100m-core-dataset/
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from .lines import Row, read_lines

COLUMNS = {23: (6, 7), 25: (8, 9)}  # title and description, by the number of columns
TAG = re.compile(r"</?[A-Za-z][^<>]*>")
LAST_HASHTAGS = re.compile(r"(?:\s*#\w+)+\s*$")


def is_yfcc(line: str) -> bool:
    """Whether a first line is YFCC100M's: its columns, and a number as the photograph's id."""
    fields = line.split("\t")
    return len(fields) in COLUMNS and fields[len(fields) // 24].isdigit()


def read_yfcc(file: Path) -> Iterator[Row]:
    """Titles and descriptions of YFCC100M's metadata, decoded; `zh` is empty."""
    for number, line, fault in read_lines(file):
        fields = line.split("\t")
        if len(fields) not in COLUMNS:
            yield Row(number, "", line, fault or "missing column")
            continue
        texts = [url_decoded(fields[at]) for at in COLUMNS[len(fields)]]
        for text in dict.fromkeys(text for text in texts if text.strip()) or [""]:
            caption = plain(text)
            lost = text.strip() and not caption
            yield Row(number, "", caption or text, fault or ("only hashtags or markup" if lost else ""))


def url_decoded(text: str) -> str:
    """Text with each `+` as a space and each %XX as a byte of UTF-8."""
    encoded = text.replace("+", " ").encode("utf-8", "surrogatepass")
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), encoded)
    return decoded.decode("utf-8", "replace")


def plain(text: str) -> str:
    """First line with text in it, without HTML; hashtags at the end are dropped, others lose their sign."""
    text = re.sub(r"<br\s*/?>|</p>", "\n", html.unescape(html.unescape(text)), flags=re.I)
    lines = (re.sub(r"#(?=\w)", "", LAST_HASHTAGS.sub("", line)) for line in TAG.sub(" ", text).splitlines())
    return next((" ".join(line.split()) for line in lines if line.strip()), "")
