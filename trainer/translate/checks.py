"""What a translation model gets wrong, as plain functions over one caption and its translation.

A fault keeps a pair out of the corpus and is counted by its words; a flag is only counted. The checks look for what
translation models are known to do: loops, copies, stops half way, and numbers that change.
"""

from __future__ import annotations

import re
import unicodedata

from zhclip.prompt import normalise

from ..corpus.pairs import has_chinese

DIGITS = {c: i for i, c in enumerate("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d")}
DIGITS |= {"\u3007": 0, "\u4e24": 2, "\u53cc": 2, "\u4fe9": 2}  # the other zero, and three words for two
UNITS = {"\u5341": 10, "\u767e": 100, "\u5343": 1_000}
MYRIAD, HUNDRED_MILLION = "\u4e07", "\u4ebf"
CHINESE_NUMBER = re.compile(rf"(?:\d+(?:\.\d+)?|[{''.join([*DIGITS, *UNITS, MYRIAD, HUNDRED_MILLION])}])+")
ENGLISH_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?:\s*(hundred|thousand|million|billion)s?\b)?", re.I)
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
LOOP = re.compile(r"([^\W\d]|\D{2,12}?)\1{3,}")
NAME = re.compile(r"\b[A-Z][A-Za-z0-9]*[A-Za-z0-9]\b")
HALF = "\u534a"  # half past
COPIED = 0.5  # share of a caption's longer words found in its translation, from which on it counts as a copy
SLACK = 8  # characters that the length may be off beside the ratio: one word can be a long name


def fault(en: str, zh: str, min_ratio: float, max_ratio: float) -> str:
    """Why this translation cannot be used, or nothing.

    The ratio is that of Chinese characters (a Latin word or number counts as one) to English words.
    """
    if not zh.strip():
        return "empty output"
    if is_copy(en, zh):
        return "copy of the caption"
    if not has_chinese(zh):
        return "no Chinese"
    if loops(zh) and not loops(en):
        return "repetition loop"
    if not length_fits(en, zh, min_ratio, max_ratio):
        return "length ratio"
    return "number lost" if lost_numbers(en, zh) else ""


def flags(en: str, zh: str) -> list[str]:
    """What is worth counting and no reason to reject."""
    return ["Latin name not kept"] if lost_names(en, zh) else []


def is_copy(en: str, zh: str) -> bool:
    """The caption itself, or one of whose longer lower-case words more than half stand in the translation."""
    if normalise(en).lower() == normalise(zh).lower():
        return True
    words = set(re.findall(r"\b[a-z]{4,}\b", en))
    return bool(words) and len(words & set(re.findall(r"[a-z]{4,}", zh))) > COPIED * len(words)


def loops(text: str) -> bool:
    """Whether anything but digits and single marks is said four times on end, or half of a long text is said twice."""
    if LOOP.search(text):
        return True
    fours = [text[i : i + 4] for i in range(len(text) - 3)]
    return len(fours) >= 16 and len(set(fours)) < len(fours) / 2


def length_fits(en: str, zh: str, min_ratio: float, max_ratio: float) -> bool:
    """Whether the translation is about as long as the caption asks for."""
    words = len(en.split())
    characters = len(re.findall(r"[A-Za-z0-9.]+|[^\W_]", zh))
    return min_ratio * words - SLACK / 4 <= characters <= max_ratio * words + SLACK


def lost_numbers(en: str, zh: str) -> list[str]:
    """Numbers in digits of the caption that the translation has neither in digits nor in Chinese numerals."""
    said = chinese_numbers(zh) | ({30.0} if HALF in zh else set())
    text = re.sub(r"(?<=\d),(?=\d{3})|(?<=\d):00\b", "", unicodedata.normalize("NFKC", en))
    return [match.group() for match in ENGLISH_NUMBER.finditer(text) if not readings(match, text) & said]


def readings(match: re.Match[str], text: str) -> set[float]:
    """The values that a translation may give for an English number: 3 million, the 1960s, the 1800s, 7 pm."""
    value = float(match[1])
    values = {value, value * SCALES.get((match[2] or "").lower(), 1)}
    after = text[match.end() : match.end() + 3].lower()
    if re.match(r"'?s\b", after):
        values |= {value % 100, value // 100 + 1}
    if re.match(r"\s?p", after) and value < 12:
        values.add(value + 12)
    return values


def chinese_numbers(zh: str) -> set[float]:
    """Values of all numbers in a Chinese text, in digits (half or full width), numerals, or both."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", unicodedata.normalize("NFKC", zh))
    values = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)}
    return values | {chinese_value(match.group()) for match in CHINESE_NUMBER.finditer(text)}


def chinese_value(numeral: str) -> float:
    """Value of a run of digits and numerals: two hundred and five, 3.5 myriads, or a year digit by digit."""
    if not set(numeral) & {*UNITS, MYRIAD, HUNDRED_MILLION}:
        return float("".join(str(DIGITS.get(c, c)) for c in numeral))
    total, section, digit = 0.0, 0.0, None
    for part in re.findall(r"\d+(?:\.\d+)?|\D", numeral):
        if part == MYRIAD:
            total += (section + (digit or 0.0) or 1.0) * 10_000
            section, digit = 0.0, None
        elif part == HUNDRED_MILLION:
            total = (total + section + (digit or 0.0) or 1.0) * 100_000_000
            section, digit = 0.0, None
        elif part in UNITS:
            section += (1.0 if digit is None else digit) * UNITS[part]
            digit = None
        else:
            digit = float(DIGITS[part]) if part in DIGITS else float(part)
    return total + section + (digit or 0.0)


def lost_names(en: str, zh: str) -> list[str]:
    """Capitalised words behind the caption's first word that the translation has not in Latin letters."""
    names = [match.group() for match in NAME.finditer(en) if match.start() > 0]
    return [name for name in names if name.lower() not in zh.lower()]
