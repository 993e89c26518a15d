"""Captions in which one word is weighted: words.json's words, found in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainer.corpus import Row
from zhclip.emphasis import runs
from zhclip.prompt import Span, normalise, render
from zhclip.tokens import PromptTokenizer, Window


@dataclass(frozen=True)
class Word:
    """A word of both languages: the pattern of its English forms, and its Chinese forms, the longest first."""

    name: str
    english: re.Pattern[str]
    chinese: list[str]


@dataclass(frozen=True)
class Place:
    """Where a word, by its index, stands in a pair of captions, as [begin, end) of characters."""

    word: int
    chinese: tuple[int, int]
    english: tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A caption with the weight 2 on one of its words, in both languages. `others` are the other words that it has."""

    prompt: int
    word: int
    others: list[int]
    chinese: Window
    english: Window
    prompts: tuple[str, str]  # the Chinese one without brackets, and with the weight 1 written out
    english_without: str


@cache
def words() -> list[Word]:
    """The words of words.json."""
    content = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
    return [
        Word(name, re.compile(rf"\b(?:{'|'.join(forms['en'])})\b", re.IGNORECASE), forms["zh"])
        for name, forms in content.items()
    ]


def present(captions: Sequence[str]) -> list[list[bool]]:
    """Which of all words each English caption has."""
    return [[word.english.search(caption) is not None for word in words()] for caption in captions]


def places(zh: str, en: str, known: Sequence[Word]) -> list[Place]:
    """The known words that both captions have exactly once, and that share no character in the Chinese one."""
    found = []
    for at, word in enumerate(known):
        form = next((form for form in word.chinese if form in zh), None)
        forms = list(word.english.finditer(en))
        if form and len(forms) == 1 and zh.count(min(word.chinese, key=len)) == 1:
            begin = zh.index(form)
            found.append(Place(at, (begin, begin + len(form)), forms[0].span()))
    return [a for a in found if not any(b is not a and _overlap(a.chinese, b.chinese) for b in found)]


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def weighted(text: str, place: tuple[int, int], weight: float) -> str:
    """Normalised plain text -> the prompt with a weight on one stretch of it, brackets and all where it is 1."""
    begin, end = place
    before, inside, after = (render([Span(part, 1.0)]) for part in (text[:begin], text[begin:end], text[end:]))
    return f"{before}({inside}:{weight}){after}"


def cases(
    pairs: Sequence[Row], chinese: PromptTokenizer, english: PromptTokenizer, known: Sequence[Word], limit: int
) -> tuple[list[Case], int]:
    """The first `limit` pairs that fit a window and have two known words or more, each of these words weighted in turn.

    Returns the cases, and how many more there were in which the word shares its only Chinese token with other
    characters, which leaves nothing of its own to weigh.
    """
    out: list[Case] = []
    prompts = lost = 0
    for pair in pairs:
        zh, en = normalise(pair.zh), normalise(pair.en)
        if chinese.length(zh) > chinese.window or english.length(en) > english.window:
            continue
        found = places(zh, en, known)
        if len(found) < 2:
            continue
        for place in found:
            (zh_window,) = chinese.weighted_windows(weighted(zh, place.chinese, 2.0))
            (en_window,) = english.weighted_windows(weighted(en, place.english, 2.0))
            if not runs(zh_window.weights):
                lost += 1
                continue
            others = [other.word for other in found if other is not place]
            without = en[: place.english[0]] + en[place.english[1] :]
            same = (render([Span(zh, 1.0)]), weighted(zh, place.chinese, 1.0))
            out.append(Case(prompts, place.word, others, zh_window, en_window, same, without))
        prompts += 1
        if prompts == limit:
            break
    return out, lost
