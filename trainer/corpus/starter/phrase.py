"""English noun phrases, and texts that have several forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lexicon import Attribute

VOWEL = re.compile(
    r"(?!one\b|one-|once|uni(?!n)|us[ei]|ut[ie]|eu|ewe|uk|uy)[aeiou]|hour|honest|heir|herb|[FHLMNRSX]-|8|11|18", re.I
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
    if re.search(r"(?:[sxz]|ch|sh)$", one):
        return f"{one}es"
    return f"{one[:-1]}ies" if re.search(r"[^aeiou]y$", one) else f"{one}s"


def modified(traits: Sequence[Attribute], noun: str, several: bool = False) -> str:
    """An English noun with its attributes, in their usual order."""
    before: list[str] = []
    after: list[str] = []
    for trait in sorted(traits, key=lambda a: a.rank):
        (after if trait.after else before).append(for_several(trait.en) if several else trait.en)
    the = "the " if noun.startswith("the ") else ""
    return the + " ".join([*before, noun.removeprefix(the), *after])


def for_several(en: str) -> str:
    """A verb phrase or attribute of one thing, changed for several."""
    return re.sub(r"\bits\b", "their", re.sub(r"\bit\b", "them", en))
