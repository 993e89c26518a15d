"""One of some, by a draw from 0 to 1."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

from .lexicon import table

T = TypeVar("T")
Draw = Callable[[], float]


def pick(draw: Draw, some: Sequence[T]) -> T:
    """One of some, all alike."""
    return some[int(draw() * len(some))]


def weighted(draw: Draw, some: Sequence[T], odds: Sequence[float]) -> T:
    """One of some by their odds, which add up to 1."""
    return some[min(bisect(list(accumulate(odds)), draw()), len(some) - 1)]


def say(draw: Draw, slot: str) -> tuple[str, str]:
    """A word of quality or detail, in one of its Chinese forms."""
    _, zh, en = pick(draw, [row for row in table("words") if row[0] == slot])
    return pick(draw, zh.split("|")), en
