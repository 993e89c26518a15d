"""The words of phrases.tsv, drawn: a tag, a painter, a trigger word, each in both languages.

A row of the table is a slot, the Chinese (several ways to say it, one of which is drawn) and the English. Slots are
what a prompt's elements are to it: its subject (girl, person, thing, view), its looks, scene, style, medium, light.
All of it was written for this project; painters are those who died long ago.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Draw = Callable[[], float]
TABLE = Path(__file__).with_name("phrases.tsv")
SYLLABLES = [first + vowel for first in "bdfgjklmnrstvwxyz" for vowel in "aeiou"]
ENDINGS = ("", "", "_style", "_v1", "_v2", "-xl", " \\(game\\)", " \\(character\\)")


@dataclass(frozen=True)
class Phrase:
    """A row of the table: several ways to say it in Chinese, one in English."""

    zh: tuple[str, ...]
    en: str


@dataclass(frozen=True)
class Item:
    """One element of a prompt in both languages, how it is bracketed, and whether it follows without a comma."""

    slot: str
    zh: str
    en: str
    wrap: str = "{}"
    glued: bool = False


@cache
def phrases() -> dict[str, list[Phrase]]:
    """The table by slot."""
    found = defaultdict(list)
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        slot, zh, en = line.split("\t")
        found[slot].append(Phrase(tuple(zh.split("|")), en))
    return dict(found)


def tag(draw: Draw, slot: str) -> Item:
    """A tag of the table, or a painter or an invented trigger word in a turn of the table."""
    if slot not in ("artist", "trigger"):
        return Item(slot, *say(draw, slot))
    name = say(draw, "artist")[1] if slot == "artist" else trigger(draw)
    zh, en = say(draw, "by" if slot == "artist" else "trigger")
    if name.endswith(("_style", ")")):  # it says already what it is
        zh, en = "{}", "{}"
    return Item(slot, zh.format(name), en.format(name))


def trigger(draw: Draw) -> str:
    """A word that means nothing, as makers of LoRAs choose them."""
    return "".join(pick(draw, SYLLABLES) for _ in range(2 + (draw() < 0.5))) + pick(draw, ENDINGS)


def say(draw: Draw, slot: str) -> tuple[str, str]:
    """One phrase of a slot, in one of its Chinese forms."""
    phrase = pick(draw, phrases()[slot])
    return pick(draw, phrase.zh), phrase.en


def pick(draw: Draw, some: Sequence[T]) -> T:
    """One of some, all alike."""
    return some[int(draw() * len(some))]


def weighted(draw: Draw, some: Sequence[T], odds: Sequence[float]) -> T:
    """One of some by their odds, which add up to 1."""
    return some[min(bisect(list(accumulate(odds)), draw()), len(some) - 1)]
