"""A vocabulary, and captions as long as real ones, of random words."""

from __future__ import annotations

import random
from pathlib import Path

VOCABULARY = 21128  # Chinese-CLIP's
FIRST_IDEOGRAPH = 0x4E00
IDEOGRAPHS = 2000
"""So many of them stand in captions."""
WORDS = """
    red cat blue dog house big old car man girl boy white black young water road city park field grass snow beach horse
    bird fish chair wood stone glass book ball hat coat shirt food fruit apple cup light night day sun sky cloud river
    lake boat train bus wall door flower garden walking standing sitting holding looking in on of with by and a
    the two
""".split()  # noqa: SIM905 - a list of 67 quoted words reads worse
"""One token each, of CLIP's and of the random teacher's, whose merges are these words' beginnings and no more."""

# Tokens of a caption, start and end included, on its longer side, by Chinese-CLIP's vocabulary and CLIP's: twenty
# captions evenly spaced among 3AM's 23,604 training pairs, sorted by it. Their mean is 22.6, that of all 22.8.
LENGTHS = (11, 12, 14, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 27, 29, 31, 34, 38, 45)
NUMBER = 6  # digits that end a caption, a token each: all differ, and a large corpus has no longer ones


def pieces(size: int = VOCABULARY) -> list[str]:
    """A WordPiece vocabulary of `size` pieces: printable ASCII alone and inside words, then ideographs."""
    ascii_ = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ascii_, *(f"##{c}" for c in ascii_)]
    return names + [chr(FIRST_IDEOGRAPH + at) for at in range(size - len(names))]


def captions(path: Path, rows: int, first: int = 0) -> str:
    """Write a TSV of different pairs with these lengths; the English side is the shorter one, as it usually is."""
    source = random.Random(first)
    characters = [chr(FIRST_IDEOGRAPH + at) for at in range(IDEOGRAPHS)]
    lines = ["zh\ten"]
    for at in range(first, first + rows):
        length = LENGTHS[at % len(LENGTHS)] - 2
        zh = source.choices(characters, k=length - NUMBER)
        en = source.choices(WORDS, k=max(3, length // 2 - NUMBER))
        number = 10 ** (NUMBER - 1) + at
        lines.append(f"{''.join(zh)}{number}\t{' '.join(en)} {number}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return str(path)
