"""The starter corpus: pairs written by hand, then sentences and lists of anime tags from a lexicon, in any number.

All of it was written for this project: docs/starter.md. A larger corpus starts with the smaller one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from zhclip import prompt

from ...base.files import file_sha256
from ...base.recipe import STARTER, CorpusSettings
from ..lines import Row
from ..pairs import comparison_key, hash_fraction
from .grammar import Grammar
from .lexicon import HERE, table
from .tags import Tags

DEFAULT_ROWS = 20_000  # pairs, where a source asks for no other number
WRITTEN = Path(prompt.__file__).with_name("pairs.tsv")  # the calibration's, which zhclip/ shares
MIN_CHARACTERS, MAX_CHARACTERS, MAX_WORDS = 3, 60, 40  # of a sentence, in Chinese and in English


def read_rows(count: int, tags: float = CorpusSettings.tags) -> Iterator[Row]:
    """The first `count` pairs, none twice in either language: first those written by hand, in a mixed order.

    tags: share of the generated pairs that are lists of tags.
    """
    return (Row(number, zh, en) for number, (zh, en) in enumerate(islice(_unique(tags), count), 1))


def written() -> list[tuple[str, str]]:
    """The pairs written by hand, in the order of a hash, so that a few of them are a sample of all."""
    lines = WRITTEN.read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    rows += [row for name in ("pairs", "captions", "photographs", "prompts", "culture") for row in table(name)]
    return sorted(((row[0], row[1]) for row in rows), key=lambda pair: (hash_fraction(pair[1], STARTER), pair))


def _unique(tags: float) -> Iterator[tuple[str, str]]:
    """All pairs without repeats."""
    seen_zh: set[str] = set()
    seen_en: set[str] = set()
    for zh, en in chain(written(), _generated(tags)):
        chinese, english = prompt.normalise(zh), comparison_key(en)
        if chinese not in seen_zh and english not in seen_en:
            seen_zh.add(chinese)
            seen_en.add(english)
            yield zh, en


def _generated(tags: float) -> Iterator[tuple[str, str]]:
    """Lists of tags, and sentences with the length of a caption, in a random order."""
    draws, lists = random.Random(44), Tags().pairs()
    pairs = Grammar().pairs()
    sentences = (p for p in pairs if MIN_CHARACTERS <= len(p[0]) <= MAX_CHARACTERS and len(p[1].split()) <= MAX_WORDS)
    while True:
        yield next(lists if draws.random() < tags else sentences)


def digest() -> str:
    """sha256 of the tables, part of the corpus stage's settings."""
    return file_sha256(*sorted([*HERE.glob("*.tsv"), WRITTEN], key=lambda path: path.name))
