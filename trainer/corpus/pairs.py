"""Keeping pairs: which rows stay, in file order, and why the others went."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opencc import OpenCC

from zhclip.prompt import normalise

from ..base import CorpusSettings
from .clean import english_fault, pair_fault
from .lines import Row
from .near import NearIndex

Length = Callable[[str], int]


@dataclass(frozen=True)
class Pair:
    """A clean pair: normalised Chinese, English as its teacher will see it."""

    zh: str
    en: str


@dataclass(frozen=True)
class Cleaned:
    """Clean pairs in file order, and the rejected rows with their reasons. `twins` of the pairs are the same captions
    in simplified characters, and the last `composed` of them are made from the others in prompt style."""

    pairs: list[Pair]
    rejects: list[tuple[Row, str]]
    twins: int = 0
    composed: int = 0

    def counts(self) -> dict[str, int]:
        """Rejected rows by reason."""
        return dict(sorted(Counter(reason for _, reason in self.rejects).items()))


def clean(
    rows: Iterable[Row],
    zh_length: Length,
    en_length: Length,
    window: int,
    taken: Iterable[Pair] = (),
    limit: int | None = None,
    min_han: float = CorpusSettings.min_han,
    min_latin: float = CorpusSettings.min_latin,
    near: float | None = CorpusSettings.near,
    script: str = CorpusSettings.script,
) -> Cleaned:
    """Keep the rows that can be trained on. `taken` are pairs of another split that must not occur here again.

    The lengths count positions, start and end included. Reasons are fixed words, for counting.
    """
    seen = _Seen(taken, near)
    simplified = OpenCC("t2s").convert if script != "keep" else str
    pairs: list[Pair] = []
    rejects: list[tuple[Row, str]] = []
    twins = 0
    for row in rows:
        if limit is not None and len(pairs) >= limit:
            break
        zh, en = normalise(simplified(row.zh) if script == "simplify" else row.zh), " ".join(row.en.split())
        folded = fold(en)
        english = folded.lower()
        reason = (
            row.fault
            or _fault(zh, en, folded)
            or pair_fault(row.zh, row.en, min_han, min_latin)
            or seen.again(zh, english)
            or _overlong(zh, en, zh_length, en_length, window)
            or seen.near(english)
        )
        if reason:
            rejects.append((row, reason))
            continue
        seen.add(zh, english)
        pairs.append(Pair(zh, en))
        twin = normalise(simplified(row.zh)) if script == "both" else zh
        if twin not in seen.zh and zh_length(twin) <= window:
            seen.zh.add(twin)
            pairs.append(Pair(twin, en))
            twins += 1
    return Cleaned(pairs, rejects, twins)


def clean_english(
    rows: Iterable[Row],
    en_length: Length,
    window: int,
    min_latin: float = CorpusSettings.min_latin,
    near: float | None = CorpusSettings.near,
) -> Cleaned:
    """The same for captions without a translation; the pairs' Chinese side is empty."""
    seen = _Seen((), near)
    pairs: list[Pair] = []
    rejects: list[tuple[Row, str]] = []
    for row in rows:
        en = " ".join(row.en.split())
        english = key(en)
        reason = row.fault or ("" if en else "empty") or ("wrong encoding" if "\ufffd" in en else "")
        reason = reason or english_fault(row.en, min_latin) or seen.again("", english)
        reason = reason or ("English over the window" if en_length(en) > window else "") or seen.near(english)
        if reason:
            rejects.append((row, reason))
            continue
        seen.add("", english)
        pairs.append(Pair("", en))
    return Cleaned(pairs, rejects)


class _Seen:
    """The texts kept so far, and those of another split."""

    def __init__(self, taken: Iterable[Pair], near: float | None) -> None:
        self.zh: set[str] = set()
        self.en: set[str] = set()
        self.index = NearIndex(near) if near is not None else None
        self.bands: list[int] = []
        self.held = 0
        for pair in taken:
            english = key(pair.en)
            self.near(english)
            self.add(pair.zh, english)
        self.held = len(self.index.captions) if self.index else 0
        self.held_zh, self.held_en = frozenset(self.zh), frozenset(self.en)

    def again(self, zh: str, english: str) -> str:
        if zh in self.held_zh or english in self.held_en:
            return "also in dev"
        return "duplicate" if zh in self.zh or english in self.en else ""

    def near(self, english: str) -> str:
        """Called right before `add`, which keeps the bands that this computed."""
        if self.index is None:
            return ""
        found, self.bands = self.index.find(english)
        if found is None:
            return ""
        return "near a dev caption" if found < self.held else "near duplicate"

    def add(self, zh: str, english: str) -> None:
        if zh:
            self.zh.add(zh)
        self.en.add(english)
        if self.index is not None:
            self.index.add(english, self.bands)


def key(en: str) -> str:
    """What makes two English captions the same: their normalised, lower-cased text."""
    return fold(" ".join(en.split())).lower()


def share(en: str, purpose: str) -> float:
    """A number in [0, 1) that an English caption always has, another one for each purpose."""
    digest = hashlib.blake2b(key(en).encode("utf-8", "replace"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def fold(en: str) -> str:
    """`normalise`, given single spaces. Printable ASCII is normalised already, and most captions are nothing else."""
    return en if en.isascii() and en.isprintable() else normalise(en)


def has_chinese(text: str) -> bool:
    """Whether any character is a Han ideograph."""
    return any(unicodedata.name(c, "").startswith("CJK ") for c in text)


def _fault(zh: str, en: str, folded: str) -> str:
    if not zh or not en:
        return "empty"
    if "\ufffd" in zh or "\ufffd" in en:
        return "wrong encoding"
    if zh == folded:
        return "identical sides"
    return "" if has_chinese(zh) else "no Chinese"


def _overlong(zh: str, en: str, zh_length: Length, en_length: Length, window: int) -> str:
    if zh_length(zh) > window:
        return "Chinese over the window"
    return "English over the window" if en_length(en) > window else ""
