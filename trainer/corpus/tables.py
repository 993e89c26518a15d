"""Tables with named columns: TSV, CSV, JSON lines, Parquet, and whatever `datasets` loads from a folder or the hub.

A column name with dots reaches into records: `translation.zh` is OPUS's layout on the hub.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from ..base import Source
from .lines import CorpusError, Row, lines


def read_tsv(file: Path, source: Source) -> Iterator[Row]:
    """Lines of fields between tabs, without quoting; the first names the columns."""
    numbered = lines(file)
    zh, en = columns(file, next(numbered)[1].split("\t"), source)
    for number, line, fault in numbered:
        yield _row(number, line.split("\t"), zh, en, fault)


def read_csv(file: Path, source: Source) -> Iterator[Row]:
    """Comma-separated fields, quoted as RFC 4180 has it; the first line names the columns."""
    faults: dict[int, str] = {}

    def text() -> Iterator[str]:
        for number, line, fault in lines(file):
            faults[number] = fault
            yield line + "\n"

    reader = csv.reader(text(), strict=True)
    last, header = 0, True
    zh = en = -1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if reader.line_num - last > 1 or "end of data" in str(error):
                raise CorpusError(f"{file}: the quote in line {last + 1} is never closed ({error})") from error
            yield Row(reader.line_num, "", "", "wrong quoting")
            last = reader.line_num
            continue
        if fields is None:
            return
        if header:
            zh, en = columns(file, fields, source)
            header = False
        else:
            fault = next((faults[n] for n in range(last + 1, reader.line_num + 1) if faults[n]), "")
            yield _row(last + 1, fields, zh, en, fault)
        faults.clear()
        last = reader.line_num


def read_jsonl(file: Path, source: Source) -> Iterator[Row]:
    """A JSON object a line."""
    for number, line, fault in lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            yield Row(number, line, "", fault or f"not a JSON object with {source.zh} and {source.en}")
            continue
        yield _record(number, record, source, fault)


def read_parquet(file: Path, source: Source) -> Iterator[Row]:
    """A Parquet file, memory-mapped by `datasets`."""
    try:
        table = Dataset.from_parquet(str(file))
    except Exception as error:
        raise CorpusError(f"{file}: cannot be read as Parquet ({_cause(error)}); write or download it again") from error
    yield from _table(str(file), table, source)


def read_saved(folder: Path, source: Source) -> Iterator[Row]:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    try:
        found = load_from_disk(str(folder))
    except Exception as error:
        raise CorpusError(f"{folder}: cannot be read as a saved dataset ({_cause(error)}); save it again") from error
    if isinstance(found, DatasetDict):
        if source.split not in found:
            raise CorpusError(f"{folder}: it has the splits {sorted(found)}, not {source.split!r}; set `split`")
        found = found[source.split]
    yield from _table(str(folder), found, source)


def read_hub(source: Source) -> Iterator[Row]:
    """A dataset of the hub by its id, downloaded once (HF_ENDPOINT chooses a mirror)."""
    try:
        table = load_dataset(source.path, source.config, split=source.split, revision=source.revision)
    except Exception as error:
        raise CorpusError(
            f"{source.path}: neither a local file or folder nor to be had from the hub ({_cause(error)}). "
            "Check the id, its `config` and `split`, download it by hand, or set HF_ENDPOINT to a mirror."
        ) from error
    yield from _table(source.path, table, source)


def columns(file: Path, names: list[str], source: Source) -> tuple[int, int]:
    """Where the two columns stand; the Chinese one is -1 when the source has none."""
    check_columns(str(file), names, source, "its first line is")
    return (names.index(source.zh) if source.zh else -1), names.index(source.en)


def check_columns(where: str, names: list[str], source: Source, said: str = "its columns are") -> None:
    """Raises CorpusError unless the source's columns are among these."""
    wanted = [name for name in (source.zh, source.en) if name]
    if any(name.partition(".")[0] not in names and name not in names for name in wanted):
        raise CorpusError(f"{where}: {said} {names[:6]}; it must name the columns {' and '.join(wanted)}")


def _row(number: int, fields: list[str], zh: int, en: int, fault: str) -> Row:
    if len(fields) <= max(zh, en):
        return Row(number, "\t".join(fields), "", fault or "missing column")
    return Row(number, fields[zh] if zh >= 0 else "", fields[en], fault)


def _table(where: str, table: Iterable[dict[str, Any]], source: Source) -> Iterator[Row]:
    check_columns(where, list(getattr(table, "column_names", [])), source)
    for number, record in enumerate(table, 1):
        yield _record(number, record, source, "")


def _record(number: int, record: dict[str, Any], source: Source, fault: str) -> Row:
    zh = _value(record, source.zh) if source.zh else ""
    en = _value(record, source.en)
    if zh is KeyError or en is KeyError:
        return Row(number, json.dumps(record, ensure_ascii=False, default=str), "", fault or "missing column")
    zh, en = (value if value is not None else "" for value in (zh, en))
    whole = isinstance(zh, str) and isinstance(en, str)
    return Row(number, str(zh), str(en), fault or ("" if whole else "not text"))


def _value(record: Any, name: str) -> Any:
    """A column's value, KeyError itself when it is not there."""
    if name in record:
        return record[name]
    for part in name.split("."):
        if not isinstance(record, dict) or part not in record:
            return KeyError
        record = record[part]
    return record


def _cause(error: BaseException) -> str:
    """The first reason of an error, in one line: `datasets` wraps it in what it was doing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
