"""Which words of a prompt the aligned encoder reads, and which the checkpoint's own CLIP. Pure Python.

The rule, where a node has both encoders ("zh" is the aligned one's, "en" CLIP's):

1. The prompt is normalised and parsed (prompt.py), then divided at BREAK into sections, and a section into clauses: at
   commas, semicolons, full stops, `!`, `?` and line breaks, but not inside a number or a Latin word (1,000; U.S.A).
2. A clause with Latin letters and no other letter is CLIP's: `masterpiece`, `8k`, `best quality`.
3. A clause with other letters (Chinese, kana, Cyrillic...) is the aligned encoder's, except for
   - two or more Latin words in a row (`by Greg Rutkowski`). A word may have apostrophes, hyphens, slashes and digits
     (AC/DC is one); digits alone are no word, and neither they nor punctuation end a run. A single Latin word stays,
     as in T-shirt, BMW or 3D;
   - a Latin word with an underscore, a LoRA's trigger, unless the underscore touches another letter.
4. Never divided, CLIP's wherever they stand, and the end of a run: `embedding:name` up to white space, comma or
   semicolon and without punctuation at its end; tags such as `<lora:name:0.8>`; wildcards such as `__colour__`.
5. What has no letter (digits, emoji, punctuation) stays with what it follows in its clause; at a clause's beginning,
   and where it is an opening bracket, or a quotation mark before English, with what comes next. A clause or section
   without letters goes with the one before it, the first with the next; a prompt without any is the aligned encoder's.
6. Weights stay with each piece of text, so a weighted span of two languages is weighted in both encoders.
7. Where one language's text was taken out, the other's is joined by a comma, unless punctuation stands there or it is
   one Chinese clause; commas and semicolons at either end go.

Of each section, the aligned encoder then reads all its text together, so that a sentence keeps its context, and CLIP
all of its own. Their order does not matter: cross-attention is the same for any order of its keys.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .prompt import Span, bounded, check_length, normalise, parse, render, split_at_breaks, strip, strip_end, tidy

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
BRACKETS = "([{<\u3008\u300a\u300c\u300e"
# ComfyUI recognises an embedding at the beginning of a weighted span or after white space, and nowhere else.
GLUED_EMBEDDING = re.compile(r"(?<=[^A-Za-z0-9_\s])(?=embedding:)")


class Segment(NamedTuple):
    """Text that one encoder reads together: "zh" or "en", and the text in prompt syntax."""

    language: str
    prompt: str


class LanguageSpan(NamedTuple):
    """A stretch of a prompt's plain text: its language, "zh", "en" or "break" for BREAK itself, and its weight."""

    text: str
    language: str
    weight: float


class Unit(NamedTuple):
    """What is never divided, from one offset to another: a "word" with Latin letters, a "trigger" (such a word with an
    underscore), an "atom" (an embedding, tag or wildcard), or a stretch of "other" letters."""

    begin: int
    end: int
    kind: str


@dataclass
class Piece:
    """A span of a section, its language, "" until the clauses around it decide, and the number of its clause."""

    span: Span
    language: str
    clause: int


Section = tuple[list[Piece], list[Span]]  # between two BREAKs, and the BREAK that ends it


def route(text: str) -> list[Segment]:
    """A prompt as typed -> what each encoder reads, section after section, the aligned encoder first. Never empty.

    A prompt of one language is returned as typed, so that its encoder reads what it would read by the stock node;
    English with BREAK or with characters beyond ASCII is not, which CLIP reads otherwise. Raises PromptError.
    """
    sections = _sections(text)
    languages = {piece.language for pieces, _ in sections for piece in pieces} or {"zh"}
    if languages == {"zh"} or (languages == {"en"} and len(sections) == 1 and text.isascii()):
        return [Segment(languages.pop(), text)]
    both = [Segment(language, _prompt(pieces, language)) for pieces, _ in sections for language in ("zh", "en")]
    return [segment for segment in both if segment.prompt]


def spans(text: str, bilingual: bool = True) -> list[LanguageSpan]:
    """A prompt as typed -> its plain text without brackets and weights, in order, by language and weight. `bilingual`
    says whether there is a CLIP that reads the English; else all is the aligned encoder's. Raises PromptError."""
    flat: list[tuple[Span, str]] = []
    for pieces, ending in _sections(text):
        flat += [(piece.span, piece.language if bilingual else "zh") for piece in pieces]
        flat += [(span, "break") for span in ending]
    groups = itertools.groupby(flat, key=lambda each: (each[1], each[0].weight))
    return [
        LanguageSpan("".join(span.text for span, _ in group).replace("\n", " "), language, weight)
        for (language, weight), group in groups
    ]


def _sections(text: str) -> list[Section]:
    """The pieces of each section, every one with its language, and the BREAK that ends it."""
    check_length(text)
    # Lines are normalised one by one, and so kept apart: a line break ends a clause.
    lines = "\n".join(filter(None, map(normalise, text.splitlines())))
    sections = [(_pieces(section), ending) for section, ending in split_at_breaks(parse(lines))]
    for pieces, _ in sections:
        _fill_languages(pieces)
    _fill_languages([piece for pieces, _ in sections for piece in pieces], "zh")
    return sections


def _fill_languages(pieces: list[Piece], default: str = "") -> None:
    """Give a piece without letters the language before it, the first ones the next."""
    language = next((piece.language for piece in pieces if piece.language), default)
    for piece in pieces:
        language = piece.language = piece.language or language


def _pieces(section: list[Span]) -> list[Piece]:
    plain = "".join(span.text for span in section)
    weights = [span.weight for span in section for _ in span.text]
    out = []
    for number, (start, end, units) in enumerate(_clauses(plain)):
        for language, begin, stop in _split_by_language(plain, start, end, units):
            for weight, group in itertools.groupby(range(begin, stop), key=weights.__getitem__):
                out.append(Piece(Span("".join(plain[at] for at in group), weight), language, number))
    return out


def _clauses(plain: str) -> Iterator[tuple[int, int, list[Unit]]]:
    """Plain text with its line breaks -> begin, end and units of its clauses, which together are all of it."""
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
    for begin, end in itertools.pairwise(dict.fromkeys([0, *ends, len(plain)])):
        yield begin, end, units[bisect_left(starts, begin) : bisect_left(starts, end)]


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


def _split_by_language(plain: str, begin: int, end: int, units: list[Unit]) -> Iterator[tuple[str, int, int]]:
    """A clause's stretches of one language: (language, begin, end)."""
    languages = _languages(units)
    for before, after, first, second in zip(units, units[1:], languages, languages[1:]):
        if first != second:
            opening = BRACKETS + '"' if second == "en" else BRACKETS
            border = before.end + len(plain[before.end : after.begin].rstrip(opening))
            yield first, begin, border
            begin = border
    yield languages[-1] if languages else "", begin, end


def _languages(units: list[Unit]) -> list[str]:
    """The language of each unit of one clause."""
    only_latin = all(unit.kind != "other" for unit in units)
    out: list[str] = []
    for kind, group in itertools.groupby(units, key=lambda unit: "word" if unit.kind == "trigger" else unit.kind):
        run = list(group)
        english = only_latin or kind == "atom" or (kind == "word" and (len(run) > 1 or run[0].kind == "trigger"))
        out += ["en" if english else "zh"] * len(run)
    return out


def _prompt(pieces: list[Piece], language: str) -> str:
    """One section's text of one language in prompt syntax, or "" where it has none."""
    out: list[Span] = []
    own = [(number, piece) for number, piece in enumerate(pieces) if piece.language == language]
    for (last, before), (number, piece) in zip([own[0], *own] if own else [], own):
        if number > last + 1:
            out = strip_end(out, " \n")
            out.append(Span(_connector(out, piece.span.text, language, before.clause == piece.clause), 1.0))
        out.append(piece.span)
    flat = tidy(strip([Span(span.text.replace("\n", " "), span.weight) for span in out], " ,;"))
    if language == "en":
        flat = [Span(GLUED_EMBEDDING.sub(" ", span.text), bounded(span.weight)) for span in flat]
    return render(flat)


def _connector(before: list[Span], after: str, language: str, same_clause: bool) -> str:
    """What stands where the other language's text was taken out: a comma between clauses and between English runs,
    unless punctuation is there; inside a Chinese clause, nothing but a space between Latin words."""
    left = before[-1].text[-1:] if before else ""
    if language == "zh" and same_clause:
        # A backslash before a weighted span's bracket would take the bracket's meaning.
        return " " if left == "\\" or (left.isascii() and after[:1].isascii()) else ""
    if not left or left in ",;.!?:":
        return " " if language == "en" else ""
    return ", "
