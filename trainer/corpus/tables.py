"""Tables with named columns: TSV, CSV, JSON lines, Parquet, and whatever `datasets` loads from a folder or the hub.

A column name with dots reaches into records: `translation.zh` is OPUS's layout on the hub.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from ..base.errors import one_line
from ..base.recipe import Source
from .lines import CorpusError, Row, lines


def read_tsv(file: Path, source: Source) -> Iterator[Row]:
    """Lines of fields between tabs, without quoting; the first names the columns."""
    yield from _fields(file, ((number, line.split("\t"), fault) for number, line, fault in lines(file)), source)


def read_csv(file: Path, source: Source) -> Iterator[Row]:
    """Comma-separated fields, quoted as RFC 4180 has it; the first line names the columns."""
    yield from _fields(file, _quoted(file), source)


def read_jsonl(file: Path, source: Source) -> Iterator[Row]:
    """A JSON object a line."""
    for number, line, fault in lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield _record(number, record, source, fault)
        else:
            yield Row(number, line, "", fault or f"not a JSON object with {source.zh} and {source.en}")


def read_parquet(file: Path, source: Source) -> Iterator[Row]:
    """A Parquet file, memory-mapped by `datasets`."""
    with _said(f"{file}: cannot be read as Parquet", "; write or download it again"):
        table = Dataset.from_parquet(str(file))
    yield from _table(str(file), table, source)


def read_saved(folder: Path, source: Source) -> Iterator[Row]:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    with _said(f"{folder}: cannot be read as a saved dataset", "; save it again"):
        table = load_from_disk(str(folder))
    if isinstance(table, DatasetDict):
        if source.split not in table:
            raise CorpusError(f"{folder}: it has the splits {sorted(table)}, not {source.split!r}; set `split`")
        table = table[source.split]
    yield from _table(str(folder), table, source)


def read_hub(source: Source) -> Iterator[Row]:
    """A dataset of the hub by its id, downloaded once (HF_ENDPOINT chooses a mirror)."""
    cure = "Check the id, its `config` and `split`, download it by hand, or set HF_ENDPOINT to a mirror."
    with _said(f"{source.path}: neither a local file or folder nor to be had from the hub", f". {cure}"):
        table = load_dataset(source.path, source.config, split=source.split, revision=source.revision)
    yield from _table(source.path, table, source)


@contextmanager
def _said(what: str, cure: str) -> Iterator[None]:
    """An error of `datasets` in one line: its first reason, which it wraps in what it was doing."""
    try:
        yield
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        raise CorpusError(f"{what} ({one_line(first) or type(first).__name__}){cure}") from error


def _quoted(file: Path) -> Iterator[tuple[int, list[str], str]]:
    """A CSV's records: the number of the first line, the fields, and what is wrong with any of the lines."""
    faults: list[str] = []

    def text() -> Iterator[str]:
        for _, line, fault in lines(file):
            faults.append(fault)
            yield line + "\n"

    reader = csv.reader(text(), strict=True)
    while True:
        first, fields = reader.line_num + 1, []
        faults.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > first or "end of data" in str(error):
                raise CorpusError(f"{file}: the quote in line {first} is never closed ({error})") from error
            faults[:] = ["wrong quoting"]
        yield first, fields, next(filter(None, faults), "")


def _fields(file: Path, records: Iterator[tuple[int, list[str], str]], source: Source) -> Iterator[Row]:
    names = next(records)[1]
    check_columns(str(file), names, source, "its first line is", records=False)
    zh, en = names.index(source.zh) if source.zh else -1, names.index(source.en)
    for number, fields, fault in records:
        if len(fields) > max(zh, en):
            yield Row(number, fields[zh] if source.zh else "", fields[en], fault)
        else:
            yield Row(number, "\t".join(fields), "", fault or "missing column")


def _table(where: str, table: Iterable[dict[str, Any]], source: Source) -> Iterator[Row]:
    check_columns(where, list(getattr(table, "column_names", [])), source)
    records = enumerate(table, 1)
    while True:
        with _said(f"{where}: a row cannot be read", "; write or download it again"):
            number, record = next(records, (0, {}))
        if not number:
            return
        yield _record(number, record, source, "")


def check_columns(
    where: str, names: list[str], source: Source, said: str = "its columns are", records: bool = True
) -> None:
    """Raises CorpusError unless the source's columns are among these, or, in a table with `records`, inside them."""
    wanted = [*([source.zh] if source.zh else []), source.en]
    if any(name not in names and not (records and name.partition(".")[0] in names) for name in wanted):
        raise CorpusError(f"{where}: {said} {str(names[:6])[:300]}; it must name the columns {' and '.join(wanted)}")


def _record(number: int, record: dict[str, Any], source: Source, fault: str) -> Row:
    try:
        texts = [_value(record, name) if name else "" for name in (source.zh, source.en)]
    except KeyError:
        return Row(number, json.dumps(record, ensure_ascii=False, default=str), "", fault or "missing column")
    zh, en = ("" if text is None else text for text in texts)
    whole = isinstance(zh, str) and isinstance(en, str)
    return Row(number, str(zh), str(en), fault or ("" if whole else "not text"))


def _value(record: Any, name: str) -> Any:
    """A column's value. Raises KeyError when it is not there."""
    if name in record:
        return record[name]
    for part in name.split("."):
        if not isinstance(record, dict):
            raise KeyError(name)
        record = record[part]
    return record
