"""English noun phrases, and texts that have several forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lexicon import Attribute

VOWEL = re.compile(
    r"(?!one\b|one-|once|uni(?!n)|uri|us[ei]|ut[ie]|eu|ewe|uk|uy)[aeiou]|hour|hon(?:est|or)|heir|herb|"
    r"[FHLMNRSX]-|LCD\b|8|11|18",
    re.I,
)

OWNERS = {
    "her": r"\w*wom[ae]n|\w*girl|lady|\w*mother|grandma|aunt|daughter|sister|wife|bride\w*|nun|witch|queen|"
    r"[Pp]rincess|[Ee]mpress|actress|goddess|huntress|priestess|seamstress|stewardess|waitress",
    "his": r"\w*man|\w*men|boy|\w*father|grandpa|uncle|son|brother|husband|groom|monk|king|prince|wizard",
}
IRREGULAR = {"leaf": "leaves", "ox": "oxen"}  # of those that actions name; the table of things has its own plurals
# What each of several has of its own.
OWN = re.compile(
    r"^(wearing|with|holding|carrying|knitting|wrapped in|leaning on|leading|riding|walking|pulling|pushing|eating)"
    r" an? ((?!.* (?:on|in|over|of)|bite).*)"
)


class Form(str):
    """A string with other forms of it as attributes, such as `form.bare`."""

    be = ""

    def __new__(cls, text: str, **forms: str) -> Form:
        """Create it from the text and its forms."""
        self = super().__new__(cls, text)
        self.__dict__.update(forms)
        return self


def fill(template: str, values: dict[str, tuple[Form, Form]], side: int) -> str:
    """Fill a template with one side, 0 Chinese or 1 English, of each value."""
    return template.format(**{name: both[side] for name, both in values.items()})


def article(en: str) -> str:
    """A noun phrase with its indefinite article."""
    return f"an {en}" if VOWEL.match(en) else f"a {en}"


def plural(one: str) -> str:
    """The regular plural of an English noun phrase, by its last word."""
    if one in IRREGULAR:
        return IRREGULAR[one]
    if re.search(r"(?:[sxz]|ch|sh)$", one):
        return f"{one}es"
    return f"{one[:-1]}ies" if re.search(r"[^aeiou]y$", one) else f"{one}s"


def modified(attributes: Sequence[Attribute], noun: str, several: bool = False) -> str:
    """An English noun with its attributes, in their usual order."""
    before: list[str] = []
    after: list[str] = []
    for attribute in sorted(attributes, key=lambda a: a.rank):
        (after if attribute.after else before).append(for_several(attribute.en) if several else attribute.en)
    the = "the " if noun.startswith("the ") else ""
    return the + " ".join([*before, noun.removeprefix(the), *after])


def for_several(en: str) -> str:
    """A verb phrase or attribute of one thing, changed for several."""
    en = OWN.sub(lambda match: f"{match[1]} {plural(match[2])}", en)
    return re.sub(r"\bits\b", "their", re.sub(r"\bit\b", "them", en))


def owned(en: str, owner: str, kind: str, be: str) -> str:
    """A text about an owner, of this kind and one or many by the verb, with its possessive instead of `one's`."""
    whose = next((whose for whose, names in OWNERS.items() if re.search(rf"\b(?:{names})\b", owner)), "their")
    whose = "their" if be == "are" else whose if kind in ("person", "figure") else "its"
    return en.replace("one's", whose)
