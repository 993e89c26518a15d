"""From a prompt's text to the text that the encoder reads, and to the windows that it fits in. Pure Python."""

from __future__ import annotations

import unicodedata

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


def cut(pieces: list[str], room: int) -> list[int]:
    """Where to cut a long prompt into windows.

    `pieces` are the texts that the tokens cover, in order; `room` is the number of tokens that a window holds between
    its start and its end. Returns the end index of each window, the last equal to len(pieces); an empty prompt is one
    empty window. A cut falls after the last punctuation of the second half of a window, else before the last token that
    begins a word, else at the room's end.
    """
    ends: list[int] = []
    begin = 0
    while len(pieces) - begin > room:
        end = _cut_one(pieces, begin, begin + room)
        ends.append(end)
        begin = end
    return [*ends, len(pieces)]


def _cut_one(pieces: list[str], begin: int, limit: int) -> int:
    half = begin + (limit - begin + 1) // 2
    for end in range(limit, half, -1):
        if pieces[end - 1].strip() in BREAKS:
            return end
    for end in range(limit, half, -1):
        if pieces[end][:1].isspace() or not _latin(pieces[end][:1]) or not _latin(pieces[end - 1][-1:]):
            return end
    return limit


def _latin(c: str) -> bool:
    return c.isalnum() and ord(c) < 0x2E80  # below the CJK blocks, where a word is written without spaces
