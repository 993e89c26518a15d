"""Captions that are nearly the same, found without comparing all with all: MinHash in bands, then the true overlap.

A caption is the set of its words, pairs and triples of words, without case and punctuation. Triples tell apart what
differs in order alone ("by sight, not by name"), and one word changed counts six times, so that at 0.9 only captions
of some forty words are one in spite of it. MinHash proposes, the Jaccard index of the sets decides, and so nothing is
taken for near by a collision of hashes.
"""

from __future__ import annotations

import re

import numpy as np
from datasketch import MinHash

WORDS = re.compile(r"[^\W_]+")
BANDS, ROWS = 8, 10  # at a Jaccard index of 0.9 a pair meets in a band with 97 %, at 0.5 with 1 %


class NearIndex:
    """Captions by their bands. Each band remembers the first caption alone, which bounds time and memory a caption."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.empty = MinHash(BANDS * ROWS, seed=1)
        # One odd multiplier a row makes one number of a band; a clash costs one comparison.
        generator = np.random.default_rng(0)
        self.mixers = generator.integers(1, 2**63, ROWS, dtype=np.uint64) | np.uint64(1)
        self.first: list[dict[int, int]] = [{} for _ in range(BANDS)]
        self.captions: list[str] = []

    def find(self, caption: str) -> tuple[int | None, list[int]]:
        """The number of a caption added before that is near to this one, or None; and the bands of this one."""
        parts = shingles(caption)
        if not parts:
            return None, []
        bands = self.bands(parts)
        candidates = sorted({found for band, seen in zip(bands, self.first) if (found := seen.get(band)) is not None})
        for at in candidates:
            other = shingles(self.captions[at])
            if len(parts & other) >= self.threshold * len(parts | other):
                return at, bands
        return None, bands

    def add(self, caption: str, bands: list[int]) -> None:
        """Remember a caption by the bands that `find` gave."""
        for band, seen in zip(bands, self.first):
            seen.setdefault(band, len(self.captions))
        self.captions.append(caption)

    def bands(self, parts: set[bytes]) -> list[int]:
        """One number a band."""
        made = self.empty.copy()
        made.update_batch(sorted(parts))
        values = made.hashvalues.astype(np.uint64).reshape(BANDS, ROWS)
        return [int(number) for number in (values * self.mixers).sum(axis=1)]


def shingles(caption: str) -> set[bytes]:
    """Words, word pairs and triples of a caption."""
    words = WORDS.findall(caption.lower())
    runs = (words[at : at + length] for length in (1, 2, 3) for at in range(len(words) - length + 1))
    return {" ".join(run).encode("utf-8", "replace") for run in runs}
