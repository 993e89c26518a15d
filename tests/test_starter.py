"""The starter corpus: its tables, its grammar, and the stage that draws it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from tests import encoders
from tests.tree import ROOT
from trainer.corpus import starter
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import key
from trainer.corpus.readers import read, starter_rows
from trainer.corpus.starter import grammar, lexicon
from zhclip.prompt import normalise

TABLES = ROOT / "trainer" / "corpus" / "starter"
ROWS = 11_000
WRITTEN = 2_000 + 5_000 + 1_000  # at least
# What no sentence of ours speaks of, on either side.
UNWANTED = re.compile(
    r"\b(?:sexy|nudes?|naked (?:man|woman|girl|boy|person)|erotic|porn\w*|nipples?|gory|disney|pokemon|pikachu|marvel|"
    r"batman|superman|nintendo|coca-cola|pepsi|starbucks|mcdonald'?s?|nike|adidas|ferrari|porsche|iphone|barbie)\b",
    re.I,
)
UNWANTED_ZH = ("\u88f8\u4f53", "\u6027\u611f", "\u8272\u60c5")
TWO, LIANG, TEN = "\u4e8c", "\u4e24", "\u5341"
NUMBERS = {zh for zh, _, _, measured in lexicon.table("numbers") if measured == "yes"}


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return [(row.zh, row.en) for row in starter.read(ROWS)]


@pytest.fixture(scope="module")
def drawn(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    hand = set(starter.written())
    return [row for row in rows if row not in hand]


def test_a_larger_draw_begins_with_the_smaller_one(rows: list[tuple[str, str]]) -> None:
    assert [(row.zh, row.en) for row in starter.read(500)] == rows[:500]
    assert len(rows) == ROWS
    assert [(row.zh, row.en) for row in islice(starter.read(10**7), 8_600)] == rows[:8_600]


def test_nothing_is_said_twice(rows: list[tuple[str, str]]) -> None:
    assert len({normalise(zh) for zh, _ in rows}) == len({key(en) for _, en in rows}) == ROWS


def test_another_process_draws_the_same(rows: list[tuple[str, str]]) -> None:
    """Its sets are in another order."""
    code = (
        "import hashlib; from trainer.corpus.starter import read; "
        "print(hashlib.sha256(''.join(row.zh + row.en for row in read(8_600)).encode()).hexdigest())"
    )
    told = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    whole = "".join(zh + en for zh, en in rows[:8_600])
    assert done.stdout.strip() == hashlib.sha256(whole.encode()).hexdigest()


def test_hand_written_pairs_come_first_and_mixed(rows: list[tuple[str, str]]) -> None:
    hand = starter.written()
    assert len(hand) >= WRITTEN
    fields = {row[0]: row[2] for row in lexicon.table("pairs")}
    assert set(rows[:WRITTEN]) <= set(hand)
    assert len({fields[zh] for zh, _ in rows[:1000] if zh in fields}) == len(set(fields.values())) > 30


def test_sentences_are_as_long_as_captions_are(rows: list[tuple[str, str]], drawn: list[tuple[str, str]]) -> None:
    assert all(3 <= len(zh) <= 60 and len(en.split()) <= 40 for zh, en in drawn)
    assert all(len(zh) <= 60 and en.isascii() and en == " ".join(en.split()) for zh, en in rows)
    assert not [en for _, en in drawn if re.search(r"[{}*+/]|\b(?:a|an) (?:a|an|the|some|many|two)\b(?!-)|  ", en)]
    assert not [zh for zh, _ in drawn if re.search(r"[{}*+]|\u7684\u7684", zh)]


def test_articles_follow_the_sound() -> None:
    right = "a cat, an orange, a unicorn, an hour, a one-eyed cat, an umbrella, a European robin, an X-ray, a ukulele"
    for phrase in right.split(", "):
        assert grammar.article(phrase.split(" ", 1)[1]) == phrase


def test_measure_words_belong_to_their_things() -> None:
    """A number before a thing is followed by one of the thing's own measure words; of many, by none."""
    drawing = grammar.Grammar()
    unmeasured = {zh for zh, _, _, measured in lexicon.table("numbers") if measured == "no"}
    counted = 0
    for thing in drawing.things[::7]:
        zh, en = drawing.noun(thing, "0", (1,))
        names = [thing.zh, *thing.synonyms]
        head = next(zh.removesuffix(name) for name in sorted(names, key=len, reverse=True) if zh.endswith(name))
        if not head or head in unmeasured:
            continue
        counted += 1
        assert any(head == number + unit for number in NUMBERS for unit in thing.measures), zh
        number = next(number for number in sorted(NUMBERS, key=len, reverse=True) if head.startswith(number))
        told = [word for zh_number, word, *_ in lexicon.table("numbers") if zh_number == number]
        assert any(re.match(r"an?\b" if word == "a" else word, en) for word in told) or thing.counts != "count", (
            zh,
            en,
        )
    assert counted > 500


def test_both_sides_count_the_same(drawn: list[tuple[str, str]]) -> None:
    assert not [
        zh for zh, _ in drawn if re.search(rf"(?<!{TEN}){TWO}[\u53ea\u4e2a\u6761\u5f20\u672c\u53f0\u8f86\u5ea7]", zh)
    ]
    three, four = "\u4e09", "\u56db"
    units = "\u53ea\u4e2a\u6761\u5f20\u672c\u53f0\u8f86\u5ea7"
    for number, word in ((LIANG, "two"), (three, "three"), (four, "four")):
        some = [(zh, en) for zh, en in drawn if re.match(f"{number}[{units}]", zh)]
        assert len(some) > 10
        assert all(re.search(rf"\b{word}\b", en) for _, en in some), some


def test_every_table_has_its_columns() -> None:
    assert {path.stem for path in TABLES.glob("*.tsv")} == set(lexicon.COLUMNS)
    for name in lexicon.COLUMNS:
        assert lexicon.table(name)
        assert (TABLES / f"{name}.tsv").stat().st_size < 1_000_000
    assert len({t.zh for t in lexicon.things() if t.counts != "phrase"}) > 12_000
    assert len(lexicon.table("culture")) > 1_000


def test_a_broken_table_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon, "HERE", tmp_path)
    (tmp_path / "numbers.tsv").write_text("zh\ten\tweight\tmeasure\n\u4e00\ta\t1\n", encoding="utf-8")
    lexicon.table.cache_clear()
    with pytest.raises(CorpusError) as refused:
        lexicon.table("numbers")
    assert "numbers.tsv:2" in str(refused.value)
    lexicon.table.cache_clear()


def test_english_is_ascii_and_nothing_unwanted_is_said() -> None:
    texts = [row for name in lexicon.COLUMNS for row in lexicon.table(name)]
    for row in texts:
        assert not UNWANTED.search(row[1]) and not any(word in row[0] for word in UNWANTED_ZH), row
    assert all(
        row[1].isascii() for name in ("things", "attributes", "actions", "places") for row in lexicon.table(name)
    )


def test_templates_name_kinds_that_there_are() -> None:
    known = {t.kind for t in lexicon.things()} | {"any", "calm", "short"}
    groups = {a.group for a in lexicon.attributes()} | set(grammar.VERBS) | set(grammar.WORDS) | {"place", "same"}
    for _, zh, en, slots in lexicon.table("templates"):
        names = {slot.partition("=")[0] for slot in slots.split()}
        assert set(re.findall(r"\{(\w)", zh + en)) == names, zh
        for slot in slots.split():
            what = slot.partition("=")[2].partition(":")[0]
            assert lexicon.kinds(what) <= known | groups, slot


def test_every_thing_comes_about_equally_often() -> None:
    drawing = grammar.Grammar()
    for _ in islice(drawing.pairs(), 12_000):
        pass
    per_weight = sorted(t.used / t.weight for t in drawing.things if t.kind not in ("person", "figure"))
    assert (
        per_weight[len(per_weight) // 20] > 0
        and per_weight[-len(per_weight) // 20] < 6 * per_weight[len(per_weight) // 2]
    )
    assert Counter(a.used > 0 for a in drawing.attributes)[True] > 0.97 * len(drawing.attributes)


def test_a_file_of_that_name_comes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (starter_rows("starter"), starter_rows("starter:5"), starter_rows("starters")) == (20_000, 5, 0)
    assert len(list(read("starter:5"))) == 5
    (tmp_path / "starter").mkdir()
    assert not starter_rows("starter")
    with pytest.raises(CorpusError):
        list(read("starter"))


def test_the_stage_draws_it_and_knows_its_size(tmp_path: Path) -> None:
    flags = {
        "--run": tmp_path / "run",
        "--student.model": encoders.student(tmp_path / "student"),
        "--teacher.model": encoders.clip_teacher(tmp_path / "teacher"),
        "--corpus.train": "starter:300",
    }

    def stage() -> subprocess.CompletedProcess[str]:
        arguments = [str(text) for flag in flags.items() for text in flag]
        command = [sys.executable, "-m", "trainer", "corpus", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)

    done = stage()
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "run" / "corpus"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["train"]["rows"] > 200
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    assert settings["train 0"]["sha256"] == f"{starter.digest()}, 300 rows"
    flags["--corpus.train"] = "starter:301"
    refused = stage()
    assert refused.returncode == 1 and "300 rows" in refused.stdout + refused.stderr
