"""Pairs drawn from templates.tsv: a template's slots are filled with things, their attributes, actions and places.

A slot is `NAME=KINDS:OPTIONS`. Options of a thing: 1 one of it, n several, p plural without a number, s without an
article, c what is counted one by one, k never bare in Chinese, 0 without attributes, 2 with two. The other slots are
attributes by their group (`colour:A` fits A), an action of a thing (act, now, free) or of two (`free:AB`), a place of a
thing, and `same`, the kind of another slot. A thing has forms in both languages: `{A}` whole, `{A.bare}` without number
or article, `{A.noun}` without attributes too; `{V.on}` is an action with its Chinese particle if it can be going on.

An English attribute follows its noun only where no other word does: it would seem to belong to the next.

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
from .lexicon import Attribute, Thing, Word
from .phrase import Form, article, fill, for_several, modified, owned

T = TypeVar("T")
E = TypeVar("E", bound=Word)
Values = dict[str, tuple[Form, Form]]  # Chinese and English of each slot
DE, COMMA, AT, ONE, HAS = "\u7684", "\uff0c", "\u5728", "\u4e00", "\u6709"
CANDIDATES = 8
# Probabilities: a style around a sentence, a synonym, no number for one thing, an ASCII comma, an action of the thing's
# own, several objects, no particle where it is optional.
WRAPPED, SYNONYM, UNCOUNTED, TYPED, OWN, SEVERAL, DROPPED = 0.3, 0.25, 0.3, 0.15, 0.7, 0.15, 0.7
LONG = 6  # characters of a name that takes one attribute at most
SHORT = 12  # characters of a phrase that a style may follow without a comma
# Where a text has one of these it is a sentence, several things, or a number that would count the pictures.
PREDICATE = set("\uff0c\u5728\u7740\u662f\u4e9b\u8bb8\u591a\u5404\u548c")
MANY, FEW, TWO, NONE = (0.35, 0.5, 0.15), (0.6, 0.4), (0, 0, 1), (1,)  # odds of 0, 1, 2 attributes
CROWDED = 2  # particles in a clause of Chinese, at most
# Measures of one by one, which a mass or a plural has not in English.
SINGLE = "\u53ea\u9897\u7c92\u6839\u679a\u6735\u6761\u4e2a\u652f\u5934\u6ef4\u5757\u68f5\u4ef6\u5f20\u9762\u65a4"
PICTURE = {"manner", "image", "look", "camera", "lighting"}
GROUP = re.compile(
    r"a (?:(?:group|litter|flock|herd|pack|fleet|swarm|school) of|\w+ and) |two |three |four |seven |"
    r"(?!an? |the |[A-Z])(?:.* and |.*\ws$)"
)
# No style is added to these.
DENIED = re.compile("(?:not|no|only|nothing|as many|more|close-up|portrait|sketch|a picture|a photo) ")
# A modifier behind such a noun would seem to belong to its last word.
JOINED = re.compile(r"\b(?:and|of|with|in|on|at|from|over|without|wearing|holding)\b")
VERB = re.compile(r"\b(?:bare|V|is|does|be|bigger|taller|smaller|looks)\b")
PASSING = {"weather", "state", "mood", "hair"}  # attributes of what has a name of its own
WORDS = ("quality", "detail")
VERBS = {"act": "", "now": "n", "free": "p", "does": "s", "goes": "ps"}  # flags that an action needs


class Unfit(Exception):
    """None of the candidates fits a slot."""


class Grammar:
    """Generates pairs in a fixed random order."""

    def __init__(self) -> None:
        self.random = random.Random(30)
        self.things = lexicon.things()
        self.attributes, self.looks = ([a for a in lexicon.attributes() if (a.group in PICTURE) == k] for k in (0, 1))
        self.actions, self.places = lexicon.actions(), lexicon.places()
        self.pools: dict[object, list] = {}
        self.templates: dict[str, list[tuple[str, str, list]]] = defaultdict(list)  # by the first slot's kinds
        for weight, zh, en, text in lexicon.table("templates"):
            slots = [slot.partition("=")[::2] for slot in text.split()]
            first = slots[0][1].partition(":")[0]
            for kind in ["wrap"] if slots[0][0] == "X" else lexicon.kinds(first):
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
            template = self.pick(self.templates[main.kind])
            try:
                zh, en = self.filled(*template, main)
                pictured = any(PICTURE & set(spec.split(",")) for _, spec in template[2]) or bool(DENIED.match(en))
                if self.chance(WRAPPED) and not pictured:
                    calm = main.kind != "picture" and HAS not in template[0] and not VERB.search(template[1])
                    zh, en = self.wrapped(zh, en, main, calm)
            except Unfit:
                continue
            if any(clause.count(DE) > CROWDED for clause in zh.split(COMMA)):
                continue
            yield zh.replace(COMMA, ", ") if self.chance(TYPED) else zh, en

    def wrapped(self, zh: str, en: str, main: Thing, calm: bool) -> tuple[str, str]:
        """A pair with a style, camera, light or words of quality before or after it. `calm`: it has no verb."""
        fits = {"any": True, "calm": calm, "short": calm and not PREDICATE & set(zh) and len(zh) <= SHORT}
        zh_form, en_form, slots = self.pick([t for t in self.templates["wrap"] if fits[t[2][0][1]]])
        values: Values = {"X": (Form(zh), Form(en))}
        values |= {name: self.slot(spec, {"X": main}, {}) for name, spec in slots[1:]}
        return fill(zh_form, values, 0), fill(en_form, values, 1)

    def filled(self, zh: str, en: str, slots: Sequence, main: Thing) -> tuple[str, str]:
        """A template whose first slot is filled with `main`. Raises Unfit if nothing fits."""
        things: dict[str, Thing] = {}
        values: Values = {}
        for name, spec in slots:
            what, _, options = spec.partition(":")
            if what in (*VERBS, *WORDS, "place", "colour") or PICTURE & set(what.split(",")):
                value = self.slot(spec, things, values)
                if value in values.values():
                    raise Unfit(name)
                values[name] = value
                continue
            if what == "same":
                what, options = things[options].kind, dict(slots)[options].partition(":")[2]
            if not things and not allows(main, options):
                raise Unfit(name)
            things[name] = self.least_used(self.pool(what, options), things.values()) if things else main
            followed = re.search(rf"\{{{name}(?:\.(?!be)\w+)?}} (?!is |\{{{name}\.be)", en)
            values[name] = self.noun(things[name], options + "x" * bool(followed), FEW if len(things) > 1 else MANY)
        return fill(zh, values, 0), owned(fill(en, values, 1), main.en, main.kind, values[slots[0][0]][1].be)

    def pool(self, what: str, options: str = "") -> list[Thing]:
        """Things of these kinds that a slot's options allow."""
        key = (what, "".join(sorted(set(options) & set("cnpk"))))
        if key not in self.pools:
            kinds = lexicon.kinds(what)
            fitting = (t for t in self.things if t.kind in kinds and allows(t, options))
            self.pools[key] = [t for t in fitting for _ in range(int(t.weight))]
        return self.pools[key]

    def fitting(self, what: str, entries: Sequence[E], thing: Thing) -> list[E]:
        """Attributes, actions or places for a thing's kind, or often the actions of that thing alone."""
        own = (what, thing.zh)
        if what in VERBS and own not in self.pools:
            self.pools[own] = [e for e in entries if thing.zh in e.kinds]
        if (what, thing.kind) not in self.pools:
            self.pools[what, thing.kind] = [e for e in entries if thing.kind in e.kinds]
        return self.pools[own] if self.pools.get(own) and self.chance(OWN) else self.pools[what, thing.kind]

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

    def slot(self, spec: str, things: dict[str, Thing], values: Values) -> tuple[Form, Form]:
        """Words of quality, an attribute of a picture, or an attribute, an action or a place of a thing."""
        what, _, name = spec.partition(":")
        if what in WORDS:
            _, synonyms, en = self.pick([row for row in lexicon.table("words") if row[0] == what])
            return Form(self.pick(synonyms.split("|"))), Form(en)
        if what in VERBS:
            return self.action(what, things[name[0]], "are" if name[1:] else values[name][1].be)
        if what == "place":
            place = self.least_used(self.fitting(what, self.places, things[name]))
            return Form(place.zh, bare=place.zh.removeprefix(AT)), Form(place.en)
        if what not in self.pools:
            self.pools[what] = [a for a in (*self.attributes, *self.looks) if a.group in what.split(",")]
        main = things[name or next(iter(things))]
        trait = self.least_used(
            self.pools[what],
            fits=lambda a: describes(a, main) if name else not a.kinds or main.kind in a.kinds,
        )
        return Form(trait.zh), Form(trait.en, art=article(trait.en))

    def action(self, what: str, thing: Thing, be: str) -> tuple[Form, Form]:
        """A verb phrase for a thing in both languages, with an object where the verb takes one."""
        flags = set(VERBS[what])
        if "s" in flags and be == "are":
            raise Unfit(what)
        act = self.least_used(
            self.fitting(what, self.actions, thing),
            fits=lambda a: flags <= set(a.flags) and (be == "are" or "m" not in a.flags),
        )
        en, does = (owned(text, thing.en, thing.kind, be) for text in (act.en, act.does))
        zh, en = act.zh, for_several(en) if be == "are" else en
        if act.objects:
            options = "x" if self.chance(SEVERAL) else "1x"
            noun = self.noun(self.least_used(self.pool(",".join(sorted(act.objects))), [thing]), options, FEW)
            zh, en, does = (text.replace("{}", noun[side]) for text, side in ((zh, 0), (en, 1), (does, 1)))
        return Form(zh, on=AT + zh if "n" in act.flags else zh), Form(en, does=does)

    def traits(self, thing: Thing, options: str, odds: Sequence[float]) -> list[Attribute]:
        """Attributes of a thing, of different groups."""
        odds = NONE if "0" in options or thing.counts == "phrase" or DE in thing.zh else TWO if "2" in options else odds
        wanted = self.pick(range(len(odds)), odds)
        wanted = min(wanted, 1) if thing.counts == "name" or len(thing.zh) > LONG else wanted
        chosen: list[Attribute] = []
        pool = self.fitting("attribute", self.attributes, thing)
        while len(chosen) < wanted:
            try:
                chosen.append(self.least_used(pool, fits=partial(combines, thing, chosen, "x" in options)))
            except Unfit:
                break
        return chosen

    def noun(self, thing: Thing, options: str, odds: Sequence[float]) -> tuple[Form, Form]:
        """A thing with number and attributes in both languages."""
        traits = self.traits(thing, options, odds)
        name = self.pick(thing.synonyms) if thing.synonyms and self.chance(SYNONYM) else thing.zh
        bare = self.joined(traits) + name
        if thing.counts in ("phrase", "name"):
            whole, plain = modified(traits, thing.en), modified(traits, re.sub("^(?:an?|the) ", "", thing.en))
            be = "are" if GROUP.match(thing.en) else "is"
            zh = Form(bare, bare=bare, noun=name, num="", unit="")
            return zh, Form(whole, bare=plain, noun=plain, be=be, the=whole)
        single = [unit for unit in thing.measures if "c" in options and not lexicon.vessel(thing, unit)[0]]
        unit = self.pick(single or thing.measures)
        vessel, of_many = lexicon.vessel(thing, unit)
        countable = (thing.counts == "count" and thing.kind not in ("event", "sky", "weather")) or bool(vessel)
        count, english, one = self.number(options, unit, countable, bool(vessel))
        uncounted = thing.counts != "count" and not vessel and unit in SINGLE
        uncounted = uncounted or bool(set("ps") & set(options))
        uncounted = uncounted or (one and "k" not in options and self.chance(UNCOUNTED))
        english = "a" if one and uncounted else english
        several = thing.counts == "count" and (of_many if vessel else "p" in options or not one)
        noun = thing.many if several else thing.en
        plain, whole = modified(traits, noun, several or not one or thing.counts == "plural"), ""
        if vessel and not uncounted:
            whole = f"{article(vessel[0]) if english == 'a' else f'{english} {vessel[not one]}'} of {plain}"
        elif thing.counts == "count" and "p" not in options:
            noun = thing.en if one else thing.many
            plain = modified(traits, noun, not one)
            whole = article(plain) if english == "a" else f"{english} {plain}"
        are = not one if whole else thing.counts == "plural" or thing.en != thing.many
        count = "" if uncounted else count
        zh = Form(count + bare, bare=bare, noun=name, num=count, unit=unit)
        return zh, Form(whole or plain, bare=plain, noun=noun, be="are" if are else "is", the=f"the {plain}")

    def number(self, options: str, unit: str, countable: bool, vessel: bool) -> tuple[str, str, bool]:
        """A number and its measure in Chinese, the number in English, and whether it is one. Vessels need a measure."""
        rows = [row for row in lexicon.table("numbers") if row[3] == "yes" or not vessel]
        rows = rows[:1] if set(options) & set("1s") or not countable else rows[2:] if "n" in options else rows
        zh, en, _, measured = self.pick(rows, [int(row[2]) for row in rows])
        return zh + unit * (measured == "yes"), en, zh == ONE

    def joined(self, traits: Sequence[Attribute]) -> str:
        """Attributes before a Chinese noun: the last ones may drop the particle."""
        out, bare = "", True
        for trait in sorted(traits, key=lambda a: (not a.after, a.order), reverse=True):
            may = not out if trait.de == "no" else trait.de == "may" and (len(traits) > 1 or self.chance(DROPPED))
            bare = bare and may
            out = trait.zh + ("" if bare or trait.zh.endswith(DE) else DE) + out
        return out


def describes(trait: Attribute, thing: Thing, other: Word | None = None) -> bool:
    """Whether an attribute fits a thing's kind and says nothing that its name, or the other word, says already."""
    said = other or thing
    ours, theirs = (set(word.en.lower().replace("-", " ").split()) for word in (trait, said))
    return thing.kind in trait.kinds and not trait.clashes & set(said.zh) and not ours & theirs


def combines(thing: Thing, chosen: Sequence[Attribute], followed: bool, trait: Attribute) -> bool:
    """Whether an attribute fits a thing beside those chosen; `followed`: none may come after the English noun."""
    heavy = trait.de == "yes" and any(other.de == "yes" for other in chosen)
    late = trait.after and (followed or any(other.after for other in chosen) or bool(JOINED.search(thing.en)))
    odd = thing.counts == "name" and trait.group not in PASSING
    fresh = all(describes(trait, thing, other) for other in (thing, *chosen))
    return not heavy and not late and not odd and fresh and all(trait.group != other.group for other in chosen)


def allows(thing: Thing, options: str) -> bool:
    """Whether a thing allows a slot's options."""
    if set(options) & set("cn"):
        return thing.counts == "count"
    barred = ("phrase", "name") if "p" in options else ("phrase",) if "k" in options else ()
    return thing.counts not in barred
