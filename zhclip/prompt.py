"""Prompt syntax: from a prompt as typed to weighted spans, and to the windows that they are cut into.

The syntax is ComfyUI's: `(red)` weighs 1.1 times what stands around it, `(red:1.3)` weighs 1.3 wherever it stands,
`\\(` and `\\)` are characters, square brackets are text. `BREAK`, as in other front ends, starts a new window.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Chinese full stops, commas, brackets and quotation marks, to ASCII. Other full-width forms follow by decomposition.
PUNCTUATION = str.maketrans("\u3002\u3001\uff61\uff64\u3010\u3011\u201c\u201d\u2018\u2019", ".,.,[]\"\"''")
CLAUSE_ENDS = frozenset(",.;:!?\n")
INVISIBLE = ("Cc", "Cs")  # control characters, and halves of surrogate pairs, which no tokenizer takes
BREAK = re.compile("(?<![A-Za-z0-9_])BREAK(?![A-Za-z0-9_])")
BRACKET = re.compile("[()]")
BRACKET_WEIGHT = 1.1
MAX_LENGTH = 20_000  # characters, some 270 windows
MAX_DEPTH = 100  # brackets within brackets
MAX_WEIGHT = 100.0  # a UNet in fp16 overflows at weights of a few thousand, and paints noise long before
# Escaped brackets while brackets are read: `normalise` leaves no control character that these could be mistaken for.
ESCAPED = {"\\(": "\x01", "\\)": "\x02"}


class PromptError(ValueError):
    """A prompt that is too long or too deeply nested; the message says so to its writer."""


@dataclass(frozen=True)
class Span:
    """A stretch of plain text and its weight."""

    text: str
    weight: float


def check_length(text: str) -> None:
    """Raise PromptError for more than MAX_LENGTH characters."""
    if len(text) > MAX_LENGTH:
        raise PromptError(f"The prompt has {len(text)} characters; give at most {MAX_LENGTH}.")


def normalise(text: str) -> str:
    """Fold full-width forms and Chinese punctuation to ASCII and white space to single spaces.

    The same function runs on training captions and on prompts. NFKC is applied to punctuation, white space and wide or
    narrow variants alone: it would also rewrite fractions, ligatures and circled digits. Idempotent.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    folded = "".join(map(_fold, unicodedata.normalize("NFC", text))).translate(PUNCTUATION)
    visible = "".join(c for c in folded if c.isspace() or unicodedata.category(c) not in INVISIBLE)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _fold(c: str) -> str:
    variant = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", c) if variant or unicodedata.category(c)[0] in "PZ" else c


def parse(text: str) -> list[Span]:
    """Normalised text -> flat spans, brackets resolved as ComfyUI resolves them, odd ones too.

    An item that begins with a bracket and ends with one is a group; what follows its last colon is its weight when
    Python reads that as a number, else the group's weight is 1.1 times its surroundings'. A bracket without a partner
    is text. Raises PromptError for brackets that are more than MAX_DEPTH deep.
    """
    for typed, mark in ESCAPED.items():
        text = text.replace(typed, mark)
    return list(_weighted(text, 1.0, 0))


def _weighted(text: str, weight: float, depth: int) -> Iterator[Span]:
    if depth > MAX_DEPTH:
        raise PromptError(f"The prompt has more than {MAX_DEPTH} brackets within each other.")
    for item in _groups(text):
        if len(item) > 1 and item[0] == "(" and item[-1] == ")":
            yield from _weighted(*_group(item[1:-1], weight), depth + 1)
        else:
            for typed, mark in ESCAPED.items():
                item = item.replace(mark, typed[1])
            yield Span(item, weight)


def _groups(text: str) -> Iterator[str]:
    """The groups of a text that stand in no other, and the text between them. As in ComfyUI, a closing bracket too many
    puts the level below 0, where brackets open nothing until it is 0 again."""
    begin = level = 0
    for match in BRACKET.finditer(text):
        opens = match[0] == "("
        level += 1 if opens else -1
        border = match.start() if opens else match.end()
        if level == int(opens) and border > begin:
            yield text[begin:border]
            begin = border
    if begin < len(text):
        yield text[begin:]


def _group(text: str, weight: float) -> tuple[str, float]:
    """What stands between a group's brackets -> its text and its weight."""
    before, _, number = text.rpartition(":")
    if before:
        try:
            return before, float(number)
        except ValueError:
            pass
    return text, weight * BRACKET_WEIGHT


def bounded(weight: float) -> float:
    """A weight as the encoders get it: within -MAX_WEIGHT and MAX_WEIGHT, and 1 for NaN."""
    return 1.0 if math.isnan(weight) else max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))


def tidy(spans: Iterable[Span]) -> list[Span]:
    """The spans without empty ones, neighbours of one weight joined, and no two spaces where two of them meet, nor at
    either end: so `(a:1) b` is `a b`."""
    out: list[Span] = []
    for span in spans:
        text = span.text.lstrip(" ") if not out or out[-1].text.endswith(" ") else span.text
        if text and out and out[-1].weight == span.weight:
            out[-1] = Span(out[-1].text + text, span.weight)
        elif text:
            out.append(Span(text, span.weight))
    return strip(out, " ")


def strip(spans: list[Span], characters: str) -> list[Span]:
    """The spans without these characters at either end."""
    spans = strip_end(spans, characters)
    while spans and not spans[0].text.lstrip(characters):
        spans = spans[1:]
    return [Span(spans[0].text.lstrip(characters), spans[0].weight), *spans[1:]] if spans else []


def strip_end(spans: list[Span], characters: str) -> list[Span]:
    """The spans without these characters at the end."""
    while spans and not spans[-1].text.rstrip(characters):
        spans = spans[:-1]
    return [*spans[:-1], Span(spans[-1].text.rstrip(characters), spans[-1].weight)] if spans else []


def split_at_breaks(spans: Iterable[Span]) -> list[tuple[list[Span], list[Span]]]:
    """The sections of a prompt, each as its spans and the BREAK that ends it; the last has none."""
    out: list[tuple[list[Span], list[Span]]] = [([], [])]
    for span in spans:
        first, *others = BREAK.split(span.text)
        out[-1][0].append(Span(first, span.weight))
        for other in others:
            out[-1][1].append(Span("BREAK", span.weight))
            out.append(([Span(other, span.weight)], []))
    return out


def sections(text: str) -> list[list[Span]]:
    """A prompt as typed -> the tidy spans between its BREAKs. An empty prompt is one section without spans.

    Raises PromptError.
    """
    check_length(text)
    tidied = [tidy(spans) for spans, _ in split_at_breaks(parse(normalise(text)))]
    return [spans for spans in tidied if spans] or [[]]


def render(spans: Iterable[Span]) -> str:
    """Spans -> prompt syntax that `parse` reads as the same spans."""
    texts = ((span.text.replace("(", "\\(").replace(")", "\\)"), span.weight) for span in spans)
    return "".join(text if weight == 1.0 else f"({text}:{weight!r})" for text, weight in texts)


def cut(pieces: list[str], size: int, joined: list[bool] | None = None) -> list[int]:
    """The end index of each window of a long prompt, the last equal to len(pieces); an empty one is one empty window.

    `pieces` are the texts that the tokens cover, in order; `size` is the number of tokens that a window holds between
    its start and its end; `joined[i]` says that token i belongs to the weighted span of the token before it. A cut
    falls after the last punctuation of the second half of a window, else before the last token that begins a word,
    else after `size` tokens; inside a weighted span only when that is longer than a window. Raises ValueError for a
    size below 1.
    """
    if size < 1:
        raise ValueError(f"A window of {size} tokens holds no prompt.")
    ends: list[int] = []
    begin = 0
    while len(pieces) - begin > size:
        begin = _cut_one(pieces, begin, begin + size, joined or [False] * len(pieces))
        ends.append(begin)
    return [*ends, len(pieces)]


def _cut_one(pieces: list[str], begin: int, limit: int, joined: list[bool]) -> int:
    half = begin + (limit - begin + 1) // 2
    free = [end for end in range(limit, begin, -1) if not joined[end]]
    late = [end for end in free if end > half]
    clauses = [end for end in late if pieces[end - 1].strip() in CLAUSE_ENDS]
    best = clauses or [end for end in late if _begins_word(pieces, end)]
    if best or not joined[limit]:
        return best[0] if best else limit
    if free:
        # The whole span goes to the next window, if it fits in one.
        longest = free[0] + limit - begin
        if longest >= len(pieces) or not all(joined[limit : longest + 1]):
            return free[0]
    return _cut_one(pieces, begin, limit, [False] * len(pieces))


def _begins_word(pieces: list[str], at: int) -> bool:
    return pieces[at][:1].isspace() or not _in_word(pieces[at][:1]) or not _in_word(pieces[at - 1][-1:])


def _in_word(c: str) -> bool:
    return c.isalnum() and ord(c) < 0x2E80  # below the CJK blocks, whose words are written without spaces
