"""The starter corpus's tables, read on first use. Every table is TSV with a header.

A thing's English says by its end how it counts: `*` is a mass or a name, `+` always plural, `/plural` irregular; a
thing without measure words is a whole phrase, article and all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .phrase import plural

HERE = Path(__file__).parent
COMMA = "\uff0c"
CANDIDATES = 8  # of which the least used is taken
# Kind of thing for a kind of culture.
CULTURE = {"food": "dish", "vessel": "tableware", "craft": "artwork", "god": "person", "interior": "furniture"}
CULTURE |= dict.fromkeys(("pattern", "scene", "festival", "performance"), "picture")
VESSEL = re.compile(r"\b(?:bowl|plate|platter|box|jar|can|cup|glass|bottle|pot|basket|board|pile|string|bunch)\b")
NAMED = ("person", "figure", "creature", "building", "structure", "landscape", "place", "ship", "animal")


@dataclass(eq=False)
class Word:
    """A row of a table, the kinds of things that it fits, and how often it was used."""

    zh: str
    en: str
    kinds: frozenset[str] = frozenset()
    weight: int = 1
    used: int = 0


@dataclass(eq=False)
class Thing(Word):
    """Something seen. `counts`: count, plural, mass, name or phrase."""

    many: str = ""
    kind: str = ""
    counts: str = "count"
    measures: list[str] = field(default_factory=list)
    synonyms: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Attribute(Word):
    """A property. `de`: whether Chinese joins it with its particle: yes, may, no. `after`: it follows the English noun.
    `order` and `rank`: its place among others in Chinese and in English. `clashes`: characters of a name that says such
    a thing already."""

    group: str = ""
    de: str = ""
    after: bool = False
    order: int = 0
    rank: int = 0
    clashes: frozenset[str] = frozenset()


@dataclass(eq=False)
class Action(Word):
    """A verb and what it takes. `does`: its present for one subject. Flags: ongoing, it can be going on now; placeable,
    it leaves room for a place; present, it has one; group, its subjects are several."""

    does: str = ""
    objects: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()


@cache
def table(name: str) -> list[list[str]]:
    """Rows of a table."""
    lines = (HERE / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t") for line in lines]


@cache
def kinds(names: str) -> frozenset[str]:
    """Kinds in a list such as `@food,flower`; @names stand for other lists."""
    lists = dict(table("kinds"))
    sets = (kinds(lists[name]) if name.startswith("@") else {name} for name in listed(names))
    return frozenset().union(*sets)


def listed(names: str) -> frozenset[str]:
    """Names in a list such as `one,counted`."""
    return frozenset(name for name in names.split(",") if name)


def things() -> list[Thing]:
    """Things, quantities and visible things of culture."""
    out = [_thing(*row) for row in table("things")]
    for zh, _, kind, short, _ in table("culture"):
        kind = CULTURE.get(kind, kind)
        out.append(Thing(zh, short, weight=2, many=short, kind=kind, counts="phrase"))
    return out


def _thing(zh: str, en: str, kind: str, measures: str, synonyms: str, weight: str) -> Thing:
    one, _, many = en.partition("/")
    counts = {"*": "mass", "+": "plural"}.get(en[-1], "count")
    one = one.rstrip("*+")
    if counts == "mass" and (kind in NAMED or (kind == "sky" and one[0].isupper()) or one.startswith("the ")):
        counts = "name"
    if not measures:
        counts = "phrase"
    many = many or (plural(one) if counts == "count" else one)
    thing = Thing(zh, one, weight=int(weight), many=many, kind=kind, counts=counts)
    thing.measures, thing.synonyms = measures.split(","), [name for name in synonyms.split(",") if name]
    return thing


def vessel(thing: Thing, unit: str) -> tuple[list[str], bool]:
    """The English of a measure that is a vessel, a portion or a group, one and many of it, and whether it holds
    several of the thing; nothing for a measure that only counts."""
    rows = table("measures")
    collective = {measure for measure, *_, countable in rows if countable}
    row = next((r for r in rows if r[0] == unit and thing.kind in r[3].split(",") and re.search(r[4], thing.en)), None)
    if row is None:
        return [], False
    _, one, many, _, _, countable = row
    if thing.counts != "count":
        return [one, many], False
    one_by_one = any(other != unit and other not in collective for other in thing.measures)
    if not countable or (countable == "many" and not one_by_one) or VESSEL.search(thing.en):
        return [], False
    return [one, many], one_by_one


def attributes() -> list[Attribute]:
    """Properties; those of a whole picture (style, camera, light) may name the kinds of things that are shown so."""
    groups = {name: (at, int(rank), frozenset(named)) for at, (name, rank, named) in enumerate(table("groups"))}
    return [
        Attribute(zh, en, kinds(of), 1, 0, group, de, place == "post", *groups.get(group, ()))
        for zh, en, group, of, de, place in table("attributes")
    ]


def actions() -> list[Action]:
    """Verbs; subjects are kinds, or things by their Chinese names."""
    return [
        Action(zh, en, kinds(of), does=does, objects=kinds(objects), flags=listed(flags))
        for zh, en, does, of, objects, flags in table("actions")
    ]


def places() -> list[Word]:
    """Places, with the kinds of things that are found there."""
    return [Word(zh, en, kinds(of)) for zh, en, of in table("places")]
