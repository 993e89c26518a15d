"""Hard negatives: a caption with two of its like words exchanged, which has the same words and says something else."""

from __future__ import annotations

import re
from functools import cache
from itertools import combinations

from .pairs import share
from .starter.lexicon import attributes, table, things

GROUPS = ("age", "colour", "material", "mood", "pattern", "shape", "size", "state")  # said of a thing, not of a picture
LONGEST = 3  # words of a thing or an attribute
WORD = re.compile(r"[\w'-]+")
ARTICLE = re.compile(r"\ban? $", re.IGNORECASE)
LISTED = re.compile(r"(?:[,;\s]|\b(?:and|or|an?|the)\b)*", re.IGNORECASE)  # a list in another order says the same
Span = tuple[int, int]


def exchanged(english: str) -> str | None:
    """`a red cup on a blue table` as `a blue cup on a red table`, or None where no two words are of one class: colours,
    sizes, things, numbers and so on. Which two is drawn by the caption."""
    spans: dict[str, list[Span]] = {}
    words = [match.span() for match in WORD.finditer(english)]
    at = 0
    while at < len(words):
        of, count = _class(english, words[at : at + LONGEST])
        if of:
            spans.setdefault(of, []).append((words[at][0], words[at + count - 1][1]))
        at += count
    several = [found for some in spans.values() if (found := _unlike(english, some))]
    if not several:
        return None
    alike = several[int(share(english, "class") * len(several))]
    (a, b), (c, d) = alike[int(share(english, "words") * len(alike))]
    return english[:a] + english[c:d] + english[b:c] + english[a:b] + english[d:]


def _class(english: str, words: list[Span]) -> tuple[str, int]:
    """The class of the longest known text that begins with these words, and its words; an empty one for none."""
    for count in range(len(words), 0, -1):
        of = classes().get(english[words[0][0] : words[count - 1][1]].casefold())
        if of:
            return of, count
    return "", 1


def _unlike(english: str, spans: list[Span]) -> list[tuple[Span, Span]]:
    """Pairs of places that say different things, with the articles before them where those differ: an orange cup."""
    pairs = []
    for one, other in combinations(spans, 2):
        alike = english[slice(*one)].casefold() == english[slice(*other)].casefold()
        if not alike and not LISTED.fullmatch(english[one[1] : other[0]]):
            first, second = (ARTICLE.search(english[: span[0]]) for span in (one, other))
            if first and second and first[0].casefold() != second[0].casefold():
                one, other = (first.start(), one[1]), (second.start(), other[1])
            pairs.append((one, other))
    return pairs


@cache
def classes() -> dict[str, str]:
    """Of each English word or phrase of the starter's lexicon its class. One thing and several are two."""
    found: dict[str, str] = {}
    for thing in things():
        if thing.counts != "phrase":
            found[thing.many.casefold()] = "things"
            found[thing.en.casefold()] = "things" if thing.counts == "plural" else "thing"
    found |= {en: "number" for _, en, _, _ in table("numbers") if en not in ("a", "one")}
    return found | {some.en.casefold(): some.group for some in attributes() if some.group in GROUPS}
