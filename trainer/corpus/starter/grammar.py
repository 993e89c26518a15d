"""Pairs drawn from templates.tsv: a template's slots are filled with things, their attributes, actions and places.

A slot is `NAME=KINDS:OPTIONS`. Options of a thing: 1 one of it, n several, p plural without a number, s without an
article, c what is counted one by one, 0 without attributes, 2 with two. The other slots are attributes by their group
(`colour:A` fits A), an action of a thing (act, now, free), a place of a thing, and `same`, the kind of another slot. A
thing has forms in both languages: `{A}` whole, `{A.bare}` without number or article, `{A.noun}` without attributes too.

Of a few candidates the least used is taken, so that every word occurs about equally often.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from . import lexicon
from .draw import pick, pick_weighted, pick_words
from .lexicon import Attribute, Thing, Word
from .phrase import Form, article, fill, for_several, modified, noun_forms

E = TypeVar("E", bound=Word)
DE, COMMA, AT, ONE, HAS = "\u7684", "\uff0c", "\u5728", "\u4e00", "\u6709"
CANDIDATES = 8
WRAPPED, SYNONYM, UNCOUNTED, TYPED, OWN, SEVERAL, DROPPED = 0.3, 0.25, 0.3, 0.15, 0.7, 0.15, 0.7
LONG = 6  # characters of a name that takes one attribute at most
SHORT = 12  # characters of a sentence that a style may follow without a comma
MANY, FEW, TWO, NONE = (0.3, 0.45, 0.2, 0.05), (0.5, 0.42, 0.08), (0, 0, 1), (1,)  # odds of 0, 1, 2, 3 attributes
PICTURE = {"manner", "image", "look", "camera", "lighting"}
GROUP = re.compile("a (?:group|litter) of|two |three |seven ")
DENIED = re.compile("(?:not|no|only|nothing|as many|more|close-up|portrait|sketch) ")  # no style is added to these
VERB = re.compile(r"\b(?:is|does|be|bigger|taller|smaller|looks)\b")
WORDS = ("quality", "detail")
VERBS = {"act": "", "now": "n", "free": "p", "does": "s", "goes": "ps"}


class Unfit(Exception):
    """None of the candidates fits a slot."""


Values = dict[str, tuple[Form, Form]]


class Grammar:
    """Generates pairs in a fixed random order."""

    def __init__(self) -> None:
        self.draw = random.Random(30).random
        self.things, self.attributes = lexicon.things(), lexicon.attributes()
        self.actions, self.places = lexicon.actions(), lexicon.places()
        self.pools: dict[object, list] = {}
        self.shapes: dict[str, list[tuple[str, str, list]]] = defaultdict(list)
        for weight, zh, en, slots in lexicon.table("templates"):
            parts = [slot.partition("=")[::2] for slot in slots.split()]
            first = parts[0][1].partition(":")[0]
            for kind in ["wrap"] if parts[0][0] == "X" else lexicon.kinds(first):
                self.shapes[kind] += [(zh, en, parts)] * int(weight)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Chinese and English without end, repeats and long texts included."""
        while True:
            main = self.least_used(self.pool(",".join(self.shapes)))
            shape = pick(self.draw, self.shapes[main.kind])
            try:
                zh, en = self.filled(*shape, main)
            except Unfit:  # nothing fits a slot
                continue
            pictured = any(PICTURE & set(of.split(",")) for _, of in shape[2]) or bool(DENIED.match(en))
            if self.draw() < WRAPPED and not pictured:
                zh, en = self.wrapped(zh, en, HAS not in shape[0] and not VERB.search(shape[1]))
            yield zh.replace(COMMA, ", ") if self.draw() < TYPED else zh, en

    def wrapped(self, zh: str, en: str, calm: bool) -> tuple[str, str]:
        """A pair with a style, camera, light or words of quality before or after it. `calm`: it has no verb."""
        fits = {"any": True, "calm": calm, "short": calm and COMMA not in zh and len(zh) <= SHORT}
        shape = pick(self.draw, [shape for shape in self.shapes["wrap"] if fits[shape[2][0][1]]])
        values: Values = {"X": (Form(zh), Form(en))} | {name: self.slot(of, {}, {}) for name, of in shape[2][1:]}
        return fill(shape[0], values, 0), fill(shape[1], values, 1)

    def filled(self, zh: str, en: str, parts: Sequence, main: Thing) -> tuple[str, str]:
        """A template whose first slot is filled with `main`. Raises Unfit if nothing fits."""
        things: dict[str, Thing] = {}
        values: Values = {}
        slots = dict(parts)
        for name, of in parts:
            what, _, options = of.partition(":")
            if what in (*VERBS, *WORDS, "place", "colour") or PICTURE & set(what.split(",")):
                values[name] = self.slot(of, things, values)
                continue
            if what == "same":
                what, options = things[options].kind, slots[options].partition(":")[2]
            if not things and not suits(main, options):
                raise Unfit(name)
            things[name] = self.least_used(self.pool(what, options), things.values()) if things else main
            values[name] = self.noun(things[name], options, FEW if len(things) > 1 else MANY)
        return fill(zh, values, 0), fill(en, values, 1)

    def pool(self, what: str, options: str = "") -> list[Thing]:
        """Things of these kinds that suit a slot's options."""
        key = (what, "".join(sorted(set(options) & set("cnp"))))
        if key not in self.pools:
            kinds = lexicon.kinds(what)
            fitting = (t for t in self.things if t.kind in kinds and suits(t, options))
            self.pools[key] = [t for t in fitting for _ in range(int(t.weight))]
        return self.pools[key]

    def fitting(self, what: str, entries: Sequence[E], thing: Thing) -> list[E]:
        """Attributes, actions or places for a thing's kind, or often the actions of that thing alone."""
        own = (what, thing.zh)
        if what in VERBS and own not in self.pools:
            self.pools[own] = [e for e in entries if thing.zh in e.kinds]
        if (what, thing.kind) not in self.pools:
            self.pools[what, thing.kind] = [e for e in entries if thing.kind in e.kinds]
        return self.pools[own] if self.pools.get(own) and self.draw() < OWN else self.pools[what, thing.kind]

    def least_used(
        self, pool: Sequence[E], but: Iterable[object] = (), fits: Callable[[E], bool] = lambda _: True
    ) -> E:
        """The least used, by weight, of a few random candidates. Raises Unfit if none of them fits."""
        candidates = [pick(self.draw, pool) for _ in range(CANDIDATES)] if pool else []
        candidates = [entry for entry in candidates if entry not in but and fits(entry)]
        if not candidates:
            raise Unfit
        entry = min(candidates, key=lambda e: e.used / e.weight)
        entry.used += 1
        return entry

    def slot(self, of: str, things: dict[str, Thing], values: Values) -> tuple[Form, Form]:
        """Words of quality, an attribute of a picture, or an attribute, an action or a place of a thing."""
        what, _, name = of.partition(":")
        if what in WORDS:
            zh, en = pick_words(self.draw, what)
            return Form(zh), Form(en)
        if what in VERBS:
            return self.action(what, things[name], values[name][1].be)
        if what == "place":
            place = self.least_used(self.fitting(what, self.places, things[name]))
            return Form(place.zh, bare=place.zh.removeprefix(AT)), Form(place.en)
        if what not in self.pools:
            self.pools[what] = [a for a in self.attributes if a.group in what.split(",")]
        fits = (lambda a: self.suits(a, things[name])) if name else (lambda a: True)
        trait = self.least_used(self.pools[what], fits=lambda a: fits(a) and (a.zh, a.en) not in values.values())
        return Form(trait.zh), Form(trait.en, art=article(trait.en))

    def action(self, what: str, thing: Thing, be: str) -> tuple[Form, Form]:
        """What a thing does, with an object where the verb takes one."""
        flags = set(VERBS[what])
        if "s" in flags and be == "are":
            raise Unfit(what)
        act = self.least_used(
            self.fitting(what, self.actions, thing),
            fits=lambda a: flags <= set(a.flags) and (be == "are" or "m" not in a.flags),
        )
        en = for_several(act.en) if be == "are" else act.en
        zh, does = act.zh, act.does
        if act.objects:
            options = "" if self.draw() < SEVERAL else "1"
            noun = self.noun(self.least_used(self.pool(",".join(sorted(act.objects))), [thing]), options, FEW)
            zh, en, does = (text.replace("{}", noun[side]) for text, side in ((zh, 0), (en, 1), (does, 1)))
        return Form(zh), Form(en, does=does)

    def suits(self, trait: Attribute, thing: Thing) -> bool:
        """Whether an attribute fits a thing's kind and is not part of its name already."""
        words = set(thing.en.lower().replace("-", " ").split())
        named = trait.clashes & set(thing.zh)
        return thing.kind in trait.kinds and not named and not words & set(trait.en.split())

    def traits(self, thing: Thing, options: str, odds: Sequence[float]) -> list[Attribute]:
        """Attributes of a thing, of different groups."""
        odds = NONE if "0" in options or thing.counts == "phrase" else TWO if "2" in options else odds
        wanted = pick_weighted(self.draw, range(len(odds)), odds)
        wanted = min(wanted, 1) if DE in thing.zh or thing.counts == "name" or len(thing.zh) > LONG else wanted
        chosen: list[Attribute] = []
        pool = self.fitting("attribute", self.attributes, thing)
        while len(chosen) < wanted:
            try:
                chosen.append(self.least_used(pool, fits=partial(self.combines, thing, chosen)))
            except Unfit:
                break
        return chosen

    def combines(self, thing: Thing, chosen: Sequence[Attribute], trait: Attribute) -> bool:
        """Whether an attribute fits a thing beside those chosen."""
        heavy = DE in thing.zh and trait.de == "yes"  # one particle after the other
        return not heavy and all(trait.group != other.group for other in chosen) and self.suits(trait, thing)

    def noun(self, thing: Thing, options: str, odds: Sequence[float]) -> tuple[Form, Form]:
        """A thing with number and attributes in both languages."""
        traits = self.traits(thing, options, odds)
        name = pick(self.draw, thing.synonyms) if thing.synonyms and self.draw() < SYNONYM else thing.zh
        bare = self.joined(traits) + name
        if thing.counts in ("phrase", "name"):
            whole, short = (
                modified(traits, thing.en),
                modified(traits, re.sub("^(?:an?|the) ", "", thing.en)),
            )
            be = "are" if GROUP.match(thing.en) else "is"
            return Form(bare, bare=bare, noun=name, num="", unit=""), noun_forms(whole, short, short, be, whole)
        unit = pick(self.draw, thing.measures)
        vessel, of_many = lexicon.vessel(thing, unit)
        number, english, one = self.number(options, unit, thing.counts == "count" or bool(vessel))
        uncounted = "p" in options or "s" in options or (one and self.draw() < UNCOUNTED)
        several = thing.counts == "count" and (of_many if vessel else "p" in options or not one)
        noun = thing.many if several else thing.en
        plain, whole = modified(traits, noun, several), ""
        if vessel and not uncounted:
            whole = f"{article(vessel[0]) if english == 'a' else f'{english} {vessel[not one]}'} of {plain}"
        elif thing.counts == "count" and "p" not in options:
            several, noun = not one, thing.en if one else thing.many
            plain = modified(traits, noun, several)
            whole = article(plain) if english == "a" else f"{english} {plain}"
        be = (
            "are"
            if (not one and whole) or (not whole and thing.en != thing.many * (thing.counts != "plural"))
            else "is"
        )
        count = "" if uncounted else number
        return Form(count + bare, bare=bare, noun=name, num=count, unit=unit), noun_forms(
            whole or plain, plain, noun, be
        )

    def number(self, options: str, unit: str, countable: bool) -> tuple[str, str, bool]:
        """A number and its measure in Chinese, the number in English, and whether it is one."""
        rows = lexicon.table("numbers")
        rows = rows[:1] if "1" in options or not countable else rows[2:] if "n" in options else rows
        total = sum(int(row[2]) for row in rows)
        zh, en, _, measured = pick_weighted(self.draw, rows, [int(row[2]) / total for row in rows])
        return zh + unit * (measured == "yes"), en, zh == ONE

    def joined(self, traits: Sequence[Attribute]) -> str:
        """Attributes before a Chinese noun: the last ones may drop the particle."""
        out, bare = "", True
        for trait in sorted(traits, key=lambda a: a.order, reverse=True):
            may = not out if trait.de == "no" else trait.de == "may" and self.draw() < DROPPED
            bare = bare and may
            out = trait.zh + ("" if bare or trait.zh.endswith(DE) else DE) + out
        return out


def suits(thing: Thing, options: str) -> bool:
    """Whether a thing allows a slot's options."""
    if set(options) & set("cn"):
        return thing.counts == "count"
    return "p" not in options or thing.counts not in ("phrase", "name")
