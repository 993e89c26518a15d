"""Checks of one caption and its translation: loops, copies, wrong length, lost numbers, poor back-translation."""

from __future__ import annotations

import re
import unicodedata

from zhclip.prompt import normalise

from ..corpus.clean import HAN

DIGITS = {c: i for i, c in enumerate("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d")}
DIGITS |= {"\u3007": 0, "\u4e24": 2, "\u53cc": 2, "\u4fe9": 2}  # another zero, and three words for two
UNITS = {"\u5341": 10, "\u767e": 100, "\u5343": 1_000}
MYRIADS = {"\u4e07": 10_000, "\u4ebf": 100_000_000}
CHINESE_NUMBER = re.compile(rf"(?:\d+(?:\.\d+)?|[{''.join([*DIGITS, *UNITS, *MYRIADS])}])+")
ENGLISH_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?:\s*(hundred|thousand|million|billion)s?\b)?('?s\b|\s?p)?", re.I)
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
LOOP = re.compile(r"([^\W\d]|\D{2,12}?)\1{3,}")
HALF_PAST = "\u534a"
SLACK = 8  # characters beyond the ratio that a short caption's translation may have: a name can be long


def fault(en: str, zh: str, min_ratio: float, max_ratio: float) -> str:
    """The reason to reject a translation, or "". The ratio is Chinese characters to English words."""
    if not zh.strip():
        return "empty output"
    if is_copy(en, zh):
        return "copy of the caption"
    if not HAN.search(zh):
        return "no Chinese"
    if has_loop(zh) and not has_loop(en):
        return "repetition loop"
    if not length_fits(en, zh, min_ratio, max_ratio):
        return "length ratio"
    return "number lost" if lost_numbers(en, zh) else ""


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


def length_fits(en: str, zh: str, min_ratio: float, max_ratio: float) -> bool:
    """Whether Chinese characters, a Latin word or a number counted as one, to English words are within the ratios."""
    words, characters = len(en.split()), len(re.findall(r"[A-Za-z0-9.]+|[^\W_]", zh))
    return min_ratio * words - SLACK / 4 <= characters <= max_ratio * words + SLACK


def lost_numbers(en: str, zh: str) -> list[str]:
    """Numbers written in digits in the caption that the translation has neither in digits nor in Chinese numerals."""
    en, zh = (re.sub(r"(?<=\d),(?=\d{3})", "", unicodedata.normalize("NFKC", text)) for text in (en, zh))
    written = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", zh)}
    written |= {chinese_value(match.group()) for match in CHINESE_NUMBER.finditer(zh)}
    written |= {30.0} if HALF_PAST in zh else set()
    numbers = ENGLISH_NUMBER.finditer(re.sub(r"(?<=\d):00\b", "", en))
    return [match[1] for match in numbers if not english_values(match) & written]


def english_values(match: re.Match[str]) -> set[float]:
    """The values that a translation may give for an English number: of 3 million, the 1960s, the 1800s or 7 pm."""
    value = float(match[1])
    values = {value, value * SCALES.get((match[2] or "").lower(), 1)}
    if (match[3] or "").endswith("s"):
        values |= {value % 100, value // 100 + 1}
    elif match[3] and value < 12:
        values.add(value + 12)
    return values


def chinese_value(numeral: str) -> float:
    """The value of a run of digits and Chinese numerals: 205, 3.5 times 10,000, or a year digit by digit."""
    if not set(numeral) & {*UNITS, *MYRIADS}:
        return float("".join(str(DIGITS.get(c, c)) for c in numeral))
    total, section, digit = 0.0, 0.0, None
    for part in re.findall(r"\d+(?:\.\d+)?|\D", numeral):
        if part in UNITS:
            section, digit = section + (1.0 if digit is None else digit) * UNITS[part], None
        elif part in MYRIADS:
            total, section, digit = total + (section + (digit or 0.0) or 1.0) * MYRIADS[part], 0.0, None
        else:
            digit = float(DIGITS.get(part, part))
    return total + section + (digit or 0.0)


def back_score(en: str, back: str) -> float:
    """chrF (0 to 100) of a back-translation against its caption, both in lower case."""
    from sacrebleu.metrics import CHRF

    return round(CHRF().sentence_score(back.lower(), [en.lower()]).score, 2)
