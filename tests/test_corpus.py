"""Rows that are rejected with a reason, and the pairs' own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.corpora import CAT, DOG, ROWS
from trainer.base.files import DamagedError
from trainer.base.recipe import CorpusSettings, SettingsError, Source
from trainer.corpus.pairs import Cleaned, Pair, clean
from trainer.corpus.readers import read
from trainer.corpus.stage import Mixture, read_pairs, rejects_table, write_pairs
from trainer.progress import Cancelled, Progress


def length(text: str) -> int:
    return len(text) + 2


def cleaned(rows: list[tuple[str, str]], path: Path, taken: Sequence[Pair] = (), **settings) -> Cleaned:
    path.write_text("\n".join(["zh\ten", *(f"{zh}\t{en}" for zh, en in rows)]) + "\n", encoding="utf-8")
    return clean(read(str(path)), length, length, 20, CorpusSettings(**settings), taken)


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


def test_limit_stops_at_so_many_clean_pairs(tmp_path: Path) -> None:
    assert len(cleaned(ROWS, tmp_path / "a.tsv", limit=1).pairs) == 1


def test_pairs_survive_the_disk(tmp_path: Path) -> None:
    path, pairs = tmp_path / "p.tsv", [Pair(CAT, "a cat"), Pair(DOG, 'a "dog" #1')]
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    path.write_text(path.read_text(encoding="utf-8")[:-3], encoding="utf-8")
    with pytest.raises(DamagedError):
        read_pairs(path)
    with pytest.raises(SettingsError):
        read_pairs(tmp_path / "q.tsv")


def test_reading_reports_progress_and_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("zh\ten\n" + f"{CAT}\ta cat\n" * 5000, encoding="utf-8")
    events: list[Progress] = []

    def listener(event: Progress) -> None:
        events.append(event)
        if event.done >= 3000:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(Mixture([Source(str(path))], "train", listener).rows())
    assert [(event.stage, event.done) for event in events] == [("corpus train", n) for n in (1000, 2000, 3000)]
