"""Estimate of what a corpus will give, for the plan: numbers of pairs, a random sample, and seconds of cleaning."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace

from ..base.recipe import Recipe
from ..base.settings import sources
from .lines import CorpusError, Row
from .pairs import Length, Pair, clean
from .stage import Mixture, read_pairs

SIZE = 400


@dataclass(frozen=True)
class Sample:
    """A sample of the training pairs, the numbers of training and dev pairs, and the stage's remaining seconds."""

    pairs: list[Pair]
    train: int
    dev: int
    seconds: float


def sampled(recipe: Recipe, zh_length: Length, en_length: Length) -> Sample:
    """The finished stage's pairs, else an estimate from a random few of its rows.

    Raises CorpusError if none of those is usable.
    """
    folder, settings = recipe.folder / "corpus", recipe.corpus
    if (folder / "summary.json").is_file():
        train, dev = (read_pairs(folder / f"{split}.tsv") for split in ("train", "dev"))
        return Sample(train[:: -(-len(train) // SIZE)], len(train), len(dev), 0.0)
    began = time.perf_counter()
    chance, rows, total = random.Random(0), list[Row](), 0
    for total, row in enumerate(Mixture(sources(settings.train)).rows(), 1):  # reservoir sampling
        if total <= SIZE:
            rows.append(row)
        elif (at := chance.randrange(total)) < SIZE:
            rows[at] = row
    read = time.perf_counter() - began
    cleaned = clean(rows, zh_length, en_length, recipe.window, replace(settings, limit=None))
    if not cleaned.pairs:
        raise CorpusError(f"of {len(rows)} of its rows none can be used; rejected: {cleaned.counts()}")
    each, usable = (time.perf_counter() - began - read) / len(rows), len(cleaned.pairs) / len(rows)
    held = sum(1 for _ in Mixture(sources(settings.dev)).rows()) if settings.dev else int(total * settings.dev_share)
    total -= 0 if settings.dev else held
    count = min(int(total * usable), settings.limit or total)
    # Each split reads all rows, and cleans its own up to the limit.
    return Sample(cleaned.pairs, count, int(held * usable), 2 * read + each * (count / usable + held))
