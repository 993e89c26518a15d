"""Corpora of two pairs in every format that the trainer reads, as functions from a folder to a source in it."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainer.base.recipe import Source

CAT, DOG = "\u4e00\u53ea\u732b", "\u4e00\u53ea\u72d7"  # a cat, a dog
ROWS = [(CAT, "a cat"), (DOG, "a dog")]
ZH, EN = "".join(f"{zh}\n" for zh, _ in ROWS), "".join(f"{en}\n" for _, en in ROWS)
TSV = "zh\ten\n" + "".join(f"{zh}\t{en}\n" for zh, en in ROWS)
CSV = "id,en,zh\n" + "".join(f'{at},"{en}",{zh}\n' for at, (zh, en) in enumerate(ROWS))
JSONL = "".join(json.dumps({"zh": zh, "en": en}, ensure_ascii=False) + "\n" for zh, en in ROWS)
COLUMNS = {"zh": [zh for zh, _ in ROWS], "en": [en for _, en in ROWS]}
TRANSLATION = {"translation": [{"zh": zh, "en": en} for zh, en in ROWS]}
NESTED: dict[str, Any] = dict(zh="translation.zh", en="translation.en")
Maker = Callable[[Path], Source]


def put(path: Path, content: str | bytes, compress: bool = False) -> Path:
    """Write bytes, or text as UTF-8 without touching its line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    """Write pairs as a TSV and return its path."""
    return str(put(path, "zh\ten\n" + "".join(f"{zh}\t{en}\n" for zh, en in pairs)))


def many(count: int) -> list[tuple[str, str]]:
    """Different pairs of one word and a number, in the vocabulary of tests/encoders.py."""
    return [(f"{DOG}{n}", f"a dog {n}") for n in range(count)]


def parquet(columns: dict[str, list]) -> bytes:
    """A Parquet file."""
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict(columns).to_parquet(f"{folder}/a.parquet")
        return Path(f"{folder}/a.parquet").read_bytes()


PARQUET = parquet({"id": [1, 2], **COLUMNS})


def a_file(name: str, content: str | bytes, compress: bool = False, **columns: str) -> Maker:
    """One file, with the source's columns."""
    return lambda folder: Source(str(put(folder / name, content, compress)), **columns)  # type: ignore[arg-type]


def a_folder(files: dict[str, str | bytes]) -> Maker:
    """A folder of files."""

    def make(folder: Path) -> Source:
        (folder / "d").mkdir(exist_ok=True)
        for name, content in files.items():
            put(folder / "d" / name, content)
        return Source(str(folder / "d"))

    return make


RECORDS = "".join(json.dumps({"translation": record}) + "\n" for record in TRANSLATION["translation"])
WHOLE: dict[str, Maker] = {
    "TSV": a_file("a.tsv", TSV),
    "TSV, CRLF and byte order mark": a_file("a.tsv", ("\ufeff" + TSV).replace("\n", "\r\n")),
    "TSV, other columns": a_file("a.tsv", TSV.replace("zh\ten", "cn\tcap"), zh="cn", en="cap"),
    "TSV, gzipped": a_file("a.tsv.gz", TSV, True),
    "CSV": a_file("a.csv", CSV),
    "CSV, CRLF and byte order mark": a_file("a.csv", ("\ufeff" + CSV).replace("\n", "\r\n")),
    "CSV, a quoted line end": a_file("a.csv", CSV.replace('"a cat"', '"a\ncat"')),
    "CSV, gzipped": a_file("a.csv.gz", CSV, True),
    "JSON lines": a_file("a.jsonl", JSONL),
    "JSON lines, byte order mark": a_file("a.jsonl", "\ufeff" + JSONL),
    "JSON lines, records": a_file("a.jsonl", RECORDS, **NESTED),
    "Parquet": a_file("a.parquet", PARQUET),
    "folder": a_folder({"a.tsv": TSV.rsplit(DOG)[0], "deep/b.jsonl": JSONL.split("\n")[1], "README.md": "no corpus"}),
}
