"""Rows of pairs from a file: TSV, CSV, JSON lines or Parquet, with columns zh and en."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset


class CorpusError(ValueError):
    """A corpus file that cannot be used at all."""


@dataclass(frozen=True)
class Row:
    """One row as read. `fault` says why it could not be read, and is empty otherwise."""

    number: int
    zh: str
    en: str
    fault: str = ""


def read(path: str) -> Iterator[Row]:
    """Rows of a .tsv, .csv, .jsonl or .parquet file with columns zh and en, numbered from 1 as a person counts them.

    Raises CorpusError when the file is missing, of another kind, or has no such columns.
    """
    file = Path(path)
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".tsv": _read_tsv,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    if not file.is_file():
        raise CorpusError(f"{path}: there is no such corpus file")
    if file.suffix not in readers:
        raise CorpusError(f"{path}: a corpus is one of {', '.join(readers)}, not {file.suffix or 'without a suffix'}")
    return readers[file.suffix](file)


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """Numbered lines and what is wrong with them; bytes that are not UTF-8 spoil their own line alone."""
    with file.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError:
                yield number, raw.decode("utf-8", "replace").rstrip("\r\n"), "not UTF-8"


def _columns(file: Path, names: list[str]) -> tuple[int, int]:
    if "zh" not in names or "en" not in names:
        raise CorpusError(f"{file}: its first line is {names[:4]}; it must name the columns zh and en")
    return names.index("zh"), names.index("en")


def _read_tsv(file: Path) -> Iterator[Row]:
    lines = _lines(file)
    zh, en = _columns(file, next(lines, (0, "", ""))[1].split("\t"))
    for number, line, fault in lines:
        yield _row(number, line.split("\t"), zh, en, fault)


def _read_csv(file: Path) -> Iterator[Row]:
    faults: dict[int, str] = {}

    def text() -> Iterator[str]:
        for number, line, fault in _lines(file):
            faults[number] = fault
            yield line + "\n"

    reader = csv.reader(text())
    zh, en = _columns(file, next(reader, []))
    last = reader.line_num
    for fields in reader:
        fault = next((faults[n] for n in range(last + 1, reader.line_num + 1) if faults[n]), "")
        yield _row(last + 1, fields, zh, en, fault)
        last = reader.line_num


def _row(number: int, fields: list[str], zh: int, en: int, fault: str) -> Row:
    if len(fields) <= max(zh, en):
        return Row(number, "\t".join(fields), "", fault or "missing column")
    return Row(number, fields[zh], fields[en], fault)


def _read_jsonl(file: Path) -> Iterator[Row]:
    for number, line, fault in _lines(file):
        try:
            record = json.loads(line)
            zh, en = record["zh"], record["en"]
        except (ValueError, KeyError, TypeError):
            yield Row(number, line, "", fault or "not a JSON object with zh and en")
            continue
        whole = isinstance(zh, str) and isinstance(en, str)
        yield Row(number, str(zh), str(en), fault or ("" if whole else "not text"))


def _read_parquet(file: Path) -> Iterator[Row]:
    try:
        table = Dataset.from_parquet(str(file))
    except Exception as error:
        raise CorpusError(f"{file}: cannot be read as Parquet ({error})") from error
    _columns(file, table.column_names)
    for number, record in enumerate(table, 1):
        yield Row(number, record["zh"] or "", record["en"] or "")
