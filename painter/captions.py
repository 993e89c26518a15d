"""Captions and prompts in Chinese and English from the hand-written grammar of scenes.json.

A template names its slots and the lists that fill them. A slot filled from `things` becomes a counted noun with its
measure word and perhaps an adjective; a slot filled from `words` is taken as it stands in both languages.
"""

import json
import random
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from painter.drawable import with_article

GRAMMAR_FILE = Path(__file__).with_name("scenes.json")

HELD_OUT_SHARE = 12
"""One in so many combinations of adjective and noun is held out."""
SINGULAR = 0.65
PLAIN = 0.2


class Phrase(NamedTuple):
    """Something said in both languages, the words in it (as English names them) and its combinations."""

    zh: str
    en: str
    words: frozenset[str]
    combinations: frozenset[tuple[str, str]] = frozenset()

    @property
    def new_word(self) -> bool:
        """Whether a word of the second dev set is in it."""
        return not self.words.isdisjoint(grammar()["held_out_words"])

    @property
    def new_combination(self) -> bool:
        """Whether an adjective and a noun of the first dev set are in it together."""
        return any(map(is_held_out, self.combinations))


@cache
def grammar() -> dict[str, Any]:
    """The whole of scenes.json."""
    content: dict[str, Any] = json.loads(GRAMMAR_FILE.read_text(encoding="utf-8"))
    return content


def is_held_out(combination: tuple[str, str]) -> bool:
    """Whether an adjective and a noun are kept apart in training; the same on every machine."""
    return zlib.crc32(" ".join(combination).encode()) % HELD_OUT_SHARE == 0


def word(entry: Sequence[str]) -> Phrase:
    """An entry of scenes.json's `words`."""
    zh, en = entry
    return Phrase(zh, en, frozenset([en]))


def thing(group: str, rng: random.Random) -> Phrase:
    """A counted noun of a group, with an adjective most of the time: two black cats."""
    content = grammar()
    noun, measure, singular, *irregular = rng.choice(content["things"][group]["nouns"])
    number = 0 if rng.random() < SINGULAR else rng.randrange(1, len(content["counts"]))
    count_zh, count_en = content["counts"][number]
    plural = irregular[0] if irregular else f"{singular}s"
    english = plural if number else singular
    adjectives = [entry for name in content["things"][group]["adjectives"] for entry in content["words"][name]]
    adjective_zh, adjective = ("", "") if rng.random() < PLAIN else rng.choice(adjectives)
    # An English description that follows its noun is marked with a tilde in the grammar.
    described = f"{english}{adjective[1:]}" if adjective.startswith("~") else f"{adjective} {english}".strip()
    return Phrase(
        f"{count_zh}{measure}{adjective_zh}{noun}",
        f"{count_en} {described}" if number else with_article(described),
        frozenset([singular, adjective]) - {""},
        frozenset([(adjective, singular)] if adjective else []),
    )


def fill(name: str, rng: random.Random) -> Phrase:
    """Something from a list of scenes.json, which may be a group of things or plain words."""
    content = grammar()
    return thing(name, rng) if name in content["things"] else word(rng.choice(content["words"][name]))


def caption(rng: random.Random) -> Phrase:
    """One caption or prompt, everything in it chosen by `rng`."""
    template = rng.choice(grammar()["templates"])
    slots = {slot: fill(rng.choice(names), rng) for slot, names in template["fill"].items()}
    return Phrase(
        template["zh"].format(**{slot: phrase.zh for slot, phrase in slots.items()}),
        template["en"].format(**{slot: phrase.en for slot, phrase in slots.items()}),
        frozenset().union(*(phrase.words for phrase in slots.values())),
        frozenset().union(*(phrase.combinations for phrase in slots.values())),
    )
