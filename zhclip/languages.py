"""Which words of a prompt the aligned encoder reads, and which the checkpoint's own CLIP. Pure Python.

The rule, where a node has both encoders ("zh" is the aligned one's, "en" CLIP's):

1. The prompt is normalised and parsed (prompt.py), then divided at BREAK into parts, and a part into clauses: at
   commas, semicolons, full stops, `!`, `?` and line breaks. None of them divides inside a number or a Latin word
   (1,000; v1.5; U.S.A), nor does the full stop of an initial or a title (J. M. W. Turner, Dr. Strange). Brackets and
   weights do not divide.
2. A clause with Latin letters and no other letter is CLIP's: `masterpiece`, `8k`, `best quality`.
3. A clause with other letters (Chinese, kana, Cyrillic...) is the aligned encoder's, without what follows:
   - a run of two or more Latin words is CLIP's (`by Greg Rutkowski`). A word is what stands between white space or
     other letters, with its apostrophes, hyphens, slashes and digits (AC/DC is one); digits alone are no word, and
     punctuation, digits and symbols do not end a run. A single Latin word stays, as in T-shirt, BMW or 3D;
   - a Latin word with an underscore is a LoRA's trigger and CLIP's even alone, unless the underscore touches another
     letter.
4. Never divided, CLIP's wherever they stand, and the end of a run: `embedding:name` up to white space, comma or
   semicolon and without punctuation at its end; tags such as `<lora:name:0.8>`; wildcards such as `__colour__`, which
   joined to a Latin word are part of it (rule 3). Only these may take other letters along.
5. What has no letter (digits, emoji, punctuation) stays with what it follows in its clause; at a clause's beginning,
   and where it is an opening bracket or quotation mark, with what comes next. A clause without letters goes with the
   clause before it, the first ones of a part with the next, a part of such with the part before, else the next; a
   prompt without any letter is the aligned encoder's.
6. Weights stay with each piece of text, so a weighted span of two languages is weighted in both encoders.
7. Where one language's text was taken out, the other's is joined by a comma, unless punctuation stands there or it is
   one Chinese clause; commas and semicolons at either end go. A prompt of one language is left as typed.

Of each part, the aligned encoder then reads all its text together, so that a sentence keeps its context, and CLIP all
of its own. The order of the outputs means nothing to the U-Net: cross-attention is a softmax-weighted sum over keys
without positions, the same for any order of the keys. So nothing is cut for the sake of order, and no more windows are
made than the two languages need.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .clauses import Clause, Unit, clauses
from .prompt import Span, bounded, divided, normalise, parse, render, tidy, trim_end, trimmed

# ComfyUI knows an embedding's name at the beginning of a weighted stretch or after white space, and nowhere else.
GLUED_EMBEDDING = re.compile(r"(?<=[^A-Za-z0-9_\s])(?=embedding:)")
# Without a name, it ends ComfyUI's tokenizer with an IndexError.
NAMELESS_EMBEDDING = re.compile(r"embedding:(?=\s*$|\s+embedding:)")


class Segment(NamedTuple):
    """What one encoder reads together: "zh" or "en", and the text in prompt syntax."""

    language: str
    prompt: str


class LanguageSpan(NamedTuple):
    """A stretch of a prompt's plain text: its language, "zh", "en" or "break" for BREAK itself, and its weight."""

    text: str
    language: str
    weight: float


@dataclass
class Piece:
    """A stretch of a part in one language, "" until the clauses around it decide; which clause, and its spans."""

    language: str
    clause: int
    spans: list[Span]


Part = tuple[list[Piece], list[Span]]  # between two BREAKs, and the BREAK that ends it


def route(text: str) -> list[Segment]:
    """A prompt as typed -> what each encoder reads, part after part, the aligned encoder first. Never empty.

    A prompt of one language is handed on as typed, so that its encoder reads what it would read by the stock node;
    English with BREAK, with characters beyond ASCII, with an absurd weight or with an `embedding:` without a name is
    not: CLIP knows the first two otherwise or not at all, answers the third with infinities, and fails at the last.
    """
    return _routed(text, _parts(text))


def read(text: str, bilingual: bool = True) -> tuple[list[Segment], list[LanguageSpan]]:
    """`route` and `spans` of a prompt, which is parsed once; without a second CLIP, one segment as typed."""
    parts = _parts(text)
    return _routed(text, parts) if bilingual else [Segment("zh", text)], _spans(parts, bilingual)


def _routed(text: str, parts: list[Part]) -> list[Segment]:
    languages = {piece.language for pieces, _ in parts for piece in pieces} or {"zh"}
    if languages == {"zh"} or (languages == {"en"} and len(parts) == 1 and _is_plain(text)):
        return [Segment(languages.pop(), text)]
    both = [Segment(language, _prompt(pieces, language)) for pieces, _ in parts for language in ("zh", "en")]
    return [segment for segment in both if segment.prompt]


def _is_plain(text: str) -> bool:
    return text.isascii() and all(
        bounded(span.weight) == span.weight and not NAMELESS_EMBEDDING.search(span.text) for span in parse(text)
    )


def spans(text: str, bilingual: bool = True) -> list[LanguageSpan]:
    """A prompt as typed -> its plain text without brackets and weights, in order, by language and weight.

    The texts joined are the spans of `parse(normalise(text))` joined. `bilingual` says whether there is a CLIP that
    reads the English; else all is the aligned encoder's.
    """
    return _spans(_parts(text), bilingual)


def _spans(parts: list[Part], bilingual: bool) -> list[LanguageSpan]:
    flat: list[LanguageSpan] = []
    for pieces, ending in parts:
        for piece in pieces:
            language = piece.language if bilingual else "zh"
            flat += [LanguageSpan(span.text.replace("\n", " "), language, span.weight) for span in piece.spans]
        flat += [LanguageSpan(span.text, "break", span.weight) for span in ending]
    groups = itertools.groupby(flat, key=lambda span: span[1:])
    return [LanguageSpan("".join(span.text for span in group), *key) for key, group in groups]


def _parts(text: str) -> list[Part]:
    """The pieces of each part, every one with its language, and the BREAK that ends the part."""
    # Lines are normalised one by one, and so kept apart: a line break ends a clause.
    lines = "\n".join(filter(None, map(normalise, text.splitlines())))
    parts = [(_pieces(part), ending) for part, ending in divided(parse(lines))]
    for pieces, _ in parts:
        _settle(pieces)
    _settle([piece for pieces, _ in parts for piece in pieces], "zh")
    return parts


def _settle(pieces: list[Piece], otherwise: str = "") -> None:
    """Give a piece without letters the language before it, the first ones the next."""
    language = next((piece.language for piece in pieces if piece.language), otherwise)
    for piece in pieces:
        language = piece.language = piece.language or language


def _pieces(part: list[Span]) -> list[Piece]:
    plain = "".join(span.text for span in part)
    owners = [at for at, span in enumerate(part) for _ in span.text]
    quotes = [at for at, c in enumerate(plain) if c == '"']
    out = []
    for number, clause in enumerate(clauses(plain)):
        for begin, end, language in _divided(plain, clause, quotes):
            groups = itertools.groupby(range(begin, end), key=owners.__getitem__)
            mine = [Span("".join(plain[at] for at in group), part[owner].weight) for owner, group in groups]
            if mine:
                out.append(Piece(language, number, mine))
    return out


def _divided(plain: str, clause: Clause, quotes: list[int]) -> Iterator[tuple[int, int, str]]:
    """A clause's stretches of one language: (begin, end, language). `quotes` are where quotation marks stand."""
    begin, units = clause.begin, clause.units
    languages = _languages(units)
    for before, after, one, other in zip(units, units[1:], languages, languages[1:]):
        if one != other:
            border = _opening(plain, quotes, clause.begin, before.end, after.begin)
            yield begin, border, one
            begin = border
    yield begin, clause.end, languages[-1] if languages else ""


def _languages(units: list[Unit]) -> list[str]:
    """The language of each unit of one clause."""
    alone = all(unit.kind != "other" for unit in units)
    out: list[str] = []
    for kind, group in itertools.groupby(units, key=lambda unit: "word" if unit.kind == "trigger" else unit.kind):
        run = list(group)
        english = kind != "other" and (alone or kind == "atom" or len(run) > 1 or run[0].kind == "trigger")
        out += ["en" if english else "zh"] * len(run)
    return out


def _opening(plain: str, quotes: list[int], begin: int, stop: int, start: int) -> int:
    """Where in the letterless text from `stop` to `start` the brackets and quotation marks begin that open what
    follows; a quotation mark opens when an even number stands before it since `begin`."""
    at, first = start, bisect_left(quotes, begin)
    while at > stop and (
        unicodedata.category(plain[at - 1]) in ("Ps", "Pi")
        or (plain[at - 1] == '"' and (bisect_left(quotes, at - 1) - first) % 2 == 0)
    ):
        at -= 1
    return at


def _prompt(pieces: list[Piece], language: str) -> str:
    """One part's text of one language in prompt syntax, or "" where it has none."""
    out: list[Span] = []
    last = -1
    for at, piece in enumerate(pieces):
        if piece.language != language:
            continue
        if out and at > last + 1:
            trim_end(out, " \n")
            out += _bridge(out, piece.spans, language, pieces[last].clause == piece.clause)
        out += piece.spans
        last = at
    flat = tidy(trimmed([Span(span.text.replace("\n", " "), span.weight) for span in out], " ,;"))
    if language == "en":
        spaced = [Span(GLUED_EMBEDDING.sub(" ", span.text), span.weight) for span in flat]
        flat = [Span(NAMELESS_EMBEDDING.sub("embedding", span.text), bounded(span.weight)) for span in spaced]
    return render(flat)


def _bridge(before: list[Span], after: list[Span], language: str, inside: bool) -> list[Span]:
    """What stands where the other language's text was taken out: a comma between clauses and between English runs,
    unless punctuation is there; `inside` a Chinese clause, nothing but a space between Latin words."""
    left, right = before[-1].text[-1:] if before else "", after[0].text[:1]
    if language == "zh" and inside:
        # A backslash before a weighted span's bracket would take the bracket's meaning.
        return [Span(" ", 1.0)] if left == "\\" or (left.isascii() and right.isascii()) else []
    if not left or left in ",;.!?:":
        return [Span(" ", 1.0)] if language == "en" else []
    return [Span(", ", 1.0)]
