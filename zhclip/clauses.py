"""A prompt's plain text as clauses of words, by what each character is. Pure Python; the rule that uses it is in
languages.py."""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

# Each character's kind: L Latin, O other letter, D digit, U underscore, J joins the two sides of a word, M belongs to
# the character before it, C comma, - anything else.
WORD = re.compile("[LDU][LDUM]*(?:(?:J+|(?<=D)C(?=DDD(?!D)))[LDU][LDUM]*)*")
OTHER = re.compile("O[OM]*")
JOINERS = frozenset("'-_.&+/@")
ATOM = re.compile(
    r"""(?<![A-Za-z0-9_])embedding:[^\s,;]*[^\s,;.!?"')]
    | <[A-Za-z][\w-]*(?::[^<>]*)?>
    | (?P<wildcard>(?<![A-Za-z0-9_])__(?=[^\W_]))""",  # a wildcard's beginning
    re.VERBOSE,
)
WILDCARD_END = re.compile(r"(?<=[^\s,;()<>_])__(?![A-Za-z0-9_])")
NO_WILDCARD = re.compile(r"[\s,;()<>]")
BORDER = re.compile(r"[,;.!?\n][,;.!?\s]*")
TITLE = re.compile(r"(?<![A-Za-z0-9_])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Mt|Jr|Sr|vs)\.(?= ?[A-Za-z0-9])")


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
    atoms = list(_atoms(plain))
    kinds = [_kind(c) for c in plain]
    for atom in atoms:
        kinds[atom.begin : atom.end] = "-" * (atom.end - atom.begin)
    masked = "".join(kinds)
    words = [match.span() for match in WORD.finditer(masked)]
    named = [Unit(begin, end, _word(masked, begin, end)) for begin, end in words if "L" in masked[begin:end]]
    others = [Unit(*match.span(), "other") for match in OTHER.finditer(masked)]
    units = sorted(atoms + named + others)
    closed = bytearray(len(plain))
    for begin, end in [*words, *(atom[:2] for atom in atoms)]:
        closed[begin:end] = b"\1" * (end - begin)
    for match in TITLE.finditer(plain):
        closed[match.end() - 1] = 1
    ends = [match.end() for match in BORDER.finditer(plain) if 1 not in closed[slice(*match.span())]]
    out, begin, at = [], 0, 0
    for end in dict.fromkeys([*ends, len(plain)]):
        first = at
        while at < len(units) and units[at].begin < end:
            at += 1
        out.append(Clause(begin, end, units[first:at]))
        begin = end
    return out


def _atoms(plain: str) -> Iterator[Unit]:
    """Embeddings, tags and wildcards. A wildcard's end is looked up and not searched for from each beginning, which
    takes the square of their number."""
    ends = [match.start() for match in WILDCARD_END.finditer(plain)]
    stops = [match.start() for match in NO_WILDCARD.finditer(plain)]
    at = 0
    while match := ATOM.search(plain, at):
        begin, at = match.span()
        if match["wildcard"] is not None:
            stop = bisect_left(stops, begin)
            limit = stops[stop] if stop < len(stops) else len(plain)
            # A name of one character only where no longer one ends.
            found = bisect_left(ends, begin + 4)
            if found < len(ends) and ends[found] < limit:
                at = ends[found] + 2
            elif found and ends[found - 1] == begin + 3:
                at = begin + 5
            else:
                at = begin + 1
                continue
        yield Unit(begin, at, "atom")


def _word(kinds: str, begin: int, end: int) -> str:
    torn = (kinds[begin] == "U" and kinds[begin - 1 : begin] == "O") or kinds[end - 1 : end + 1] == "UO"
    return "trigger" if "U" in kinds[begin:end] and not torn else "word"


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
