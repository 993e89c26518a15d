"""A prompt's plain text as clauses of words, by the kind of each character. languages.py has the rule that uses it."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from bisect import bisect_left
from typing import NamedTuple

# Each character's kind: L Latin, O other letter, D digit, U underscore, J joins the two sides of a word, M belongs to
# the character before it, C comma, - anything else.
WORD = re.compile("[LDU][LDUM]*(?:(?:J+|(?<=D)C(?=DDD(?!D)))[LDU][LDUM]*)*")
OTHER = re.compile("O[OM]*")
JOINERS = frozenset("'-_.&+/@")
# An embedding, a tag, and a wildcard, whose name has one character only where no longer one ends.
ATOM = re.compile(
    r"""(?<![A-Za-z0-9_])embedding:[^\s,;]*[^\s,;.!?"')]
    | <[A-Za-z][\w-]*(?::[^<>]*)?>
    | (?<![A-Za-z0-9_])__[^\W_](?:[^\s,;()<>]{0,200}?[^\s,;()<>_])?__(?![A-Za-z0-9_])""",
    re.VERBOSE,
)
BORDER = re.compile(r"[,;.!?\n][,;.!?\s]*")


class Unit(NamedTuple):
    """What is never divided, from one offset to another: a "word" with Latin letters, a "trigger" (such a word with an
    underscore), an "atom" (an embedding, tag or wildcard), or a stretch of "other" letters."""

    begin: int
    end: int
    kind: str


class Clause(NamedTuple):
    """A stretch of text, with its punctuation and the white space after it, and the units in it."""

    begin: int
    end: int
    units: list[Unit]


def clauses(plain: str) -> list[Clause]:
    """Plain text with its line breaks -> its clauses, which together are all of it."""
    atoms = [Unit(*match.span(), "atom") for match in ATOM.finditer(plain)]
    kinds = list(map(_kind, plain))
    for begin, end, _ in atoms:
        kinds[begin:end] = "-" * (end - begin)
    masked = "".join(kinds)
    words = [match.span() for match in WORD.finditer(masked)]
    named = [Unit(begin, end, _word_kind(masked, begin, end)) for begin, end in words if "L" in masked[begin:end]]
    units = sorted(atoms + named + [Unit(*match.span(), "other") for match in OTHER.finditer(masked)])
    closed = {at for begin, end in [*words, *(atom[:2] for atom in atoms)] for at in range(begin, end)}
    ends = [match.end() for match in BORDER.finditer(plain) if closed.isdisjoint(range(*match.span()))]
    starts = [unit.begin for unit in units]
    bounds = list(dict.fromkeys([0, *ends, len(plain)]))
    return [
        Clause(begin, end, units[bisect_left(starts, begin) : bisect_left(starts, end)])
        for begin, end in itertools.pairwise(bounds)
    ]


def _word_kind(kinds: str, begin: int, end: int) -> str:
    touches_other = (kinds[begin] == "U" and kinds[begin - 1 : begin] == "O") or kinds[end - 1 : end + 1] == "UO"
    return "trigger" if "U" in kinds[begin:end] and not touches_other else "word"


@functools.lru_cache(maxsize=4096)
def _kind(c: str) -> str:
    if c in "_,":
        return "U" if c == "_" else "C"
    if c in JOINERS:
        return "J"
    if "0" <= c <= "9":
        return "D"
    category, name = unicodedata.category(c), unicodedata.name(c, "")
    if category[0] == "M" or category == "Cf" or name.startswith("MODIFIER LETTER"):
        return "M"
    if category[0] != "L":
        return "-"
    return "L" if name.startswith("LATIN") else "O"
