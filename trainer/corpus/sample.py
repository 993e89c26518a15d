"""Estimate of what a corpus will give, for the plan: numbers of pairs, a random sample, and seconds of cleaning."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from ..base.recipe import Recipe
from ..progress import Listener
from .lines import CorpusError
from .pairs import Length, Pair, clean, read_pairs
from .stage import split_rows

SIZE = 400


@dataclass(frozen=True)
class Sample:
    """A sample of the training pairs, the numbers of training and dev pairs, and the stage's remaining seconds."""

    pairs: list[Pair]
    train: int
    dev: int
    seconds: float


def sampled(recipe: Recipe, zh_length: Length, en_length: Length, progress: Listener | None = None) -> Sample:
    """The finished stage's pairs, else an estimate from a random few of its rows.

    Raises CorpusError if none of those is usable.
    """
    folder, settings = recipe.folder / "corpus", recipe.corpus
    if (folder / "summary.json").is_file():
        train, dev = (read_pairs(folder / f"{split}.tsv") for split in ("train", "dev"))
        return Sample(train[:: -(-len(train) // SIZE)], len(train), len(dev), 0.0)
    began = time.perf_counter()
    train_rows = list(split_rows(settings, "train", progress))
    dev_rows = sum(1 for _ in split_rows(settings, "dev", progress))
    reading = time.perf_counter() - began
    rows = random.Random(0).sample(train_rows, min(SIZE, len(train_rows)))
    cleaned = clean(rows, zh_length, en_length, recipe.window, settings.near)
    if not cleaned.pairs:
        raise CorpusError(f"of {len(rows)} of its rows none can be used; rejected: {cleaned.counts()}")
    each, usable = (time.perf_counter() - began - reading) / len(rows), len(cleaned.pairs) / len(rows)
    pairs = min(int(len(train_rows) * usable), settings.limit or len(train_rows))
    return Sample(cleaned.pairs, pairs, int(dev_rows * usable), reading + each * (pairs / usable + dev_rows))
