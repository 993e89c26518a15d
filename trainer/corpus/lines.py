"""One row of a corpus, and the numbered lines of a text file, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..base.errors import TrainerError

MAX_LINE = 1 << 20  # bytes; a caption has some hundred
# An archive may expand to MAX_EXPANDED bytes, or to MAX_RATIO times its own size; text packs to a tenth.
MAX_EXPANDED, MAX_RATIO = 100 << 20, 100


class CorpusError(TrainerError):
    """A source that cannot be read as a corpus at all."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read, numbered from 1. `fault`: why it could not be read, or empty. `source`: name of its file, where
    a corpus has several."""

    number: int
    zh: str
    en: str
    fault: str = ""
    source: str = ""


def read_lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """Lines of a UTF-8 file, decompressed if it is a .gz: number from 1, text without its line end, and why it is no
    text, or "". Of a line over MAX_LINE bytes only the beginning is read.

    Raises CorpusError if the file is empty, a damaged archive, or an archive that expands without end.
    """
    number, continued = 0, False
    limit = max(MAX_EXPANDED, MAX_RATIO * file.stat().st_size)
    handle: IO[bytes] | gzip.GzipFile
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            while chunk := handle.readline(MAX_LINE):
                if handle.tell() > limit:
                    raise CorpusError(f"{file}: it expands to more than {MAX_RATIO} times its size, which no text does")
                ends = chunk.endswith(b"\n")
                if not continued:
                    number += 1
                    yield number, *_decode(chunk, too_long=len(chunk) == MAX_LINE and not ends)
                continued = not ends
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{file}: the archive is damaged or cut short ({error}); download it again") from error
    if not number:
        raise CorpusError(f"{file}: it is empty")


def _decode(raw: bytes, too_long: bool) -> tuple[str, str]:
    """Text and fault of one line, without a byte order mark; bytes that are not UTF-8 spoil their own line only."""
    fault = ""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, fault = raw.decode("utf-8", "replace"), "not UTF-8"
    if "\0" in text:  # Python 3.10's csv stops at one
        text, fault = text.replace("\0", " "), "control characters"
    return (text[:1000], "line too long") if too_long else (text.rstrip("\r\n"), fault)
