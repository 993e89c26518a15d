"""How many pairs a corpus will give, and some of them, before the stage has cleaned it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..base.recipe import Recipe
from ..base.settings import sources
from .lines import CorpusError, Row
from .pairs import Length, Pair, clean
from .stage import Mixture, read_pairs

SIZE = 400


@dataclass(frozen=True)
class Sample:
    """Some of the training pairs, how many of them and of the dev pairs there will be, and the seconds that the corpus
    stage still takes."""

    pairs: list[Pair]
    train: int
    dev: int
    seconds: float


def sampled(recipe: Recipe, zh_length: Length, en_length: Length) -> Sample:
    """Of a finished stage its pairs, else an estimate from all rows' number and a random few of them, cleaned.

    Raises CorpusError when none of those few can be used.
    """
    folder, settings = recipe.folder / "corpus", recipe.corpus
    if (folder / "summary.json").is_file():
        pairs, dev_pairs = (read_pairs(folder / f"{split}.tsv") for split in ("train", "dev"))
        return Sample(pairs[:: -(-len(pairs) // SIZE)], len(pairs), len(dev_pairs), 0.0)
    began = time.perf_counter()
    total, rows = _some(Mixture(sources(settings.train)).rows())
    read = time.perf_counter() - began
    cleaned = clean(rows, zh_length, en_length, recipe.window, replace(settings, limit=None))
    if not cleaned.pairs:
        raise CorpusError(f"of {len(rows)} of its rows none can be used; rejected: {cleaned.counts()}")
    each = (time.perf_counter() - began - read) / len(rows)
    share = len(cleaned.pairs) / len(rows)
    if settings.dev:
        dev = sum(1 for _ in Mixture(sources(settings.dev)).rows())
    else:
        dev, total = int(total * settings.dev_share), int(total * (1 - settings.dev_share))
    train = min(int(total * share), settings.limit or total)
    # Each split reads all rows, and cleans its own as far as the limit goes.
    return Sample(cleaned.pairs, train, int(dev * share), 2 * read + each * (train / share + dev))


def _some(rows: Iterator[Row]) -> tuple[int, list[Row]]:
    """The number of all rows, and a random few of them, the same each time (reservoir sampling)."""
    chance, number = random.Random(0), 0
    some: list[Row] = []
    for number, row in enumerate(rows, 1):
        at = number - 1 if number <= SIZE else chance.randrange(number)
        if at < len(some):
            some[at] = row
        elif number <= SIZE:
            some.append(row)
    return number, some
