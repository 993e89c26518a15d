"""From a prompt's text to weighted spans, and to the windows that they fit in. Pure Python.

The syntax is ComfyUI's: `(red)` weighs 1.1 times what stands around it, `(red:1.3)` weighs 1.3 wherever it stands,
`\\(` and `\\)` are characters, square brackets are text. `BREAK`, as in other front ends, starts a new window.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

# What a writer of Chinese types where ASCII syntax is meant; everything else full-width is folded by its decomposition.
PUNCTUATION = str.maketrans(
    {
        "\u3002": ".",  # ideographic full stop
        "\u3001": ",",  # ideographic comma
        "\uff61": ".",
        "\uff64": ",",
        "\u3010": "[",
        "\u3011": "]",
        "\u201c": '"',
        "\u201d": '"',
        "\u2018": "'",
        "\u2019": "'",
    }
)
BREAKS = frozenset(",.;:!?\n")
HIDDEN = ("Cc", "Cs")  # control characters, and halves of surrogate pairs, which no tokenizer takes
BREAK = re.compile("(?<![A-Za-z0-9_])BREAK(?![A-Za-z0-9_])")
SIGNS = re.compile("[():]")
BRACKET_WEIGHT = 1.1
MARKS = 30  # of one character, as Unicode's Stream-Safe Text Format has it (UAX 15)
LONGEST = 100_000  # characters: some 1,300 windows, with which a host is busy for minutes
LIMIT = 100.0  # a UNet in fp16 overflows at weights of a few thousand, and paints noise long before
# Escaped brackets while brackets are read: `normalise` leaves no control character that these could be mistaken for.
ESCAPED = {"\\(": "\x01", "\\)": "\x02"}


@dataclass(frozen=True)
class Span:
    """A stretch of plain text and its weight."""

    text: str
    weight: float


def normalise(text: str) -> str:
    """Fold full-width forms and Chinese punctuation to ASCII and white space to single spaces.

    The same function runs on training captions and on prompts. NFKC is applied to punctuation, white space and the
    characters that Unicode calls wide or narrow variants, and to nothing else: a plain NFKC would also rewrite
    fractions, ligatures and circled digits. Idempotent.
    """
    folded = "".join(_fold(c) for c in _composed(text)).translate(PUNCTUATION)
    visible = "".join(c for c in folded if c.isspace() or unicodedata.category(c) not in HIDDEN)
    return " ".join(_composed(visible).split())


def _composed(text: str) -> str:
    """NFC, with no more than MARKS combining marks on a character: their order takes the square of their number."""
    return _marked(unicodedata.normalize("NFC", _marked(text)))


def _marked(text: str) -> str:
    if len(text) <= MARKS or not any(map(unicodedata.combining, text)):
        return text
    out, run = [], 0
    for c in text:
        run = run + 1 if unicodedata.combining(c) else 0
        if run <= MARKS:
            out.append(c)
    return "".join(out)


def checked(text: str) -> str:
    """The prompt, if an encoder shall be asked for it. Raises ValueError for one of more than LONGEST characters."""
    if len(text) > LONGEST:
        raise ValueError(f"The prompt has {len(text)} characters; give at most {LONGEST}.")
    return text


def _fold(c: str) -> str:
    variant = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>"))
    if variant or unicodedata.category(c)[0] in "PZ":
        return unicodedata.normalize("NFKC", c)
    return c


def parse(text: str) -> list[Span]:
    """Normalised text -> flat spans, brackets resolved as ComfyUI resolves them, odd ones too.

    An item that begins with a bracket and ends with one is a group; what follows its last colon is its weight when
    Python reads that as a number, else the group's weight is 1.1 times its surroundings'. A bracket without a partner
    is text. One pass finds all partners, and a stack of stretches stands for recursion: the time grows with the text,
    and no depth of brackets is too deep.
    """
    for typed, kept in ESCAPED.items():
        text = text.replace(typed, kept)
    closing, colons = _partners(text)
    out: list[Span] = []
    todo = [*_items(text, 0, len(text), 1.0, closing)][::-1]
    while todo:
        item = todo.pop()
        if item.is_group:
            begin, end, weight = _inside(text, item, colons)
            todo += [*_items(text, begin, end, weight, closing)][::-1]
        else:
            out.append(Span(_restore(text[item.begin : item.end]), item.weight))
    return out


class Item(NamedTuple):
    """A group with its brackets, or text between groups; the weight is that of what stands around it."""

    begin: int
    end: int
    weight: float
    is_group: bool


def _partners(text: str) -> tuple[dict[int, int], dict[int, int]]:
    """Where each opening bracket is closed, or the text's end; and for each closing one, the colon after which nothing
    but a weight can stand, or -1.

    A closing bracket too many puts the level below 0, where brackets open nothing until it is level again: ComfyUI's
    habit, which prompts that people share rely on unknowingly.
    """
    closing: dict[int, int] = {}
    colons: dict[int, int] = {}
    opened: list[int] = []
    below, colon, bracket = 0, -1, -1
    for match in SIGNS.finditer(text):
        at, sign = match.start(), match.group()
        if sign == ":":
            colon = at
            continue
        if sign == "(" and below:
            below -= 1
        elif sign == "(":
            opened.append(at)
            closing[at] = len(text)
        else:
            colons[at] = colon if colon > bracket else -1
            if opened:
                closing[opened.pop()] = at
            else:
                below += 1
        bracket = at
    return closing, colons


def _items(text: str, begin: int, end: int, weight: float, closing: dict[int, int]) -> Iterator[Item]:
    """The groups of a stretch that stand in no other, and the text between them."""
    at = begin
    while at < end:
        opening = text.find("(", at, end)
        while opening >= 0 and opening not in closing:
            opening = text.find("(", opening + 1, end)
        if opening < 0:
            yield Item(at, end, weight, False)
            return
        if opening > at:
            yield Item(at, opening, weight, False)
        # One that is never closed takes all that is left, which is a group where it happens to end with a bracket.
        at = min(closing[opening] + 1, end)
        yield Item(opening, at, weight, text[at - 1] == ")" and at - opening > 1)


def _inside(text: str, group: Item, colons: dict[int, int]) -> tuple[int, int, float]:
    begin, end = group.begin + 1, group.end - 1
    colon = colons[end]
    if colon > begin:
        try:
            return begin, colon, float(text[colon + 1 : end])
        except ValueError:
            pass
    return begin, end, group.weight * BRACKET_WEIGHT


def bounded(weight: float) -> float:
    """A weight as the encoders are given it: within -LIMIT and LIMIT, and 1 for what is not a number."""
    return 1.0 if math.isnan(weight) else max(-LIMIT, min(LIMIT, weight))


def _restore(text: str) -> str:
    return text.replace(ESCAPED["\\("], "(").replace(ESCAPED["\\)"], ")")


def tidy(spans: Iterable[Span]) -> list[Span]:
    """The spans without empty ones, neighbours of one weight joined, and no two spaces where two of them meet, nor at
    either end: so `(a:1) b` is `a b`."""
    out: list[tuple[list[str], float]] = []
    for span in spans:
        text = span.text
        if not out or out[-1][0][-1].endswith(" "):
            text = text.lstrip(" ")
        if not text:
            continue
        if out and out[-1][1] == span.weight:
            out[-1][0].append(text)
        else:
            out.append(([text], span.weight))
    return trimmed([Span("".join(texts), weight) for texts, weight in out], " ")


def trimmed(spans: Iterable[Span], characters: str) -> list[Span]:
    """The spans without these characters at either end."""
    out = list(spans)
    trim_end(out, characters)
    first = next((at for at, span in enumerate(out) if span.text.lstrip(characters)), 0)
    out = out[first:]
    if out:
        out[0] = Span(out[0].text.lstrip(characters), out[0].weight)
    return out


def trim_end(spans: list[Span], characters: str) -> None:
    """Take these characters from the end, in place."""
    while spans and not spans[-1].text.rstrip(characters):
        spans.pop()
    if spans:
        spans[-1] = Span(spans[-1].text.rstrip(characters), spans[-1].weight)


def divided(spans: Iterable[Span]) -> list[tuple[list[Span], list[Span]]]:
    """The spans between BREAKs, one stretch after another, each with the BREAK that ends it; the last without one."""
    out: list[tuple[list[Span], list[Span]]] = [([], [])]
    for span in spans:
        first, *others = BREAK.split(span.text)
        out[-1][0].append(Span(first, span.weight))
        for other in others:
            out[-1][1].append(Span("BREAK", span.weight))
            out.append(([Span(other, span.weight)], []))
    return out


def parts(text: str) -> list[list[Span]]:
    """A prompt as typed -> the tidy spans between its BREAKs. An empty prompt is one part without spans."""
    tidied = [tidy(spans) for spans, _ in divided(parse(normalise(text)))]
    return [spans for spans in tidied if spans] or [[]]


def render(spans: Iterable[Span]) -> str:
    """Spans -> prompt syntax that `parse` reads as the same spans."""
    return "".join(_rendered(span) for span in spans)


def _rendered(span: Span) -> str:
    text = span.text.replace("(", "\\(").replace(")", "\\)")
    return text if span.weight == 1.0 else f"({text}:{span.weight!r})"


def cut(pieces: list[str], room: int, joined: list[bool] | None = None) -> list[int]:
    """Where to cut a long prompt into windows.

    `pieces` are the texts that the tokens cover, in order; `room` is the number of tokens that a window holds between
    its start and its end; `joined[i]` says that token i belongs to the weighted span of the token before it. Returns
    the end index of each window, the last equal to len(pieces); an empty prompt is one empty window. A cut falls after
    the last punctuation of the second half of a window, else before the last token that begins a word, else at the
    room's end; inside a weighted span only when that is longer than a window. Raises ValueError without any room.
    """
    if room < 1:
        raise ValueError(f"A window with room for {room} tokens holds no prompt.")
    ends: list[int] = []
    begin = 0
    while len(pieces) - begin > room:
        end = _cut_one(pieces, begin, begin + room, joined)
        ends.append(end)
        begin = end
    return [*ends, len(pieces)]


def _cut_one(pieces: list[str], begin: int, limit: int, joined: list[bool] | None) -> int:
    half = begin + (limit - begin + 1) // 2
    free = [end for end in range(limit, begin, -1) if not (joined and joined[end])]
    for end in free:
        if end > half and pieces[end - 1].strip() in BREAKS:
            return end
    for end in free:
        if end > half and _begins_word(pieces, end):
            return end
    if not joined or not joined[limit]:
        return limit
    if free:
        # The whole span goes to the next window, if it fits in one.
        longest = free[0] + limit - begin
        if longest >= len(pieces) or not all(joined[limit : longest + 1]):
            return free[0]
    return _cut_one(pieces, begin, limit, None)


def _begins_word(pieces: list[str], at: int) -> bool:
    return pieces[at][:1].isspace() or not _latin(pieces[at][:1]) or not _latin(pieces[at - 1][-1:])


def _latin(c: str) -> bool:
    return c.isalnum() and ord(c) < 0x2E80  # below the CJK blocks, where a word is written without spaces
