"""From a prompt's text to weighted spans, and to the windows that they fit in. Pure Python.

The syntax is ComfyUI's: `(red)` weighs 1.1 times what stands around it, `(red:1.3)` weighs 1.3 wherever it stands,
`\\(` and `\\)` are characters, square brackets are text. `BREAK`, as in other front ends, starts a new window.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

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
BRACKET_WEIGHT = 1.1
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
    folded = "".join(_fold(c) for c in unicodedata.normalize("NFC", text)).translate(PUNCTUATION)
    visible = "".join(c for c in folded if c.isspace() or unicodedata.category(c) not in HIDDEN)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _fold(c: str) -> str:
    variant = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>"))
    if variant or unicodedata.category(c)[0] in "PZ":
        return unicodedata.normalize("NFKC", c)
    return c


def parse(text: str) -> list[Span]:
    """Normalised text -> flat spans, brackets resolved as ComfyUI resolves them, odd ones too.

    An item that begins with a bracket and ends with one is a group; what follows its last colon is its weight when
    Python reads that as a number, else the group's weight is 1.1 times its surroundings'. A bracket without a partner
    is text. A stack stands for recursion, so that no depth of brackets is too deep.
    """
    for typed, kept in ESCAPED.items():
        text = text.replace(typed, kept)
    out: list[Span] = []
    todo = [Span(text, 1.0)]
    while todo:
        part = todo.pop()
        inner: list[Span] = []
        for item in _items(part.text):
            if len(item) > 1 and item[0] == "(" and item[-1] == ")":
                inner.append(_group(item[1:-1], part.weight))
            elif inner:
                inner.append(Span(item, part.weight))
            else:
                out.append(Span(item, part.weight))
        todo += reversed(inner)
    return [Span(_restore(span.text), span.weight) for span in out]


def _items(text: str) -> Iterable[str]:
    """Top-level groups and the text between them. A closing bracket too many puts the level below 0, where brackets
    open nothing until it is level again: ComfyUI's habit, which prompts that people share rely on unknowingly."""
    begin = level = 0
    for at, c in enumerate(text):
        if c == "(":
            if level == 0 and at > begin:
                yield text[begin:at]
                begin = at
            level += 1
        elif c == ")":
            level -= 1
            if level == 0:
                yield text[begin : at + 1]
                begin = at + 1
    if begin < len(text):
        yield text[begin:]


def _group(text: str, weight: float) -> Span:
    colon = text.rfind(":")
    if colon > 0:
        try:
            return Span(text[:colon], float(text[colon + 1 :]))
        except ValueError:
            pass
    return Span(text, weight * BRACKET_WEIGHT)


def bounded(weight: float) -> float:
    """A weight as the encoders are given it: within -LIMIT and LIMIT, and 1 for what is not a number."""
    return 1.0 if math.isnan(weight) else max(-LIMIT, min(LIMIT, weight))


def _restore(text: str) -> str:
    return text.replace(ESCAPED["\\("], "(").replace(ESCAPED["\\)"], ")")


def tidy(spans: Iterable[Span]) -> list[Span]:
    """The spans without empty ones, neighbours of one weight joined, and no two spaces where two of them meet, nor at
    either end: so `(a:1) b` is `a b`."""
    out: list[Span] = []
    for span in spans:
        text = span.text
        if not out or out[-1].text.endswith(" "):
            text = text.lstrip(" ")
        if not text:
            continue
        if out and out[-1].weight == span.weight:
            text = out.pop().text + text
        out.append(Span(text, span.weight))
    return trimmed(out, " ")


def trimmed(spans: Iterable[Span], characters: str) -> list[Span]:
    """The spans without these characters at either end."""
    out = list(spans)
    while out and not out[-1].text.rstrip(characters):
        out.pop()
    while out and not out[0].text.lstrip(characters):
        del out[0]
    if out:
        out[-1] = Span(out[-1].text.rstrip(characters), out[-1].weight)
        out[0] = Span(out[0].text.lstrip(characters), out[0].weight)
    return out


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
    room's end; inside a weighted span only when that is longer than a window.
    """
    joined = joined or [False] * len(pieces)
    ends: list[int] = []
    begin = 0
    while len(pieces) - begin > room:
        end = _cut_one(pieces, begin, begin + room, joined)
        ends.append(end)
        begin = end
    return [*ends, len(pieces)]


def _cut_one(pieces: list[str], begin: int, limit: int, joined: list[bool]) -> int:
    half = begin + (limit - begin + 1) // 2
    free = [end for end in range(limit, begin, -1) if not joined[end]]
    for end in free:
        if end > half and pieces[end - 1].strip() in BREAKS:
            return end
    for end in free:
        if end > half and _begins_word(pieces, end):
            return end
    if not joined[limit]:
        return limit
    after = next((end for end in range(limit, len(pieces)) if not joined[end]), len(pieces))
    if free and after - free[0] <= limit - begin:
        return free[0]  # the whole span goes to the next window
    return _cut_one(pieces, begin, limit, [False] * len(pieces))


def _begins_word(pieces: list[str], at: int) -> bool:
    return pieces[at][:1].isspace() or not _latin(pieces[at][:1]) or not _latin(pieces[at - 1][-1:])


def _latin(c: str) -> bool:
    return c.isalnum() and ord(c) < 0x2E80  # below the CJK blocks, where a word is written without spaces
