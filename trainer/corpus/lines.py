"""One row of a corpus, and the numbered lines of a text file, plain, gzipped or inside a zip."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class CorpusError(ValueError):
    """A corpus that cannot be used at all."""


@dataclass(frozen=True)
class Row:
    """One row as read. `fault` says why it could not be read, and is empty otherwise. `source` is the file's name where
    a corpus has several."""

    number: int
    zh: str
    en: str
    fault: str = ""
    source: str = ""


@contextmanager
def _undamaged(file: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise CorpusError(f"{file}: the archive is damaged or cut short ({error}); download it again") from error


@contextmanager
def opened(file: Path, member: str = "") -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file's bytes: decompressed when it is a .gz, or those of a zip's member. Raises CorpusError when damaged."""
    with _undamaged(file):
        if member:
            with zipfile.ZipFile(file) as archive, archive.open(member) as handle:
                yield handle
        else:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
                yield handle


def members(file: Path) -> list[str]:
    """Names of the files in a zip. Raises CorpusError when damaged."""
    with _undamaged(file), zipfile.ZipFile(file) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def lines(file: Path, member: str = "") -> Iterator[tuple[int, str, str]]:
    """Numbered lines and what is wrong with them; bytes that are not UTF-8 spoil their own line alone.

    Raises CorpusError for an empty file, UTF-16, or a damaged archive.
    """
    number = 0
    with opened(file, member) as handle:
        for number, raw in enumerate(handle, 1):
            if number == 1 and raw.startswith(UTF16):
                raise CorpusError(f"{file}: it is UTF-16; save it as UTF-8")
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                text, fault = raw.decode("utf-8"), ""
            except UnicodeDecodeError:
                text, fault = raw.decode("utf-8", "replace"), "not UTF-8"
            # No text holds a NUL; Python 3.10's csv stops at one.
            if "\0" in text:
                text, fault = text.replace("\0", " "), "control characters"
            yield number, text.rstrip("\r\n"), fault
    if not number:
        raise CorpusError(f"{file}: it is empty")
