"""Rows of a corpus: tables, folders of tables, datasets of the hub, the starter corpus.

A column name with dots reaches into records: `translation.zh` is the layout of OPUS on the hub.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import one_line
from ..base.files import file_sha256
from ..base.recipe import STARTER, CorpusSettings, Source
from . import starter
from .lines import CorpusError, Row, read_lines

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Record = tuple[int, list[str], str]  # number, fields, fault


def read_rows(source: Source | str, tags: float = CorpusSettings.tags) -> Iterator[Row]:
    """Rows of a source. One whose `zh` is empty is English alone. tags: share of the starter's generated pairs.

    Raises CorpusError if there is no such corpus, or if it is of another kind, damaged, or lacks the columns.
    """
    source = Source(source) if isinstance(source, str) else source
    if count := starter_rows(source.path):
        return starter.read_rows(count, tags)
    if is_hub(source.path):
        return _read_dataset(source)
    files = source_files(source.path)
    if len(files) == 1:
        return _read_file(files[0], source)
    return (replace(row, source=file.name) for file in files for row in _read_file(file, source))


def starter_rows(path: str) -> int:
    """Number of pairs that `starter` or `starter:N` asks for; 0 for any other path, or if a file has that name."""
    asked = re.fullmatch(rf"{STARTER}(?::(\d{{1,9}}))?", path)
    return int(asked[1] or starter.DEFAULT_ROWS) if asked and not os.path.exists(path) else 0


def is_hub(path: str) -> bool:
    """Whether a path is the id of a dataset of the hub: owner/name, and no file of that name or kind."""
    return bool(HUB_ID.fullmatch(path)) and not os.path.exists(path) and _kind(Path(path)) not in (*TABLES, ".txt")


def source_files(path: str) -> list[Path]:
    """Files of a local source, sorted. Raises CorpusError if there are none."""
    given = Path(path)
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise CorpusError(f"{path}: there is no such file or folder")
    tables = sorted(file for file in given.rglob("*") if file.is_file() and _kind(file) in TABLES)
    if not tables:
        raise CorpusError(f"{path}: there is no table in that folder; it is one of {', '.join(TABLES)}")
    return tables


def source_sha256(source: Source) -> str:
    """Digest of a local source's files, or of the starter's tables; of the hub the id.

    Raises CorpusError if there are none.
    """
    if count := starter_rows(source.path):
        return f"{starter.digest()}, {count} rows"
    return source.path if is_hub(source.path) else file_sha256(*source_files(source.path))


def _kind(path: Path) -> str:
    """The suffix that says how to read a file, without .gz and in lower case."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_file(file: Path, source: Source) -> Iterator[Row]:
    kind = _kind(file)
    if kind == ".txt" and not source.zh:
        return (Row(number, "", text, fault) for number, text, fault in read_lines(file))
    if kind == ".tsv":
        lines = read_lines(file)
        return _read_table(file, ((number, text.split("\t"), fault) for number, text, fault in lines), source)
    if kind == ".csv":
        return _read_table(file, _csv_records(file), source)
    if kind == ".jsonl":
        return _read_jsonl(file, source)
    if kind == ".parquet":
        return _read_dataset(source, file)
    raise CorpusError(f"{file}: a corpus is one of {', '.join(TABLES)} (.gz or not), not {kind or 'without a suffix'}")


def _read_table(file: Path, records: Iterator[Record], source: Source) -> Iterator[Row]:
    """Rows of records of which the first names the columns."""
    _, names, fault = next(records)
    if fault:
        raise CorpusError(f"{file}: its first line, the names of the columns: {fault}; save it as UTF-8")
    _check_columns(f"{file}: its first line is", names, source, nested=False)
    zh, en = names.index(source.zh) if source.zh else -1, names.index(source.en)
    for number, fields, fault in records:
        if len(fields) > max(zh, en):
            yield Row(number, fields[zh] if source.zh else "", fields[en], fault)
        else:
            yield Row(number, "\t".join(fields), "", fault or "missing column")


def _csv_records(file: Path) -> Iterator[Record]:
    """Records quoted as in RFC 4180, each with the number of its first line. Raises CorpusError for a wrong quote."""
    faults: list[str] = []  # of the lines of one record

    def text() -> Iterator[str]:
        for _, line, fault in read_lines(file):
            faults.append(fault)
            yield line + "\n"

    reader, first = csv.reader(text(), strict=True), 1
    try:
        for fields in reader:
            yield first, fields, next(filter(None, faults), "")
            first = reader.line_num + 1
            faults.clear()
    except csv.Error as error:
        raise CorpusError(f"{file}: line {first} has a wrong quote, or one that is never closed ({error})") from error


def _read_jsonl(file: Path, source: Source) -> Iterator[Row]:
    for number, line, fault in read_lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield _record_row(number, record, source, fault)
        else:
            yield Row(number, line, "", fault or f"not a JSON object with {source.zh} and {source.en}")


def _check_columns(where: str, names: list[str], source: Source, nested: bool) -> None:
    """Raises CorpusError unless the source's columns are among `names`, or inside them if columns are `nested`."""
    wanted = [source.zh, source.en] if source.zh else [source.en]
    if any(name not in names and not (nested and name.partition(".")[0] in names) for name in wanted):
        raise CorpusError(f"{where} {str(names[:6])[:300]}; it must name the columns {' and '.join(wanted)}")


def _record_row(number: int, record: dict[str, Any], source: Source, fault: str) -> Row:
    try:
        zh, en = (_column(record, name) if name else "" for name in (source.zh, source.en))
    except KeyError:
        return Row(number, json.dumps(record, ensure_ascii=False, default=str), "", fault or "missing column")
    is_text = all(value is None or isinstance(value, str) for value in (zh, en))
    return Row(number, str(zh or ""), str(en or ""), fault or ("" if is_text else "not text"))


def _column(record: Any, name: str) -> Any:
    """A column's value. Raises KeyError if it is missing."""
    if name in record:
        return record[name]
    for key in name.split("."):
        if not isinstance(record, dict):
            raise KeyError(name)
        record = record[key]
    return record


def _read_dataset(source: Source, file: Path | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, or of a dataset of the hub, which is downloaded once; HF_ENDPOINT chooses a mirror."""
    from datasets import Dataset, load_dataset

    try:
        if file:
            table = Dataset.from_parquet(str(file))
        else:
            table = load_dataset(source.path, source.config, split=source.split, revision=source.revision)
        _check_columns(f"{file or source.path}: its columns are", list(table.column_names), source, nested=True)
        for number, record in enumerate(table, 1):
            yield _record_row(number, record, source, "")
    except CorpusError:
        raise
    except Exception as error:  # datasets raises many kinds, whose first cause says most
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        hint = "check the id, its `config` and `split`, download it by hand, or set HF_ENDPOINT to a mirror"
        hint = "write or download it again" if file else f"it is no local file or folder either; {hint}"
        raise CorpusError(f"{file or source.path}: {one_line(cause) or type(cause).__name__}; {hint}") from error
