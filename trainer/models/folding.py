"""Which characters a student's vocabulary needs folded: those that it lacks, while it has their simplified form."""

from __future__ import annotations

from opencc import OpenCC

from zhclip.tokens import PromptTokenizer

IDEOGRAPHS = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0xF900, 0xFB00), *range(0x20000, 0x33480)]


def folding(tokens: PromptTokenizer) -> dict[str, str]:
    """Traditional characters that are unknown to the tokenizer, each with the simplified one that it knows.

    OpenCC's table says which is which. A traditional character that the vocabulary has stays as typed.
    """
    characters = [chr(code) for code in IDEOGRAPHS]
    # One call, line by line, so that no two of them are read as a word.
    simplified = OpenCC("t2s").convert("\n".join(characters)).split("\n")
    pairs = [(rare, plain) for rare, plain in zip(characters, simplified) if len(plain) == 1 and plain != rare]
    return {rare: plain for rare, plain in pairs if tokens.unknown(rare) and not tokens.unknown(plain)}
