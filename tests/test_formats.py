"""Every reader of the corpus stage, on files as their formats are published, and on broken ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests import hub
from tests.corpora import (
    CAT,
    CSV,
    DOG,
    JSONL,
    NESTED,
    PARQUET,
    ROWS,
    TRANSLATION,
    TSV,
    WHOLE,
    Maker,
    a_file,
    a_folder,
    parquet,
    put,
)
from tests.tree import ROOT, python
from trainer.base.recipe import Source
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import clean
from trainer.corpus.readers import read_rows

Expected = tuple[int, dict[str, int]]  # clean pairs, rejected rows by reason


GBK = DOG.encode("gbk")
NO_OBJECT = "not a JSON object with zh and en"
# Files that are read, with the rows that are rejected.
FAULTY: dict[str, tuple[Maker, Expected]] = {
    "TSV, header alone": (a_file("a.tsv", "zh\ten\n"), (0, {})),
    "TSV, short line": (a_file("a.tsv", TSV + CAT + "\n"), (2, {"missing column": 1})),
    "TSV, a line of GBK": (a_file("a.tsv", TSV.encode() + GBK + b"\tx\n"), (2, {"not UTF-8": 1})),
    "TSV, NUL": (a_file("a.tsv", TSV + f"{DOG}\0\tb\n"), (2, {"control characters": 1})),
    "CSV, a line of GBK": (a_file("a.csv", CSV.encode() + b"3,x," + GBK + b"\n"), (2, {"not UTF-8": 1})),
    "JSON, cut line": (a_file("a.jsonl", JSONL[:-9]), (1, {NO_OBJECT: 1})),
    "JSON, one array": (a_file("a.jsonl", json.dumps([{"zh": CAT, "en": "a cat"}])), (0, {NO_OBJECT: 1})),
    "JSON, missing column": (a_file("a.jsonl", JSONL + '{"zh": "x"}\n'), (2, {"missing column": 1})),
    "JSON, numbers": (a_file("a.jsonl", JSONL + '{"zh": 0, "en": 2}\n'), (2, {"not text": 1})),
    "JSON, null": (a_file("a.jsonl", JSONL + '{"zh": null, "en": "x"}\n'), (2, {"empty": 1})),
    "JSON, blank line": (a_file("a.jsonl", JSONL + "\n"), (2, {NO_OBJECT: 1})),
    "JSON, deep": (a_file("a.jsonl", "[" * 100_000 + "\n" + JSONL + '{"zh":' * 100_000), (2, {NO_OBJECT: 2})),
    "Parquet, numbers": (a_file("a.parquet", parquet({"zh": [1], "en": [2]})), (0, {"not text": 1})),
    "Parquet, nulls": (a_file("a.parquet", parquet({"zh": [CAT, None], "en": [None, "x"]})), (0, {"empty": 2})),
    "Parquet, lists": (a_file("a.parquet", parquet({"zh": [[CAT]], "en": [["x"]]})), (0, {"not text": 1})),
}
# Sources that are refused, with the name that the message has to hold.
REFUSED: dict[str, tuple[Maker, str]] = {
    "TSV, empty": (a_file("a.tsv", ""), "a.tsv"),
    "TSV, no such file": (lambda folder: Source(str(folder / "a.tsv")), "a.tsv"),
    "TSV, missing column": (a_file("a.tsv", TSV.replace("zh\ten", "zh\tfr")), "a.tsv"),
    "TSV, no header": (a_file("a.tsv", TSV.partition("\n")[2]), "a.tsv"),
    "TSV, commas": (a_file("a.tsv", TSV.replace("\t", ",")), "a.tsv"),
    "TSV, UTF-16": (a_file("a.tsv", TSV.encode("utf-16")), "UTF-8"),
    "TSV, truncated gzip": (a_file("a.tsv.gz", gzip.compress(TSV.encode())[:-12]), "a.tsv.gz"),
    "TSV, not gzip": (a_file("a.tsv.gz", TSV), "a.tsv.gz"),
    "TSV, a column inside records": (a_file("a.tsv", f"translation\ten\n{CAT}\tx\n", zh="translation.zh"), "a.tsv"),
    "TSV, no English column": (a_file("a.tsv", TSV, en=""), "a.tsv"),
    "another suffix": (a_file("a.xlsx", TSV), "a.xlsx"),
    "CSV, empty": (a_file("a.csv", ""), "a.csv"),
    "CSV, a column inside records": (a_file("a.csv", CSV, zh="zh.a"), "a.csv"),
    "CSV, tabs": (a_file("a.csv", TSV), "a.csv"),
    "CSV, text behind a quote": (a_file("a.csv", CSV.replace('"a cat"', '"a" cat')), "line 2"),
    "CSV, quote never closed": (a_file("a.csv", CSV.replace('"a cat"', '"a cat')), "line 2"),
    "JSON, empty": (a_file("a.jsonl", ""), "a.jsonl"),
    "Parquet, truncated": (a_file("a.parquet", PARQUET[:-40]), "a.parquet"),
    "Parquet, missing column": (a_file("a.parquet", parquet({"zh": [CAT]})), "a.parquet"),
    "Parquet, no rows": (a_file("a.parquet", parquet({"zh": [], "en": []})), "a.parquet"),
    "Parquet, records": (a_file("a.parquet", parquet(TRANSLATION)), "a.parquet"),
    "folder, empty": (a_folder({}), "d"),
    "folder, of other files": (a_folder({"README.md": "x"}), "d"),
    "folder, one file is empty": (a_folder({"a.tsv": TSV, "b.tsv": ""}), "b.tsv"),
    "folder, one file lacks a column": (a_folder({"a.tsv": TSV, "b.csv": "x,en\n"}), "b.csv"),
    "folder, a damaged file": (a_folder({"a.tsv": TSV, "b/c/d.parquet": PARQUET[:-40]}), "d.parquet"),
    "folder, missing": (lambda folder: Source(str(folder / "no")), "no"),
}


def cleaned_of(source: Source) -> Expected:
    """Clean pairs of a source, and its rejected rows by reason."""
    cleaned = clean(read_rows(source), len, len, 99)
    return len(cleaned.pairs), cleaned.counts()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_gives_its_pairs(name: str, tmp_path: Path) -> None:
    cleaned = clean(read_rows(WHOLE[name](tmp_path)), len, len, 99)
    assert [(pair.zh, pair.en) for pair in cleaned.pairs] == ROWS
    assert not cleaned.rejects


@pytest.mark.parametrize("name", FAULTY)
def test_a_bad_row_is_rejected_alone(name: str, tmp_path: Path) -> None:
    make, expected = FAULTY[name]
    assert cleaned_of(make(tmp_path)) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_source_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, named = REFUSED[name]
    with pytest.raises(CorpusError) as refused:
        cleaned_of(make(tmp_path))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_english_text_is_read_as_it_is(tmp_path: Path) -> None:
    rows = list(read_rows(a_file("a.txt", "A cat\nA 100%25 dog\n", zh="")(tmp_path)))
    assert [(row.number, row.en) for row in rows] == [(1, "A cat"), (2, "A 100%25 dog")]


def test_rows_are_numbered_as_a_person_counts_and_named_in_a_folder(tmp_path: Path) -> None:
    rows = list(read_rows(a_folder({"a.tsv": TSV, "b.csv": CSV})(tmp_path)))
    assert [(row.source, row.number) for row in rows] == [("a.tsv", 2), ("a.tsv", 3), ("b.csv", 2), ("b.csv", 3)]


CARD = """---
configs:
- config_name: {config}
  data_files:
  - split: {split}
    path: data.*
---
"""
# Files of a dataset, what is asked of it, and its clean pairs, or the words of `datasets` that the refusal holds.
HUB: dict[str, tuple[dict[str, str | bytes], dict[str, Any], int | str]] = {
    "whole": ({"a.jsonl": JSONL}, {}, 2),
    "records": ({"a.parquet": parquet(TRANSLATION)}, NESTED, 2),
    "configuration": (
        {"README.md": CARD.format(config="en-zh", split="test"), "data.csv": CSV},
        {"config": "en-zh", "split": "test"},
        2,
    ),
    "another-configuration": (
        {"README.md": CARD.format(config="en-zh", split="train"), "data.csv": CSV},
        {"config": "fr"},
        "['en-zh']",
    ),
    "another-split": ({"a.jsonl": JSONL}, {"split": "test"}, '"test"'),
    "no-such-dataset": ({}, {}, "HF_ENDPOINT"),
    "missing-column": ({"a.csv": "zh,fr\nx,y\n"}, {}, "zh and en"),
    "no-files": ({"README.md": "nothing"}, {}, "HF_ENDPOINT"),
    "broken-Parquet": ({"a.parquet": PARQUET[:-40]}, {}, "HF_ENDPOINT"),
    "code-of-its-own": ({"code-of-its-own.py": "raise SystemExit('it ran')", "a.jsonl.txt": JSONL}, {}, "scripts"),
}


def answer_all(folder: str) -> None:
    """FOLDER/answers.json, in a process of its own, for HF_ENDPOINT is read at import."""
    answers: dict[str, int | str] = {}
    for name, (_, options, _) in HUB.items():
        try:
            answers[name] = cleaned_of(Source(f"me/{name}", **options))[0]
        except CorpusError as error:
            answers[name] = str(error)
    (Path(folder) / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


@pytest.fixture(scope="module")
def of_the_hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int | str]:
    folder = tmp_path_factory.mktemp("hub")
    for name, (content, _, _) in HUB.items():
        for path, text in ({"README.md": "# A corpus\n"} | content).items() if content else ():
            put(folder / "hub" / "me" / name / path, text)
    with hub.serve(folder / "hub") as (endpoint, _):
        code = f"from tests.test_formats import answer_all; answer_all({str(folder)!r})"
        done = python("-c", code, cwd=ROOT, **hub.settings(endpoint, folder / "home"))
    assert done.returncode == 0, done.stdout
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", HUB)
def test_datasets_of_the_hub(name: str, of_the_hub: dict[str, int | str]) -> None:
    expected, answer = HUB[name][2], of_the_hub[name]
    if isinstance(expected, int) or isinstance(answer, int):
        assert answer == expected
    else:
        assert expected in answer and f"me/{name}" in answer and "\n" not in answer
