"""The corpus stage's readers and rejections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from trainer.base.recipe import SettingsError
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import Cleaned, Pair, clean
from trainer.corpus.rows import read
from trainer.corpus.stage import read_pairs, rejects_table, write_pairs

CAT, DOG = "\u4e00\u53ea\u732b", "\u4e00\u53ea\u72d7"  # a cat, a dog
ROWS = [(CAT, "a cat"), (DOG, "a dog")]


def length(text: str) -> int:
    return len(text) + 2


def cleaned(rows: list[tuple[str, str]], path: Path, window: int = 20, **options) -> Cleaned:
    path.write_text("\n".join(["zh\ten", *(f"{zh}\t{en}" for zh, en in rows)]) + "\n", encoding="utf-8")
    return clean(read(str(path)), length, length, window, **options)


def write_tsv(path: Path) -> None:
    path.write_text("".join(f"{zh}\t{en}\n" for zh, en in [("zh", "en"), *ROWS]), encoding="utf-8")


def write_csv(path: Path) -> None:
    path.write_text("id,en,zh\n" + "".join(f'1,"{en}",{zh}\n' for zh, en in ROWS), encoding="utf-8-sig")


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"zh": zh, "en": en}) + "\n" for zh, en in ROWS), encoding="utf-8")


def write_parquet(path: Path) -> None:
    Dataset.from_dict({"zh": [zh for zh, _ in ROWS], "en": [en for _, en in ROWS]}).to_parquet(str(path))


@pytest.mark.parametrize("write", [write_tsv, write_csv, write_jsonl, write_parquet])
def test_every_format_reads_the_same(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"a.{write.__name__.removeprefix('write_')}"
    write(path)
    result = clean(read(str(path)), length, length, 20)
    assert [(p.zh, p.en) for p in result.pairs] == ROWS
    assert result.rejects == []


def test_every_reason_is_counted_and_no_row_is_lost(tmp_path: Path) -> None:
    rows = [
        (CAT, "a cat"),
        (CAT, "one cat"),
        (DOG, "A  CAT"),
        ("", "nothing"),
        ("dog", "a dog"),
        (DOG + "\ufffd", "a dog"),
        (DOG, DOG),
        (DOG * 9, "a dog in the rain"),
        (DOG, "a dog that is far too long for it"),
        (DOG, "in the dev set"),
    ]
    result = cleaned(rows, tmp_path / "a.tsv", taken=[Pair("\u732b", "In the dev set")])
    assert result.counts() == {
        "Chinese over the window": 1,
        "English over the window": 1,
        "also in dev": 1,
        "duplicate": 2,
        "empty": 1,
        "identical sides": 1,
        "no Chinese": 1,
        "wrong encoding": 1,
    }
    assert len(result.pairs) + len(result.rejects) == len(rows)
    table = rejects_table({"train": result}).splitlines()
    assert len(table) == 1 + len(result.rejects)
    assert table[1].split("\t") == ["train", "3", "duplicate", CAT, "one cat"]


def test_a_line_that_is_not_utf8_spoils_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(
        f"zh\ten\n{CAT}\ta cat\n".encode() + DOG.encode("gbk") + f"\tx\nonly one field\n{DOG}\ty\n".encode()
    )
    result = clean(read(str(path)), length, length, 20)
    assert [p.en for p in result.pairs] == ["a cat", "y"]
    assert result.counts() == {"missing column": 1, "not UTF-8": 1}


def test_limit_stops_at_so_many_clean_pairs(tmp_path: Path) -> None:
    assert len(cleaned(ROWS, tmp_path / "a.tsv", limit=1).pairs) == 1


def test_pairs_survive_the_disk(tmp_path: Path) -> None:
    pairs = [Pair(CAT, "a cat"), Pair(DOG, 'a "dog" #1')]
    write_pairs(tmp_path / "p.tsv", pairs)
    assert read_pairs(tmp_path / "p.tsv") == pairs
    with pytest.raises(SettingsError, match="run the corpus stage first"):
        read_pairs(tmp_path / "q.tsv")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", "a corpus is one of"),
        ("a.tsv", "chinese\tenglish\n", "must name the columns zh and en"),
        ("a.csv", "", "it is empty"),
        ("a.parquet", "no parquet", "cannot be read as Parquet"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=says):
        list(read(str(tmp_path / name)))
    with pytest.raises(CorpusError, match="no such corpus file"):
        list(read(str(tmp_path / f"missing-{name}")))
