"""One row of a corpus, and the numbered lines of a text file, plain, gzipped or inside a zip."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..base.errors import TrainerError

# What the readers of archives raise: RuntimeError for one with a password or packed in an unknown way, OSError for a
# place before the file's beginning.
DAMAGED = (EOFError, OSError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
LONGEST = 1 << 20  # bytes of a line; a caption has some hundred
SMALL, RATIO = 100 << 20, 100  # bytes that any archive may hold, and times its own size; text packs to a tenth


class CorpusError(TrainerError):
    """A corpus that cannot be used at all."""


@dataclass(frozen=True, slots=True)
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
        if isinstance(error, OSError) and error.filename:  # it is not there, or may not be read
            raise
        raise CorpusError(f"{file}: the archive is damaged or cut short ({error}); download it again") from error


class Content:
    """A file's bytes, decompressed. Raises CorpusError for an archive of more than text packs to: a bomb; and where
    `read` has given `stretch` bytes, until which somebody sets it anew."""

    def __init__(self, file: Path, handle: IO[bytes] | gzip.GzipFile) -> None:
        self._file, self._handle = file, handle
        self._left = self.stretch = max(SMALL, RATIO * file.stat().st_size)

    def read(self, size: int = 1 << 14, /) -> bytes:
        """At most so many bytes, none at the end."""
        some = self._counted(self._handle.read(size))
        self.stretch -= len(some)
        if self.stretch < 0:
            raise CorpusError(f"{self._file}: no TMX, more than {LONGEST} bytes without the end of a unit <tu>")
        return some

    def readline(self, size: int) -> bytes:
        """The same, no further than a line's end."""
        return self._counted(self._handle.readline(size))

    def _counted(self, some: bytes) -> bytes:
        self._left -= len(some)
        if self._left < 0:
            raise CorpusError(f"{self._file}: it expands to more than {RATIO} times its size, which no text does")
        return some


@contextmanager
def opened(file: Path, member: str = "") -> Iterator[Content]:
    """A file's bytes: decompressed when it is a .gz, or those of a zip's member. Raises CorpusError when damaged."""
    with _undamaged(file):
        if member:
            with zipfile.ZipFile(file) as archive, archive.open(member) as handle:
                yield Content(file, handle)
        else:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
                yield Content(file, handle)


def members(file: Path) -> list[str]:
    """Names of the files in a zip. Raises CorpusError when damaged."""
    with _undamaged(file), zipfile.ZipFile(file) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def lines(file: Path, member: str = "") -> Iterator[tuple[int, str, str]]:
    """Numbered lines and what is wrong with them; bytes that are not UTF-8 spoil their own line alone. Of a line over
    LONGEST, its beginning.

    Raises CorpusError for an empty file, UTF-16, or a damaged archive.
    """
    number = 0
    with opened(file, member) as handle:
        while raw := handle.readline(LONGEST):
            number += 1
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
            if len(raw) == LONGEST and not raw.endswith(b"\n"):
                text, fault = text[:1000], "line too long"
                while (rest := handle.readline(LONGEST)) and not rest.endswith(b"\n"):
                    pass
            yield number, text.rstrip("\r\n"), fault
    if not number:
        raise CorpusError(f"{file}: it is empty")
