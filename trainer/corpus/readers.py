"""Rows of a corpus: tables, folders of tables, Moses pairs, datasets of the hub, the starter corpus.

A column name with dots reaches into records: `translation.zh` is the layout of OPUS on the hub.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..base.errors import one_line
from ..base.files import file_sha256
from ..base.recipe import STARTER, Source
from . import starter
from .lines import CorpusError, Row, read_lines

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
MOSES = (".zh", ".en")
FORMATS = f"{', '.join(TABLES)} (.gz or not), or two files NAME.zh and NAME.en"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Record = tuple[int, list[str], str]  # number, fields, fault


def read(source: Source | str) -> Iterator[Row]:
    """Rows of a source. One whose `zh` is empty is English alone.

    Raises CorpusError if there is no such corpus, or if it is of another kind, damaged, or lacks the columns.
    """
    source = Source(source) if isinstance(source, str) else source
    if rows := starter_rows(source.path):
        return starter.read(rows)
    if is_hub(source.path):
        return _read_hub(source)
    parts = files(source.path)
    if parts[0].suffix in MOSES:
        return _read_moses(*parts)
    if len(parts) == 1:
        return _read_file(parts[0], source)
    return (replace(row, source=file.name) for file in parts for row in _read_file(file, source))


def starter_rows(path: str) -> int:
    """Number of pairs that `starter` or `starter:N` asks for; 0 for any other path, or if a file has that name."""
    asked = re.fullmatch(rf"{STARTER}(?::(\d{{1,9}}))?", path)
    return int(asked[1] or starter.ROWS) if asked and not os.path.exists(path) else 0


def is_hub(path: str) -> bool:
    """Whether a path is the id of a dataset of the hub: owner/name, and no file of that name or kind."""
    is_file = os.path.exists(path) or os.path.exists(f"{path}.zh") or _kind(Path(path)) in (*TABLES, *MOSES, ".txt")
    return bool(HUB_ID.fullmatch(path)) and not is_file


def files(path: str) -> list[Path]:
    """Files of a local source, sorted; of a Moses pair, named by one file or without its suffix, Chinese and English.

    Raises CorpusError if there are none.
    """
    given = Path(path)
    if given.is_dir():
        parts = sorted(file for file in given.rglob("*") if file.is_file() and _kind(file) in TABLES)
        if not parts:
            raise CorpusError(f"{path}: there is no table in that folder; it is one of {', '.join(TABLES)}")
        return parts
    if given.is_file() and given.suffix not in MOSES:
        return [given]
    stem = given.with_suffix("") if given.suffix in MOSES else given
    pair = [Path(f"{stem}{suffix}") for suffix in MOSES]
    if missing := [str(file) for file in pair if not file.is_file()]:
        raise CorpusError(f"{path}: there is no such file, folder or Moses pair ({' and '.join(missing)} missing)")
    return pair


def source_sha256(source: Source) -> str:
    """Digest of a local source's files, or of the starter's tables; of the hub the id.

    Raises CorpusError if there are none.
    """
    if rows := starter_rows(source.path):
        return f"{starter.digest()}, {rows} rows"
    return source.path if is_hub(source.path) else file_sha256(*files(source.path))


def _kind(path: Path) -> str:
    """The suffix that says how to read a file, without .gz and in lower case."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_file(path: Path, source: Source) -> Iterator[Row]:
    kind = _kind(path)
    if kind == ".txt" and not source.zh:
        return (Row(number, "", text, fault) for number, text, fault in read_lines(path))
    if kind == ".jsonl":
        return _read_jsonl(path, source)
    if kind == ".parquet":
        return _read_parquet(path, source)
    if kind not in TABLES:
        raise CorpusError(f"{path}: a corpus is one of {FORMATS}, not {kind or 'without a suffix'}")
    lines = ((number, text.split("\t"), fault) for number, text, fault in read_lines(path))
    return _read_table(path, _csv_records(path) if kind == ".csv" else lines, source)


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


def _check_columns(found: str, names: list[str], source: Source, nested: bool) -> None:
    """Raises CorpusError unless the source's columns are among `names`, or inside them if columns are `nested`."""
    wanted = [source.zh, source.en] if source.zh else [source.en]
    if any(name not in names and not (nested and name.partition(".")[0] in names) for name in wanted):
        raise CorpusError(f"{found} {str(names[:6])[:300]}; it must name the columns {' and '.join(wanted)}")


def _record_row(number: int, record: dict[str, Any], source: Source, fault: str) -> Row:
    try:
        zh, en = (_value(record, name) if name else "" for name in (source.zh, source.en))
    except KeyError:
        return Row(number, json.dumps(record, ensure_ascii=False, default=str), "", fault or "missing column")
    is_text = all(value is None or isinstance(value, str) for value in (zh, en))
    return Row(number, str(zh or ""), str(en or ""), fault or ("" if is_text else "not text"))


def _value(record: Any, name: str) -> Any:
    """A column's value. Raises KeyError if it is missing."""
    if name in record:
        return record[name]
    for key in name.split("."):
        if not isinstance(record, dict):
            raise KeyError(name)
        record = record[key]
    return record


def _read_moses(zh_file: Path, en_file: Path) -> Iterator[Row]:
    """Rows of two line-aligned files."""
    for zh, en in zip_longest(read_lines(zh_file), read_lines(en_file)):
        if zh is None or en is None:
            lines = (zh or en).number - 1
            raise CorpusError(f"{zh_file}, {en_file}: not line-aligned, one has {lines} lines; download both again")
        yield Row(zh.number, zh.text, en.text, zh.fault or en.fault)


def _read_parquet(path: Path, source: Source) -> Iterator[Row]:
    from datasets import Dataset

    cure = "write or download it again"
    return _dataset_rows(str(path), _call(f"{path}: not Parquet", cure, Dataset.from_parquet, str(path)), source)


def _read_hub(source: Source) -> Iterator[Row]:
    """Rows of a dataset that is downloaded once; HF_ENDPOINT chooses a mirror."""
    from datasets import load_dataset

    cure = "check the id, its `config` and `split`, download it by hand, or set HF_ENDPOINT to a mirror"
    what = f"{source.path}: neither a local file or folder nor to be had from the hub"
    options = {"split": source.split, "revision": source.revision}
    return _dataset_rows(source.path, _call(what, cure, load_dataset, source.path, source.config, **options), source)


def _dataset_rows(where: str, table: Any, source: Source) -> Iterator[Row]:
    _check_columns(f"{where}: its columns are", list(table.column_names), source, nested=True)
    records = iter(table)
    for number in range(1, len(table) + 1):
        record = _call(f"{where}: a row cannot be read", "write or download it again", next, records)
        yield _record_row(number, record, source, "")


def _call(what: str, cure: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call of `datasets`, whose errors become a CorpusError with the first cause in one line."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise CorpusError(f"{what} ({one_line(cause) or type(cause).__name__}); {cure}") from error
