"""Cleaning: which rows become pairs, in file order, and why the others were rejected."""

from __future__ import annotations

import hashlib
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
    """Clean pairs in file order, and rejected rows with the reason as their fault."""

    pairs: list[Pair]
    rejects: list[Row]

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
    dev: Sequence[Pair] = (),
) -> Cleaned:
    """Clean pairs of the rows. No text occurs twice, nor one of `dev`, the pairs of another split.

    Without `zh_length` the captions are English alone and the pairs' Chinese side is empty. Raises CorpusError if
    hardly any row is usable.
    """
    seen_zh = {pair.zh: "also in dev" for pair in dev}
    seen_en = {key(pair.en): "also in dev" for pair in dev}
    index = None if settings.near is None else NearIndex(settings.near, seen_en)
    pairs: list[Pair] = []
    rejects: list[Row] = []
    for row in rows:
        if settings.limit is not None and len(pairs) >= settings.limit:
            break
        en = " ".join(row.en.split())
        zh = normalise(row.zh) if zh_length else ""
        folded = fold(en)
        english = folded.lower()
        fault = (
            row.fault
            or ("empty" if not en or (zh_length and not zh) else "")
            or ("wrong encoding" if "\ufffd" in zh + en else "")
            or ("identical sides" if zh == folded else "")
            or (pair_fault(row.zh, row.en) if zh_length else english_fault(row.en))
            or seen_zh.get(zh)
            or seen_en.get(english)
            or ("Chinese over the window" if zh_length and zh_length(zh) > window else "")
            or ("English over the window" if en_length(en) > window else "")
            or (index.add(english) if index else "")
        )
        if fault:
            rejects.append(replace(row, fault=fault))
            if len(rejects) > REJECTS_PER_PAIR * (len(pairs) + FIRST_PAIRS):
                counts = f"{len(pairs)} usable pairs, {len(rejects)} rejected rows: {Cleaned(pairs, rejects).counts()}"
                raise CorpusError(f"{row.source or 'this'} is no corpus, so far {counts}")
            continue
        pairs.append(Pair(zh, en))
        seen_en[english] = "duplicate"
        if zh:
            seen_zh[zh] = "duplicate"
    return Cleaned(pairs, rejects)


def key(en: str) -> str:
    """Normalised lower-case text: equal keys are equal English captions."""
    return fold(" ".join(en.split())).lower()


def fold(en: str) -> str:
    """`normalise` of a text with single spaces; printable ASCII, which most captions are, is normalised already."""
    return en if en.isascii() and en.isprintable() else normalise(en)


def share(en: str, purpose: str) -> float:
    """Hash of an English caption to [0, 1), independent for each purpose of at most 16 characters."""
    digest = hashlib.blake2b(key(en).encode("utf-8", "replace"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
