"""Clean pairs: which rows become pairs, why the others are rejected, and the TSV files of both splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhclip.prompt import normalise

from ..base.files import DamagedError, write_text
from ..base.recipe import CorpusSettings, SettingsError
from .clean import pair_fault
from .lines import CorpusError, Row
from .near import NearIndex

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

    def require(self, count: int, where: str, kind: str = "pairs") -> list[Pair]:
        """The pairs. Raises CorpusError if there are fewer than `count`."""
        if len(self.pairs) < count:
            raise CorpusError(f"{where}: {len(self.pairs)} usable {kind}; rejected: {self.counts()}")
        return self.pairs


def clean(
    rows: Iterable[Row],
    zh_length: Length,
    en_length: Length,
    window: int,
    near: float | None = CorpusSettings.near,
    limit: int | None = None,
    dev: Sequence[Pair] = (),
) -> Cleaned:
    """The first `limit` clean pairs of the rows. No text occurs twice, nor one of `dev`, the pairs of another split.

    Raises CorpusError if hardly any row is usable.
    """
    seen_zh = {pair.zh: "also in dev" for pair in dev}
    seen_en = {comparison_key(pair.en): "also in dev" for pair in dev}
    index = None if near is None else NearIndex(near)
    if index:
        for english in seen_en:
            index.add(english)
    pairs: list[Pair] = []
    rejects: list[Row] = []
    for row in rows:
        if limit is not None and len(pairs) >= limit:
            break
        zh, en, folded = normalise(row.zh), " ".join(row.en.split()), normalise(row.en)
        english = folded.lower()
        fault = (
            row.fault
            or ("empty" if not en or not zh else "")
            or ("wrong encoding" if "\ufffd" in zh + en else "")
            or ("identical sides" if zh == folded else "")
            or pair_fault(row.zh, row.en)
            or seen_zh.get(zh)
            or seen_en.get(english)
            or ("Chinese over the window" if zh_length(zh) > window else "")
            or ("English over the window" if en_length(en) > window else "")
            or ("near duplicate" if index and not index.add(english) else "")
        )
        if fault:
            rejects.append(replace(row, fault=fault))
            if len(rejects) > REJECTS_PER_PAIR * (len(pairs) + FIRST_PAIRS):
                counts = f"{len(pairs)} usable pairs, {len(rejects)} rejected rows: {Cleaned(pairs, rejects).counts()}"
                raise CorpusError(f"{row.source or 'this'} is no corpus, so far {counts}")
            continue
        pairs.append(Pair(zh, en))
        seen_zh[zh] = seen_en[english] = "duplicate"
    return Cleaned(pairs, rejects)


def join(pairs: list[Pair], share: float, zh_length: Length, en_length: Length, window: int) -> list[Pair]:
    """The pairs; a share of them, chosen by a hash, is followed by one to four other pairs that fit into the window.

    Prompts are lists and several sentences, a caption is one.
    """
    return [
        _followed(pair, pairs, zh_length, en_length, window) if hash_fraction(pair.en, "join") < share else pair
        for pair in pairs
    ]


def _followed(first: Pair, pairs: list[Pair], zh_length: Length, en_length: Length, window: int) -> Pair:
    """A pair with other ones behind it, after commas or full stops, which are the same in normalised Chinese."""
    mark = "," if hash_fraction(first.en, "join mark") < 0.5 else "."
    joined = first
    for number in range(1 + int(4 * hash_fraction(first.en, "join count"))):
        other = pairs[int(len(pairs) * hash_fraction(first.en, f"join {number}"))]
        if other.en in joined.en:
            continue
        zh, en = joined.zh.rstrip(",."), joined.en.rstrip(",.")
        longer = Pair(f"{zh}{mark}{other.zh}", f"{en}{mark} {other.en}")
        if zh_length(longer.zh) > window or en_length(longer.en) > window:
            break
        joined = longer
    return joined


def comparison_key(en: str) -> str:
    """Normalised lower-case text: equal keys are equal English captions."""
    return normalise(en).lower()


def hash_fraction(en: str, purpose: str) -> float:
    """Hash of an English caption to [0, 1), independent for each purpose of at most 16 characters."""
    key = comparison_key(en).encode("utf-8", "replace")
    digest = hashlib.blake2b(key, digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Write pairs as TSV; normalised texts hold neither tabs nor line ends."""
    write_text(path, "zh\ten\n" + _lines(pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Read what `write_pairs` wrote. Raises SettingsError if the corpus stage has not run, DamagedError."""
    if not path.is_file():
        raise SettingsError(f"{path}: not there; run the corpus stage first (`python -m trainer corpus`)")
    *lines, end = path.read_text(encoding="utf-8").split("\n")
    if end or not all(line.count("\t") == 1 for line in lines):
        raise DamagedError(f"{path}: damaged; delete {path.parent} and run the corpus stage again")
    return [Pair(*line.split("\t")) for line in lines[1:]]


def pairs_sha256(pairs: list[Pair]) -> str:
    """Digest of the pairs in order."""
    return hashlib.sha256(_lines(pairs).encode()).hexdigest()


def _lines(pairs: list[Pair]) -> str:
    return "".join(f"{pair.zh}\t{pair.en}\n" for pair in pairs)
