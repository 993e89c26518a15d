"""Cleaning: which rows are kept as pairs, in file order, and why the others were rejected."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from zhclip.prompt import normalise

from ..base.recipe import CorpusSettings
from .clean import english_fault, pair_fault
from .lines import CorpusError, Row
from .near import NearIndex

DEFAULTS = CorpusSettings()
Length = Callable[[str], int]  # positions of a text, start and end included
# Rejected rows stay in memory: give up once they exceed REJECTS_PER_PAIR * (pairs + FIRST_PAIRS).
REJECTS_PER_PAIR, FIRST_PAIRS = 100, 10_000


@dataclass(frozen=True)
class Pair:
    """A clean pair: normalised Chinese, English as its teacher reads it."""

    zh: str
    en: str


@dataclass(frozen=True)
class Cleaned:
    """Clean pairs in file order, and rejected rows with the reason as their fault. `twins`: how many of the pairs are
    simplified copies of the pair before them."""

    pairs: list[Pair]
    rejects: list[Row]
    twins: int = 0

    def counts(self) -> dict[str, int]:
        """Rejected rows by reason."""
        return dict(sorted(Counter(row.fault for row in self.rejects).items()))

    def at_least(self, count: int, where: str, kind: str = "pairs") -> Cleaned:
        """Itself. Raises CorpusError if there are fewer pairs."""
        if len(self.pairs) < count:
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
    """Keep the rows that can be trained on.

    taken: pairs of another split, which must not occur here again. Without `zh_length` the captions are English alone
    and the pairs' Chinese side is empty. Raises CorpusError if hardly any row is usable.
    """
    seen = _Seen(taken, settings.near)
    simplified = _simplifier() if settings.script != "keep" else str
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
        fault = (
            row.fault
            or (_pair_fault(row, zh, en, folded, settings) if zh_length else _english_fault(row, en, settings))
            or seen.exact(zh, english)
            or ("Chinese over the window" if zh_length and zh_length(zh) > window else "")
            or ("English over the window" if en_length(en) > window else "")
            or seen.near(english)
        )
        if fault:
            rejects.append(replace(row, fault=fault))
            if len(rejects) > REJECTS_PER_PAIR * (len(pairs) + FIRST_PAIRS):
                counts = f"{len(pairs)} usable pairs, {len(rejects)} rejected rows: {Cleaned(pairs, rejects).counts()}"
                raise CorpusError(f"{row.source or 'this'} is no corpus, so far {counts}")
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


def _simplifier() -> Callable[[str], str]:
    from opencc import OpenCC

    return OpenCC("t2s").convert


class _Seen:
    """Texts of the pairs so far, and of the other split's."""

    def __init__(self, taken: Sequence[Pair], near: float | None) -> None:
        self.zh: set[str] = set()
        self.en: set[str] = set()
        self.index = NearIndex(near) if near is not None else None
        self.bands: list[int] = []
        self.dev_count = len(taken)
        for pair in taken:
            english = key(pair.en)
            self.near(english)
            self.add(pair.zh, english)
        self.dev_zh, self.dev_en = frozenset(self.zh), frozenset(self.en)

    def exact(self, zh: str, english: str) -> str:
        if zh in self.dev_zh or english in self.dev_en:
            return "also in dev"
        return "duplicate" if zh in self.zh or english in self.en else ""

    def near(self, english: str) -> str:
        """Fault of a near duplicate. Call it right before `add`, which stores the bands computed here."""
        if self.index is None:
            return ""
        number, self.bands = self.index.find(english)
        if number is None:
            return ""
        return "near a dev caption" if number < self.dev_count else "near duplicate"

    def add(self, zh: str, english: str) -> None:
        if zh:
            self.zh.add(zh)
        self.en.add(english)
        if self.index is not None:
            self.index.add(english, self.bands)


def key(en: str) -> str:
    """Normalised lower-case text: equal keys are equal English captions."""
    return fold(" ".join(en.split())).lower()


def share(en: str, purpose: str) -> float:
    """Hash of an English caption to [0, 1), independent for each purpose of at most 16 characters."""
    digest = hashlib.blake2b(key(en).encode("utf-8", "replace"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def fold(en: str) -> str:
    """`normalise` of a text with single spaces; printable ASCII, which most captions are, is normalised already."""
    return en if en.isascii() and en.isprintable() else normalise(en)


def has_chinese(text: str) -> bool:
    """Whether any character is a Han ideograph."""
    return any(unicodedata.name(c, "").startswith("CJK ") for c in text)


def _pair_fault(row: Row, zh: str, en: str, folded: str, settings: CorpusSettings) -> str:
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
