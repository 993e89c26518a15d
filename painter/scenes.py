"""The demonstration's corpus: different captions of scenes in Chinese and English, and held-out ones.

No training caption has, in either language, a combination of objects of a held-out one (see painter/drawable.py). The
same arguments give the same corpus.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from painter import drawable


class Pair(NamedTuple):
    """One row of a corpus."""

    zh: str
    en: str


class Corpus(NamedTuple):
    """Training pairs, and pairs of held-out combinations."""

    train: list[Pair]
    dev: list[Pair]


def random_pairs(held_out: bool, rng: random.Random, manner: drawable.Manner, two_groups: float) -> Iterator[Pair]:
    """Endless captions, on one side of the split."""
    while True:
        prompt = drawable.prompt(drawable.random_scene(rng, held_out, two_groups), rng, manner)
        yield Pair(prompt.zh, prompt.en)


def different(pairs: Iterator[Pair], count: int) -> list[Pair]:
    """The first `count` pairs of which both sides are new."""
    chosen: list[Pair] = []
    seen: set[str] = set()
    while len(chosen) < count:
        pair = next(pairs)
        if seen.isdisjoint(pair):
            chosen.append(pair)
            seen.update(pair)
    return chosen


def generate(
    pairs: int,
    dev: int,
    manner: drawable.Manner = drawable.HEARD,
    two_groups: float = drawable.TWO_GROUPS,
    seed: int = 0,
) -> Corpus:
    """So many training and dev pairs, phrased in a manner; `two_groups`: the share of scenes with two groups."""
    rng = random.Random(seed)
    train, held_out = (random_pairs(side, rng, manner, two_groups) for side in (False, True))
    return Corpus(different(train, pairs), different(held_out, dev))


def write(corpus: Corpus, folder: Path) -> None:
    """Write train.tsv and dev.tsv: UTF-8, columns zh and en, no quoting."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in corpus._asdict().items():
        text = "".join(f"{zh}\t{en}\n" for zh, en in [("zh", "en"), *pairs])
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8", newline="\n")
