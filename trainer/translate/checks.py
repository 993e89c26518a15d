"""Checks of one caption and its translation: copies, loops, wrong length, other numbers."""

from __future__ import annotations

import re
import unicodedata

from zhclip.prompt import normalise

from ..corpus.clean import HAN

LOOP = re.compile(r"([^\W\d]|\D{2,12}?)\1{3,}")
SLACK = 8  # characters beyond the ratio that a short caption's translation may have: a name can be long


def find_fault(en: str, zh: str) -> str:
    """The reason to reject a translation, or ""."""
    words = set(re.findall(r"\b[a-z]{4,}\b", en))
    copied = words & set(re.findall(r"[a-z]{4,}", zh))
    en_length, zh_length = len(en.split()), len(re.findall(r"[A-Za-z0-9.]+|[^\W_]", zh))
    numbers = [re.findall(r"\d+", unicodedata.normalize("NFKC", text).replace(",", "")) for text in (en, zh)]
    if not zh.strip():
        return "empty output"
    if normalise(en).lower() == normalise(zh).lower() or len(copied) > len(words) / 2:
        return "copy of the caption"
    if not HAN.search(zh):
        return "no Chinese"
    if has_loop(zh) and not has_loop(en):
        return "repetition loop"
    if not 0.5 * en_length - SLACK / 4 <= zh_length <= 4 * en_length + SLACK:
        return "length ratio"
    return "other numbers" if all(numbers) and not set(numbers[0]) & set(numbers[1]) else ""


def has_loop(text: str) -> bool:
    """Whether a text repeats something four times in a row (digits and single marks aside), or is half repetition."""
    fours = [text[i : i + 4] for i in range(len(text) - 3)]
    return bool(LOOP.search(text)) or (len(fours) >= 16 and len(set(fours)) < len(fours) / 2)
