"""Rows of a corpus from wherever it lies: files by their suffix, folders of them, Moses pairs, datasets of the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..base import CorpusSettings, Source
from . import bitexts as formats
from . import photos, starter, tables
from .lines import CorpusError, Row, lines

__all__ = ["CorpusError", "Row", "files", "read"]

Reader = Callable[[Path, Source], Iterator[Row]]
TABLES: dict[str, Reader] = {
    ".tsv": tables.read_tsv,
    ".tsv.gz": tables.read_tsv,
    ".csv": tables.read_csv,
    ".csv.gz": tables.read_csv,
    ".jsonl": tables.read_jsonl,
    ".jsonl.gz": tables.read_jsonl,
    ".parquet": tables.read_parquet,
}
READERS = TABLES | {
    ".tmx": lambda file, _: formats.read_tmx(file),
    ".tmx.gz": lambda file, _: formats.read_tmx(file),
    ".zip": lambda file, _: formats.read_zip(file),
}
KINDS = f"{', '.join(READERS)}, or one of two Moses files that end in .zh and .en (.gz or not)"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read(source: Source | str, starter_rows: int = CorpusSettings.starter_rows) -> Iterator[Row]:
    """Rows of a file, of every corpus file of a folder, of a saved dataset, of a dataset of the hub, or so many of the
    starter corpus.

    Rows are numbered from 1 as a person counts them. A source whose `zh` is empty is English alone. Raises CorpusError
    when there is no such corpus, it is of another kind, damaged, or lacks the columns.
    """
    source = Source(source) if isinstance(source, str) else source
    if is_starter(source.path):
        return starter.read(starter_rows)
    if is_hub(source.path):
        return _english(tables.read_hub(source), source)
    found = files(source)
    if len(found) == 1:
        return _read_file(found[0], source)
    return (replace(row, source=file.name) for file in found for row in _read_file(file, source))


def is_starter(path: str) -> bool:
    """Whether a path names the starter corpus: `starter`, with nothing there of that name."""
    return path == starter.NAME and not Path(path).exists()


def is_hub(path: str) -> bool:
    """Whether a path names a dataset of the hub: owner/name, with nothing there of that name."""
    return not Path(path).exists() and bool(HUB_ID.fullmatch(path)) and not _known(Path(path))


def files(source: Source) -> list[Path]:
    """The files that a local source consists of, sorted, for a Moses pair its Chinese side. A saved dataset is itself.

    Raises CorpusError when there are none.
    """
    path = Path(source.path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        beside = path.parent.iterdir() if path.parent.is_dir() else iter(())
        sides = [p for p in beside if p.name.startswith(f"{path.name}.") and formats.moses_language(p.name) == "zh"]
        if len(sides) == 1:
            return sides
        raise CorpusError(f"{source.path}: there is no such corpus file, nor a folder or a Moses pair of that name")
    if _is_saved(path):
        return [path]
    # The English side of a Moses pair is read with the Chinese one.
    found = sorted(p for p in path.rglob("*") if p.is_file() and _known(p) and formats.moses_language(p.name) != "en")
    if not found:
        raise CorpusError(f"{source.path}: there is no corpus file in that folder; it is one of {KINDS}")
    return found


def _known(path: Path) -> bool:
    return _suffix(path) in READERS or bool(formats.moses_language(path.name))


def _suffix(path: Path) -> str:
    last = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    return "".join(last).lower()


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _read_file(path: Path, source: Source) -> Iterator[Row]:
    if path.is_dir():
        return _english(tables.read_saved(path, source), source)
    suffix = _suffix(path)
    if not source.zh and suffix in (".txt", ".txt.gz"):
        return photos.read_text(path)
    if not source.zh and suffix in (".tsv", ".tsv.gz", "") and photos.is_yfcc(next(lines(path))[1].split("\t")):
        return photos.read_yfcc(path)
    if suffix in READERS:
        return _english(READERS[suffix](path, source), source)
    if formats.moses_language(path.name):
        return formats.read_moses(path)
    raise CorpusError(f"{path}: a corpus is one of {KINDS}, not {path.suffix or 'without a suffix'}")


def _english(rows: Iterator[Row], source: Source) -> Iterator[Row]:
    """A photograph's title or description is decoded on the way."""
    return photos.decoded(rows) if not source.zh and source.en in ("title", "description") else rows
