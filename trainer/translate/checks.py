"""Checks of one caption and its translation: loops, copies, wrong length, other numbers, poor back-translation."""

from __future__ import annotations

import re
import unicodedata

from zhclip.prompt import normalise

from ..corpus.clean import HAN

LOOP = re.compile(r"([^\W\d]|\D{2,12}?)\1{3,}")
SLACK = 8  # characters beyond the ratio that a short caption's translation may have: a name can be long


def fault(en: str, zh: str) -> str:
    """The reason to reject a translation, or ""."""
    if not zh.strip():
        return "empty output"
    if is_copy(en, zh):
        return "copy of the caption"
    if not HAN.search(zh):
        return "no Chinese"
    if has_loop(zh) and not has_loop(en):
        return "repetition loop"
    if not length_fits(en, zh):
        return "length ratio"
    return "" if numbers_agree(en, zh) else "other numbers"


def is_copy(en: str, zh: str) -> bool:
    """Whether the translation is the caption, or has more than half of its lower-case words of four letters or more."""
    if normalise(en).lower() == normalise(zh).lower():
        return True
    words = set(re.findall(r"\b[a-z]{4,}\b", en))
    return len(words & set(re.findall(r"[a-z]{4,}", zh))) > len(words) / 2


def has_loop(text: str) -> bool:
    """Whether a text repeats something four times in a row (digits and single marks aside), or is half repetition."""
    fours = [text[i : i + 4] for i in range(len(text) - 3)]
    return bool(LOOP.search(text)) or (len(fours) >= 16 and len(set(fours)) < len(fours) / 2)


def length_fits(en: str, zh: str) -> bool:
    """Whether there are 0.5 to 4 Chinese characters, a Latin word or a number counted as one, to an English word."""
    words, characters = len(en.split()), len(re.findall(r"[A-Za-z0-9.]+|[^\W_]", zh))
    return 0.5 * words - SLACK / 4 <= characters <= 4 * words + SLACK


def numbers_agree(en: str, zh: str) -> bool:
    """Whether two texts have a number in digits in common; True where one of them has none in digits."""
    numbers = [re.findall(r"\d+", unicodedata.normalize("NFKC", text).replace(",", "")) for text in (en, zh)]
    return not all(numbers) or bool(set(numbers[0]) & set(numbers[1]))


def back_score(en: str, back: str) -> float:
    """chrF (0 to 100) of a back-translation against its caption, both in lower case."""
    from sacrebleu.metrics import CHRF

    return round(CHRF().sentence_score(back.lower(), [en.lower()]).score, 2)
