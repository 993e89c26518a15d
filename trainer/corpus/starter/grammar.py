"""Pairs drawn from templates.tsv: a template's slots are filled with things, their attributes, actions and places.

A slot is `NAME=WHAT:DETAILS`. For a thing WHAT is its kinds and DETAILS are options: one or several of it; plural,
without a number; counted one by one rather than by vessels; measured, its Chinese always with number and measure word,
or unmeasured, never with them; no_attributes or two_attributes. `same:A` takes the kind and the options of A. The other
slots are a colour (`colour:A` fits A), attributes of the whole picture by their groups, words of quality or detail,
actions (a key of VERBS) of a thing or of two, and its places.

A thing has forms in both languages: `{A}` whole, `{A.bare}` without number or article, `{A.noun}` without attributes
too; `{V.on}` is an action with its Chinese particle if it can be going on. An English attribute follows its noun only
where no other word does: it would seem to belong to the next. Of a few candidates the least used is taken, so that
every word occurs about equally often.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from . import lexicon
from .lexicon import CANDIDATES, COMMA, Attribute, Thing, Word
from .phrase import Form, article, fill, for_several, modified, owned

T = TypeVar("T")
E = TypeVar("E", bound=Word)
Options = frozenset[str]
Slot = tuple[str, str, str]  # its name, what fills it, details
Values = dict[str, tuple[Form, Form]]  # Chinese and English of each slot
DE, AT, ONE, HAS = "\u7684", "\u5728", "\u4e00", "\u6709"
# Probabilities.
WRAPPED = 0.3  # a style around a sentence
SYNONYM = 0.25  # a synonym for a thing's name
UNMEASURED = 0.3  # one thing without number and measure word in Chinese
TYPED = 0.15  # ASCII commas
OWN_ACTION = 0.7  # an action of the thing alone, where it has some
SEVERAL = 0.15  # an action's object may be several
DROPPED = 0.7  # no particle where it is optional
LONG = 6  # characters of a name that takes one attribute at most
SHORT = 12  # characters of a phrase that a style may follow without a comma
# Where a text has one of these it is a sentence, several things, or a number that would count the pictures.
PREDICATE = set("\uff0c\u5728\u7740\u662f\u4e9b\u8bb8\u591a\u5404\u548c")
# Odds of 0, 1, 2 attributes: of a template's first thing, of its others, and where two or none are asked.
MANY, FEW, TWO, NONE = (0.35, 0.5, 0.15), (0.6, 0.4), (0, 0, 1), (1,)
CROWDED = 2  # particles in a clause of Chinese, at most
# Measure words that count one by one, which a mass or a plural has not in English.
ONE_BY_ONE = "\u53ea\u9897\u7c92\u6839\u679a\u6735\u6761\u4e2a\u652f\u5934\u6ef4\u5757\u68f5\u4ef6\u5f20\u9762\u65a4"
PICTURE = {"manner", "image", "look", "camera", "lighting"}
PLURAL_PHRASE = re.compile(
    r"a (?:(?:group|litter|flock|herd|pack|fleet|swarm|school) of|\w+ and) |two |three |four |seven |"
    r"(?!an? |the |[A-Z])(?:.* and |.*\ws$)"
)
# No style is added to these.
DENIED = re.compile("(?:not|no|only|nothing|as many|more|close-up|portrait|sketch|a picture|a photo) ")
# A modifier behind such a noun would seem to belong to its last word.
JOINED = re.compile(r"\b(?:and|of|with|in|on|at|from|over|without|wearing|holding)\b")
VERB = re.compile(r"\b(?:bare|V|is|does|be|bigger|taller|smaller|looks)\b")
PASSING = {"weather", "state", "mood", "hair"}  # attributes of what has a name of its own
WORD_SLOTS = ("quality", "detail")
# Flags that an action needs.
VERBS = {"act": "", "now": "ongoing", "free": "placeable", "does": "present", "goes": "present,placeable"}


class Unfit(Exception):
    """None of the candidates fits a slot."""


class Grammar:
    """Generates pairs in a fixed random order."""

    def __init__(self) -> None:
        self.random = random.Random(30)
        self.things = lexicon.things()
        words = lexicon.attributes()
        self.attributes = [a for a in words if a.group not in PICTURE]
        self.looks = [a for a in words if a.group in PICTURE]
        self.actions, self.places = lexicon.actions(), lexicon.places()
        self.pools: dict[object, list] = {}
        self.templates: dict[str, list[tuple[str, str, list[Slot]]]] = defaultdict(list)  # by the first slot's kinds
        for weight, zh, en, text in lexicon.table("templates"):
            specs = (slot.partition("=") for slot in text.split())
            slots = [(name, *spec.partition(":")[::2]) for name, _, spec in specs]
            first, what, _ = slots[0]
            for kind in ["wrap"] if first == "X" else lexicon.kinds(what):
                self.templates[kind] += [(zh, en, slots)] * int(weight)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def pick(self, items: Sequence[T], odds: Sequence[float] | None = None) -> T:
        """One of the items, all equally likely or by their odds."""
        return self.random.choices(items, odds)[0]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Chinese and English without end, repeats and long texts included."""
        while True:
            main = self.least_used(self.pool(",".join(self.templates)))
            zh_form, en_form, slots = self.pick(self.templates[main.kind])
            try:
                zh, en = self.filled(zh_form, en_form, slots, main)
                pictured = any(PICTURE & set(what.split(",")) for _, what, _ in slots) or bool(DENIED.match(en))
                if self.chance(WRAPPED) and not pictured:
                    verbless = main.kind != "picture" and HAS not in zh_form and not VERB.search(en_form)
                    zh, en = self.wrapped(zh, en, main, verbless)
            except Unfit:
                continue
            if any(clause.count(DE) > CROWDED for clause in zh.split(COMMA)):
                continue
            yield zh.replace(COMMA, ", ") if self.chance(TYPED) else zh, en

    def wrapped(self, zh: str, en: str, main: Thing, verbless: bool) -> tuple[str, str]:
        """A pair with a style, camera, light or words of quality before or after it."""
        fits = {"any": True, "verbless": verbless, "short": verbless and len(zh) <= SHORT and not PREDICATE & set(zh)}
        zh_form, en_form, slots = self.pick([t for t in self.templates["wrap"] if fits[t[2][0][1]]])
        values: Values = {"X": (Form(zh), Form(en))}
        values |= {name: self.description(what, of, {"X": main}, {}) for name, what, of in slots[1:]}
        return fill(zh_form, values, 0), fill(en_form, values, 1)

    def filled(self, zh: str, en: str, slots: Sequence[Slot], main: Thing) -> tuple[str, str]:
        """A template whose first slot is filled with `main`. Raises Unfit if nothing fits."""
        things: dict[str, Thing] = {}
        options: dict[str, Options] = {}
        values: Values = {}
        for name, what, details in slots:
            if what in (*VERBS, *WORD_SLOTS, "place", "colour") or PICTURE & set(what.split(",")):
                value = self.description(what, details, things, values)
                if value in values.values():
                    raise Unfit(name)
                values[name] = value
                continue
            same = what == "same"
            options[name] = options[details] if same else lexicon.listed(details)
            if not things and not allows(main, options[name]):
                raise Unfit(name)
            pool = self.pool(things[details].kind if same else what, options[name])
            things[name] = self.least_used(pool, things.values()) if things else main
            followed = bool(re.search(rf"\{{{name}(?:\.(?!be)\w+)?}} (?!is |\{{{name}\.be)", en))
            values[name] = self.noun(things[name], options[name], FEW if len(things) > 1 else MANY, followed)
        return fill(zh, values, 0), owned(fill(en, values, 1), main.en, main.kind, values[slots[0][0]][1].be)

    def pool(self, what: str, options: Options = frozenset()) -> list[Thing]:
        """Things of these kinds that a slot's options allow."""
        if (what, options) not in self.pools:
            fitting = (t for t in self.things if t.kind in lexicon.kinds(what) and allows(t, options))
            self.pools[what, options] = [t for t in fitting for _ in range(t.weight)]
        return self.pools[what, options]

    def fitting(self, what: str, entries: Sequence[E], thing: Thing) -> list[E]:
        """Attributes, actions or places for a thing's kind, or often the actions of that thing alone."""
        own = (what, thing.zh)
        if what in VERBS and own not in self.pools:
            self.pools[own] = [e for e in entries if thing.zh in e.kinds]
        if (what, thing.kind) not in self.pools:
            self.pools[what, thing.kind] = [e for e in entries if thing.kind in e.kinds]
        return self.pools[own] if self.pools.get(own) and self.chance(OWN_ACTION) else self.pools[what, thing.kind]

    def least_used(
        self, pool: Sequence[E], but: Iterable[object] = (), fits: Callable[[E], bool] = lambda _: True
    ) -> E:
        """The least used, by weight, of a few random candidates. Raises Unfit if none of them fits."""
        candidates = self.random.choices(pool, k=CANDIDATES) if pool else []
        candidates = [entry for entry in candidates if entry not in but and fits(entry)]
        if not candidates:
            raise Unfit
        entry = min(candidates, key=lambda e: e.used / e.weight)
        entry.used += 1
        return entry

    def description(self, what: str, of: str, things: dict[str, Thing], values: Values) -> tuple[Form, Form]:
        """Words of quality, an attribute of a picture, or an attribute, an action or a place of the slot `of`."""
        if what in WORD_SLOTS:
            _, synonyms, en = self.pick([row for row in lexicon.table("words") if row[0] == what])
            return Form(self.pick(synonyms.split("|"))), Form(en)
        if what in VERBS:
            return self.action(what, things[of[0]], "are" if len(of) > 1 else values[of][1].be)
        if what == "place":
            place = self.least_used(self.fitting(what, self.places, things[of]))
            return Form(place.zh, bare=place.zh.removeprefix(AT)), Form(place.en)
        if what not in self.pools:
            self.pools[what] = [a for a in (*self.attributes, *self.looks) if a.group in what.split(",")]
        pool, main = self.pools[what], things[of or next(iter(things))]
        word = self.least_used(pool, fits=lambda a: describes(a, main) if of else not a.kinds or main.kind in a.kinds)
        return Form(word.zh), Form(word.en, art=article(word.en))

    def action(self, what: str, thing: Thing, be: str) -> tuple[Form, Form]:
        """A verb phrase for a thing in both languages, with an object where the verb takes one."""
        needed, several = lexicon.listed(VERBS[what]), be == "are"
        if several and "present" in needed:
            raise Unfit(what)
        act = self.least_used(
            self.fitting(what, self.actions, thing),
            fits=lambda a: needed <= a.flags and (several or "group" not in a.flags),
        )
        en, does = (owned(text, thing.en, thing.kind, be) for text in (act.en, act.does))
        zh, en = act.zh, for_several(en) if several else en
        if act.objects:
            options = lexicon.listed("" if self.chance(SEVERAL) else "one")
            other = self.least_used(self.pool(",".join(sorted(act.objects))), [thing])
            noun = self.noun(other, options, FEW, followed=True)
            zh, en, does = (text.replace("{}", noun[side]) for text, side in ((zh, 0), (en, 1), (does, 1)))
        return Form(zh, on=AT + zh if "ongoing" in act.flags else zh), Form(en, does=does)

    def attributes_of(self, thing: Thing, options: Options, odds: Sequence[float], followed: bool) -> list[Attribute]:
        """Attributes of a thing, of different groups."""
        bare = "no_attributes" in options or thing.counts == "phrase" or DE in thing.zh
        odds = NONE if bare else TWO if "two_attributes" in options else odds
        wanted = self.pick(range(len(odds)), odds)
        wanted = min(wanted, 1) if thing.counts == "name" or len(thing.zh) > LONG else wanted
        chosen: list[Attribute] = []
        pool = self.fitting("attribute", self.attributes, thing)
        while len(chosen) < wanted:
            try:
                chosen.append(self.least_used(pool, fits=partial(combines, thing, chosen, followed)))
            except Unfit:
                break
        return chosen

    def noun(self, thing: Thing, options: Options, odds: Sequence[float], followed: bool = False) -> tuple[Form, Form]:
        """A thing with number and attributes in both languages. `followed`: another word follows it in English."""
        attributes = self.attributes_of(thing, options, odds, followed)
        name = self.pick(thing.synonyms) if thing.synonyms and self.chance(SYNONYM) else thing.zh
        bare = self.joined(attributes) + name
        if thing.counts in ("phrase", "name"):
            return Form(bare, bare=bare, noun=name, num="", unit=""), unnumbered(thing, attributes)
        measure = self.measure_word(thing, options)
        vessel, holds_several = lexicon.vessel(thing, measure)
        number, english, one = self.number(thing, options, measure, bool(vessel))
        unmeasured = bool(options & {"plural", "unmeasured"})
        unmeasured = unmeasured or (thing.counts != "count" and not vessel and measure in ONE_BY_ONE)
        unmeasured = unmeasured or (one and "measured" not in options and self.chance(UNMEASURED))
        if unmeasured:
            number, english = "", "a" if one else english
        one_by_one = thing.counts == "count" and "plural" not in options and (unmeasured or not vessel)
        determiner = english if one_by_one else ""
        if vessel and not unmeasured:
            determiner = f"{article(vessel[0]) if english == 'a' else f'{english} {vessel[not one]}'} of"
        several = not one if one_by_one else holds_several if vessel else thing.counts == "count"
        zh = Form(number + bare, bare=bare, noun=name, num=number, unit=measure)
        return zh, numbered(thing, attributes, determiner, several, one)

    def measure_word(self, thing: Thing, options: Options) -> str:
        """One of a thing's measure words; if it is counted, one by one where that can be."""
        one_by_one = [word for word in thing.measures if "counted" in options and not lexicon.vessel(thing, word)[0]]
        return self.pick(one_by_one or thing.measures)

    def number(self, thing: Thing, options: Options, measure: str, vessel: bool) -> tuple[str, str, bool]:
        """A number and its measure in Chinese, the number in English, and whether it is one. Vessels need a measure."""
        countable = vessel or (thing.counts == "count" and thing.kind not in ("event", "sky", "weather"))
        rows = [row for row in lexicon.table("numbers") if row[3] == "yes" or not vessel]
        rows = rows[:1] if "one" in options or not countable else rows[2:] if "several" in options else rows
        zh, en, _, measured = self.pick(rows, [int(row[2]) for row in rows])
        return zh + measure * (measured == "yes"), en, zh == ONE

    def joined(self, attributes: Sequence[Attribute]) -> str:
        """Attributes before a Chinese noun: the last ones may drop the particle."""
        out, dropping = "", True
        for attribute in sorted(attributes, key=lambda a: (not a.after, a.order), reverse=True):
            last, optional = not out, attribute.de == "may"
            droppable = last if attribute.de == "no" else optional and (len(attributes) > 1 or self.chance(DROPPED))
            dropping = dropping and droppable
            out = attribute.zh + ("" if dropping or attribute.zh.endswith(DE) else DE) + out
        return out


def numbered(thing: Thing, attributes: Sequence[Attribute], determiner: str, several: bool, one: bool) -> Form:
    """English of a thing behind its number, if it has one. `several`: the noun is plural; `one`: the number is one."""
    noun = thing.many if several else thing.en
    bare = modified(attributes, noun, several or not one or thing.counts == "plural")
    whole = article(bare) if determiner == "a" else f"{determiner} {bare}".lstrip()
    plural_verb = not one if determiner else thing.counts == "plural" or thing.en != thing.many
    return Form(whole, bare=bare, noun=noun, be="are" if plural_verb else "is", the=f"the {bare}")


def unnumbered(thing: Thing, attributes: Sequence[Attribute]) -> Form:
    """English of a thing that takes no number: a name, or a whole phrase."""
    whole, bare = (modified(attributes, en) for en in (thing.en, re.sub("^(?:an?|the) ", "", thing.en)))
    return Form(whole, bare=bare, noun=bare, be="are" if PLURAL_PHRASE.match(thing.en) else "is", the=whole)


def describes(attribute: Attribute, thing: Thing, other: Word | None = None) -> bool:
    """Whether an attribute fits a thing's kind and says nothing that its name, or the other word, says already."""
    said = other or thing
    ours, theirs = (set(word.en.lower().replace("-", " ").split()) for word in (attribute, said))
    return thing.kind in attribute.kinds and not attribute.clashes & set(said.zh) and not ours & theirs


def combines(thing: Thing, chosen: Sequence[Attribute], followed: bool, attribute: Attribute) -> bool:
    """Whether an attribute fits a thing beside those chosen; `followed`: none may come after the English noun."""
    fresh = all(describes(attribute, thing, other) for other in (thing, *chosen))
    lasting = thing.counts == "name" and attribute.group not in PASSING
    misplaced = attribute.after and (followed or JOINED.search(thing.en) or any(other.after for other in chosen))
    similar = any(attribute.group == other.group or attribute.de == other.de == "yes" for other in chosen)
    return fresh and not (lasting or misplaced or similar)


def allows(thing: Thing, options: Options) -> bool:
    """Whether a thing allows a slot's options."""
    if options & {"counted", "several"}:
        return thing.counts == "count"
    barred = ("phrase", "name") if "plural" in options else ("phrase",) if "measured" in options else ()
    return thing.counts not in barred
