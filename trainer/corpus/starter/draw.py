"""Random choices, each from a function that returns numbers from 0 to 1."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

from .lexicon import table

T = TypeVar("T")
Random = Callable[[], float]


def pick(random: Random, items: Sequence[T]) -> T:
    """One of the items, all equally likely."""
    return items[int(random() * len(items))]


def pick_weighted(random: Random, items: Sequence[T], odds: Sequence[float]) -> T:
    """One of the items by their odds, which sum to 1."""
    return items[min(bisect(list(accumulate(odds)), random()), len(items) - 1)]


def pick_words(random: Random, slot: str) -> tuple[str, str]:
    """A phrase of quality or detail, in one of its Chinese forms, and in English."""
    _, zh, en = pick(random, [row for row in table("words") if row[0] == slot])
    return pick(random, zh.split("|")), en
