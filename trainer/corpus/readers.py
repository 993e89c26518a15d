"""Rows of a corpus: tables, Moses pairs, folders of them, saved datasets, datasets of the hub, the starter corpus.

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
from . import english, starter
from .lines import CorpusError, Row, read_lines

TABLES = (".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz", ".jsonl.gz", ".parquet")
FORMATS = f"{', '.join(TABLES)}, or one of two Moses files that end in .zh and .en (.gz or not)"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# OPUS writes zh, zh_CN, zh_TW, zh-Hant, and cmn in a few corpora.
LANGUAGES = {"zh": re.compile(r"(?:zh|cmn)(?:[_-]\w+)?", re.I), "en": re.compile(r"en(?:[_-]\w+)?", re.I)}
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
    parts = files(source)
    if len(parts) == 1:
        return _read_file(parts[0], source)
    return (replace(row, source=file.name) for file in parts for row in _read_file(file, source))


def starter_rows(path: str) -> int:
    """Number of pairs that `starter` or `starter:N` asks for; 0 for any other path, or if a file has that name."""
    asked = re.fullmatch(rf"{STARTER}(?::(\d{{1,9}}))?", path)
    return int(asked[1] or starter.ROWS) if asked and not os.path.exists(path) else 0


def is_hub(path: str) -> bool:
    """Whether a path is the id of a dataset of the hub: owner/name, and no file of that name or kind."""
    return not os.path.exists(path) and bool(HUB_ID.fullmatch(path)) and not _is_corpus(Path(path))


def files(source: Source) -> list[Path]:
    """Sorted files of a local source; of a Moses pair its Chinese side; of a saved dataset its folder.

    Raises CorpusError if there are none.
    """
    path = Path(source.path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        beside = path.parent.iterdir() if path.parent.is_dir() else iter(())
        sides = [p for p in beside if p.name.startswith(f"{path.name}.") and _moses_language(p) == "zh"]
        if len(sides) == 1:
            return sides
        raise CorpusError(f"{source.path}: there is no such corpus file, nor a folder or a Moses pair of that name")
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return [path]
    parts = sorted(p for p in path.rglob("*") if p.is_file() and _is_corpus(p) and _moses_language(p) != "en")
    if not parts:
        raise CorpusError(f"{source.path}: there is no corpus file in that folder; it is one of {FORMATS}")
    return parts


def source_sha256(source: Source) -> str:
    """Digest of a local source's files, both of a Moses pair, or of the starter's tables; of the hub the id.

    Raises CorpusError if there are none.
    """
    if rows := starter_rows(source.path):
        return f"{starter.digest()}, {rows} rows"
    if is_hub(source.path):
        return source.path
    parts: list[Path] = []
    for file in files(source):
        if file.is_dir():
            parts += sorted(p for p in file.rglob("*") if p.is_file())
        else:
            parts += sorted(_moses_sides(file).values()) if _moses_language(file) else [file]
    return file_sha256(*parts)


def _is_corpus(path: Path) -> bool:
    return _suffix(path) in TABLES or bool(_moses_language(path))


def _suffix(path: Path) -> str:
    last = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    return "".join(last).lower()


def _read_file(path: Path, source: Source) -> Iterator[Row]:
    suffix = _suffix(path)
    kind = suffix.removesuffix(".gz")
    if path.is_dir() or kind == ".parquet":
        return _read_dataset(path, source)
    if not source.zh and kind == ".txt":
        return (Row(number, "", text, fault) for number, text, fault in read_lines(path))
    if not source.zh and kind in (".tsv", "") and english.is_yfcc(next(read_lines(path)).text):
        return english.read_yfcc(path)
    if _moses_language(path):
        return _read_moses(path)
    if suffix not in TABLES:
        raise CorpusError(f"{path}: a corpus is one of {FORMATS}, not {path.suffix or 'without a suffix'}")
    if kind == ".jsonl":
        return _read_jsonl(path, source)
    fields = ((number, text.split("\t"), fault) for number, text, fault in read_lines(path))
    return _read_table(path, _csv_records(path) if kind == ".csv" else fields, source)


# Text tables


def _read_table(file: Path, records: Iterator[Record], source: Source) -> Iterator[Row]:
    """Rows of records of which the first names the columns."""
    names = next(records)[1]
    _check_columns(f"{file}: its first line is", names, source, nested=False)
    zh, en = names.index(source.zh) if source.zh else -1, names.index(source.en)
    for number, fields, fault in records:
        if len(fields) > max(zh, en):
            yield Row(number, fields[zh] if source.zh else "", fields[en], fault)
        else:
            yield Row(number, "\t".join(fields), "", fault or "missing column")


def _csv_records(file: Path) -> Iterator[Record]:
    """Records quoted as in RFC 4180, each with the number of its first line. Raises CorpusError for an open quote."""
    faults: list[str] = []

    def text() -> Iterator[str]:
        for _, line, fault in read_lines(file):
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


# Moses pairs: two line-aligned files, corpus.en-zh.zh and corpus.en-zh.en


def _moses_stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _moses_language(path: Path) -> str:
    """zh or en for a name such as corpus.en-zh.en or corpus.en-zh.zh_CN.gz, else empty."""
    code = path.name.removesuffix(".gz").rpartition(".")[2] if _moses_stem(path) else ""
    return next((name for name, pattern in LANGUAGES.items() if pattern.fullmatch(code)), "")


def _moses_sides(file: Path) -> dict[str, Path]:
    """Both files of the pair that `file` is one of. Raises CorpusError unless there is one other."""
    stem, own = _moses_stem(file), _moses_language(file)
    other = "en" if own == "zh" else "zh"
    found = [p for p in file.parent.iterdir() if _moses_stem(p) == stem and _moses_language(p) == other]
    if len(found) != 1:
        names = sorted(p.name for p in found) or "none"
        raise CorpusError(f"{file}: a Moses pair has one file ending in .{other}; here are {names}")
    return {own: file, other: found[0]}


def _read_moses(file: Path) -> Iterator[Row]:
    sides = _moses_sides(file)
    for zh, en in zip_longest(read_lines(sides["zh"]), read_lines(sides["en"])):
        if zh is None or en is None:
            raise CorpusError(
                f"{file}: the two sides are not line-aligned, one has {(zh or en).number - 1} lines and the other "
                "more; download both again"
            )
        yield Row(zh.number, zh.text, en.text, zh.fault or en.fault)


# What `datasets` reads


def _read_dataset(path: Path, source: Source) -> Iterator[Row]:
    """Rows of a Parquet file, or of what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    from datasets import Dataset, DatasetDict, load_from_disk

    load = load_from_disk if path.is_dir() else Dataset.from_parquet
    table = _call(f"{path}: cannot be read as a dataset", "write or download it again", load, str(path))
    if isinstance(table, DatasetDict):
        if source.split not in table:
            raise CorpusError(f"{path}: it has the splits {sorted(table)}, not {source.split!r}; set `split`")
        table = table[source.split]
    return _dataset_rows(str(path), table, source)


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
