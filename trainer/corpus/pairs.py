"""Keeping pairs: which rows stay, in file order, and why the others went."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from opencc import OpenCC

from zhclip.prompt import normalise

from ..base.recipe import CorpusSettings
from .clean import english_fault, pair_fault
from .lines import CorpusError, Row
from .near import NearIndex

DEFAULTS = CorpusSettings()
Length = Callable[[str], int]
# Rejected rows stay in memory. So many to a usable pair, and none the first so many times so many, are no corpus.
HOPELESS, ROWS = 100, 10_000


@dataclass(frozen=True)
class Pair:
    """A clean pair: normalised Chinese, English as its teacher will see it."""

    zh: str
    en: str


@dataclass(frozen=True)
class Cleaned:
    """Clean pairs in file order, and the rejected rows, whose fault is the reason. `twins` of the pairs are the same
    captions in simplified characters."""

    pairs: list[Pair]
    rejects: list[Row]
    twins: int = 0

    def counts(self) -> dict[str, int]:
        """Rejected rows by reason."""
        return dict(sorted(Counter(row.fault for row in self.rejects).items()))

    def at_least(self, least: int, where: str, kind: str = "pairs") -> Cleaned:
        """These. Raises CorpusError when there are fewer pairs."""
        if len(self.pairs) < least:
            raise CorpusError(f"{where}: {len(self.pairs)} usable {kind}; rejected: {self.counts()}")
        return self


def clean(
    rows: Iterable[Row],
    zh_length: Length | None,
    en_length: Length,
    window: int,
    settings: CorpusSettings = DEFAULTS,
    taken: Sequence[Pair] = (),
) -> Cleaned:
    """Keep the rows that can be trained on. `taken` are pairs of another split that must not occur here again.

    The lengths count positions, start and end included. Without `zh_length` the captions are English alone, and the
    pairs' Chinese side is empty. Reasons are fixed words, for counting.
    """
    seen = _Seen(taken, settings.near)
    simplified = OpenCC("t2s").convert if settings.script != "keep" else str
    pairs: list[Pair] = []
    rejects: list[Row] = []
    twins = 0
    for row in rows:
        if settings.limit is not None and len(pairs) >= settings.limit:
            break
        en = " ".join(row.en.split())
        zh = normalise(simplified(row.zh) if settings.script == "simplify" else row.zh) if zh_length else ""
        folded = fold(en)
        english = folded.lower()
        reason = (
            row.fault
            or (_fault(row, zh, en, folded, settings) if zh_length else _english_fault(row, en, settings))
            or seen.again(zh, english)
            or ("Chinese over the window" if zh_length and zh_length(zh) > window else "")
            or ("English over the window" if en_length(en) > window else "")
            or seen.near(english)
        )
        if reason:
            rejects.append(replace(row, fault=reason))
            if len(rejects) > HOPELESS * (len(pairs) + ROWS):
                counts = Cleaned(pairs, rejects).counts()
                said = f"{len(pairs)} usable pairs and {len(rejects)} other rows so far: {counts}"
                raise CorpusError(f"{row.source or 'this'} is no corpus: {said}")
            continue
        seen.add(zh, english)
        pairs.append(Pair(zh, en))
        if zh_length and settings.script == "both":
            twin = normalise(simplified(row.zh))
            if twin not in seen.zh and zh_length(twin) <= window:
                seen.zh.add(twin)
                pairs.append(Pair(twin, en))
                twins += 1
    return Cleaned(pairs, rejects, twins)


class _Seen:
    """The texts kept so far, and those of another split."""

    def __init__(self, taken: Sequence[Pair], near: float | None) -> None:
        self.zh: set[str] = set()
        self.en: set[str] = set()
        self.index = NearIndex(near) if near is not None else None
        self.bands: list[int] = []
        self.held = len(taken)
        for pair in taken:
            english = key(pair.en)
            self.near(english)
            self.add(pair.zh, english)
        self.held_zh, self.held_en = frozenset(self.zh), frozenset(self.en)

    def again(self, zh: str, english: str) -> str:
        if zh in self.held_zh or english in self.held_en:
            return "also in dev"
        return "duplicate" if zh in self.zh or english in self.en else ""

    def near(self, english: str) -> str:
        """Called right before `add`, which keeps the bands that this computed."""
        if self.index is None:
            return ""
        other, self.bands = self.index.find(english)
        if other is None:
            return ""
        return "near a dev caption" if other < self.held else "near duplicate"

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


def _fault(row: Row, zh: str, en: str, folded: str, settings: CorpusSettings) -> str:
    if not zh or not en:
        return "empty"
    if "\ufffd" in zh or "\ufffd" in en:
        return "wrong encoding"
    if zh == folded:
        return "identical sides"
    return pair_fault(row.zh, row.en, settings.min_han, settings.min_latin) if has_chinese(zh) else "no Chinese"


def _english_fault(row: Row, en: str, settings: CorpusSettings) -> str:
    if not en:
        return "empty"
    return "wrong encoding" if "\ufffd" in en else english_fault(row.en, settings.min_latin)
