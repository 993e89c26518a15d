"""Which rows are rejected and why: the rules, duplicates and near duplicates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests import small
from tests.corpora import CAT, DOG, many
from trainer.corpus.clean import chinese_fault, english_fault, pair_fault, ratio_fault
from trainer.corpus.lines import Row
from trainer.corpus.near import NearIndex
from trainer.corpus.pairs import Cleaned, Pair, clean, hash_fraction
from trainer.corpus.stage import rejects_table
from zhclip.prompt import normalise

KANA = "\u304d\u308c\u3044\u306a\u306e\u732b"  # one word of kana to one ideograph: half of it

ENGLISH_FAULTS = {
    "file name": ["IMG_0520", "dsc01234.JPG", "DSCN1234 (2)", "P1010001", "100_4321", "20080513_120000", "my-cat.jpeg"],
    "boilerplate": ["Untitled", "see www.example.org for more", "A cat. All rights reserved.", "a <b>cat</b>"],
    "no English": ["\u732b\u732b\u732b", "\u043a\u043e\u0448\u043a\u0430", "???"],
    "control characters": ["a\x07 cat", "a \ue000 cat"],
    "": [
        "a picture of a cat",
        "photo",
        "an image from 2008",
        "P90 gun",
        "1984",
        "caf\u00e9 in Z\u00fcrich",
        "A cat asleep beside 8 dogs, stock photo",
        "Bus 100 in front of a sign that says \u4e2d\u6587",
    ],
}


@pytest.mark.parametrize("fault", ENGLISH_FAULTS)
def test_an_english_caption_is_refused_for_a_reason(fault: str) -> None:
    assert {english_fault(en) for en in ENGLISH_FAULTS[fault]} == {fault}


CHINESE_FAULTS = {
    "": [CAT, f"Tom\u7684{DOG}", "8k, \u8d5b\u535a\u670b\u514b\u98ce\u683c, by Greg Rutkowski", KANA],
    "mostly not Chinese": ["see the whole gallery here\u7684", " ".join(KANA)],
    "no Chinese": ["a dog"],
}


@pytest.mark.parametrize("fault", CHINESE_FAULTS)
def test_the_chinese_side_has_to_be_chinese(fault: str) -> None:
    assert {chinese_fault(zh) for zh in CHINESE_FAULTS[fault]} == {fault}


def test_one_side_may_not_say_far_more_than_the_other() -> None:
    assert ratio_fault(DOG, "a dog") == ""
    assert ratio_fault("\u72d7" * 15, "dog") == "Chinese too long for the English"
    assert ratio_fault("\u72d7" * 14, "dog") == ""
    assert ratio_fault("\u72d7", " ".join(["dog"] * 13)) == "English too long for the Chinese"
    assert ratio_fault("\u72d7", " ".join(["dog"] * 12)) == ""


def test_no_rule_takes_a_caption_that_a_person_wrote() -> None:
    faults = {en: pair_fault(zh, en) for zh, en in small.captions()}
    assert not {en: fault for en, fault in faults.items() if fault}


def length(text: str) -> int:
    return len(text) + 2


def cleaned(pairs: list[tuple[str, str]], dev: Sequence[Pair] = (), window: int = 999, **settings: Any) -> Cleaned:
    rows = [Row(number, zh, en) for number, (zh, en) in enumerate(pairs, 2)]
    return clean(rows, length, length, window, dev=dev, **settings)


LONG = "a wide view of " + " ".join(f"house number{n} beside tree{n}" for n in range(16)) + " in the evening"


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("A dog, asleep!", "a dog asleep", True),
        ("a T-shirt", "a t shirt", True),
        (LONG, LONG.replace("evening", "morning"), True),
        ("a man in a red shirt", "a man in a blue shirt", False),
        ("a man rides a horse on a beach", "a woman rides a horse on a beach", False),
        ("I know him by sight, but not by name.", "I know him by name, but not by sight.", False),
        ("a cat 1", "a cat 2", False),
        (LONG, LONG.replace("evening", "morning").replace("wide", "narrow").replace("tree7", "bush"), False),
    ],
)
def test_near_captions_are_those_that_say_the_same(first: str, second: str, near: bool) -> None:
    cat, dog = (zh * max(1, len(en.split()) // 3) for zh, en in ((CAT, first), (DOG, second)))
    assert cleaned([(cat, first), (dog, second)]).counts() == ({"near duplicate": 1} if near else {})
    assert cleaned([(cat, first), (dog, second)], near=None).counts() == {}
    assert cleaned([(dog, second)], [Pair(cat, first)]).counts() == ({"near duplicate": 1} if near else {})


def test_minhash_finds_what_comparing_all_with_all_finds() -> None:
    source = random.Random(3)
    words = [f"w{n}" for n in range(300)]
    captions = [" ".join(source.choices(words, k=60)) for _ in range(150)]
    planted = [caption.replace(caption.split()[30], "other", 1) for caption in captions]
    index = NearIndex(0.88)
    assert all(index.add(caption) for caption in captions)
    assert sum(not index.add(caption) for caption in planted) >= 140  # the bands miss a few in a hundred


def test_every_reason_is_counted_and_no_row_is_lost() -> None:
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
    assert len(cleaned(many(3), limit=1).pairs) == 1
    result = cleaned(rows, [Pair("\u732b", "In the dev set")], 20)
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


def test_printable_ascii_is_normalised_already() -> None:
    source = random.Random(1)
    for _ in range(2000):
        text = "".join(chr(source.randrange(1, 128)) for _ in range(source.randrange(40)))
        assert normalise(text) == normalise("\u732b" + text)[1:].strip(), repr(text)


def test_the_hash_is_of_the_normalised_text_and_of_its_purpose() -> None:
    assert hash_fraction("A  Dog\uff0cX", "dev") == hash_fraction("a dog,x", "dev")
    assert hash_fraction("a dog", "dev") != hash_fraction("a dog", "weight")
    assert hash_fraction("a dog", "dev") == pytest.approx(0.2043, abs=1e-4)  # for good: a re-run moves no row
