"""Rows of a corpus from wherever it lies: files by their suffix, folders of them, Moses pairs, datasets of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..base.files import file_sha256
from ..base.recipe import STARTER, Source
from . import bitexts, photos, starter, tables
from .lines import CorpusError, Row, lines

Reader = Callable[[Path, Source], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".tsv": tables.read_tsv,
    ".csv": tables.read_csv,
    ".jsonl": tables.read_jsonl,
    ".tmx": lambda file, _: bitexts.read_tmx(file),
}
READERS |= {f"{suffix}.gz": reader for suffix, reader in READERS.items()}
READERS |= {".parquet": tables.read_parquet, ".zip": lambda file, _: bitexts.read_zip(file)}
KINDS = f"{', '.join(READERS)}, or one of two Moses files that end in .zh and .en (.gz or not)"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read(source: Source | str) -> Iterator[Row]:
    """Rows of a file, of every corpus file of a folder, of a saved dataset, of a dataset of the hub, or so many of the
    starter corpus.

    Rows are numbered from 1 as a person counts them. A source whose `zh` is empty is English alone. Raises CorpusError
    when there is no such corpus, it is of another kind, damaged, or lacks the columns.
    """
    source = Source(source) if isinstance(source, str) else source
    if drawn := starter_rows(source.path):
        return starter.read(drawn)
    if is_hub(source.path):
        return _english(tables.read_hub(source), source)
    parts = files(source)
    if len(parts) == 1:
        return _read_file(parts[0], source)
    return (replace(row, source=file.name) for file in parts for row in _read_file(file, source))


def starter_rows(path: str) -> int:
    """Pairs of the starter corpus that a path asks for, `starter` or `starter:N` with nothing there of that name; else
    0."""
    asked = re.fullmatch(rf"{STARTER}(?::(\d{{1,9}}))?", path)
    return int(asked[1] or starter.ROWS) if asked and not os.path.exists(path) else 0


def is_hub(path: str) -> bool:
    """Whether a path names a dataset of the hub: owner/name, with nothing there of that name."""
    return not os.path.exists(path) and bool(HUB_ID.fullmatch(path)) and not _known(Path(path))


def files(source: Source) -> list[Path]:
    """The files that a local source consists of, sorted, for a Moses pair its Chinese side. A saved dataset is itself.

    Raises CorpusError when there are none.
    """
    path = Path(source.path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        beside = path.parent.iterdir() if path.parent.is_dir() else iter(())
        sides = [p for p in beside if p.name.startswith(f"{path.name}.") and bitexts.moses_language(p.name) == "zh"]
        if len(sides) == 1:
            return sides
        raise CorpusError(f"{source.path}: there is no such corpus file, nor a folder or a Moses pair of that name")
    if _is_saved(path):
        return [path]
    # The English side of a Moses pair is read with the Chinese one.
    parts = sorted(p for p in path.rglob("*") if p.is_file() and _known(p) and bitexts.moses_language(p.name) != "en")
    if not parts:
        raise CorpusError(f"{source.path}: there is no corpus file in that folder; it is one of {KINDS}")
    return parts


def source_sha256(source: Source) -> str:
    """Digest of a local source's files, a Moses pair's both, or of the starter's tables; of a dataset of the hub its
    id. Raises as `files`."""
    if rows := starter_rows(source.path):
        return f"{starter.digest()}, {rows} rows"
    if is_hub(source.path):
        return source.path
    parts: list[Path] = []
    for file in files(source):
        if file.is_dir():
            parts += sorted(p for p in file.rglob("*") if p.is_file())
        elif bitexts.moses_language(file.name):
            beside = file.parent.glob(f"{bitexts.stem(file.name)}.*")
            parts += sorted({file, *(p for p in beside if bitexts.moses_language(p.name))})
        else:
            parts.append(file)
    return file_sha256(*parts)


def _known(path: Path) -> bool:
    return _suffix(path) in READERS or bool(bitexts.moses_language(path.name))


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
    if bitexts.moses_language(path.name):
        return bitexts.read_moses(path)
    raise CorpusError(f"{path}: a corpus is one of {KINDS}, not {path.suffix or 'without a suffix'}")


def _english(rows: Iterator[Row], source: Source) -> Iterator[Row]:
    """A photograph's title or description is decoded on the way."""
    return photos.decoded(rows) if not source.zh and source.en in ("title", "description") else rows
