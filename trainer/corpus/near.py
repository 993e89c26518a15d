"""Near duplicates without comparing all captions with all: MinHash in bands proposes, the Jaccard index decides.

A caption is the set of its words, word pairs and word triples, without case and punctuation. Triples tell apart what
differs in order alone ("by sight, not by name"), and one changed word counts six times, so that at 0.9 only captions
of some forty words match in spite of it.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

WORDS = re.compile(r"[^\W_]+")
BANDS, ROWS = 8, 10  # at a Jaccard index of 0.9 a pair shares a band with 97 %, at 0.5 with 1 %


class NearIndex:
    """Different captions by their bands. Each band remembers its first caption alone, which bounds time and memory."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        random = np.random.default_rng(0)
        # Multiply-shift hashing: the upper bits of a product modulo 2^64 with an odd factor.
        factors = random.integers(1, 2**63, (BANDS + 1) * ROWS, dtype=np.uint64) | np.uint64(1)
        self.hash_factors, self.band_factors = factors[:-ROWS], factors[-ROWS:]
        self.first: list[dict[int, int]] = [{} for _ in range(BANDS)]
        self.captions: list[str] = []

    def add(self, caption: str) -> bool:
        """Remember a caption and return True; False if an earlier one is near it."""
        parts = shingles(caption)
        bands = self.bands(parts) if parts else []
        for number in sorted({seen[band] for band, seen in zip(bands, self.first) if band in seen}):
            other = shingles(self.captions[number])
            if len(parts & other) >= self.threshold * len(parts | other):
                return False
        for band, seen in zip(bands, self.first):
            seen.setdefault(band, len(self.captions))
        self.captions.append(caption)
        return True

    def bands(self, parts: set[bytes]) -> list[int]:
        """One number a band. A collision costs one comparison."""
        hashes = np.fromiter((zlib.crc32(part) for part in parts), np.uint64, len(parts))
        lowest = (hashes[:, None] * self.hash_factors >> np.uint64(32)).min(axis=0)
        return (lowest.reshape(BANDS, ROWS) * self.band_factors).sum(axis=1).tolist()


def shingles(caption: str) -> set[bytes]:
    """Words, word pairs and word triples of a caption."""
    words = WORDS.findall(caption.lower())
    runs = (words[at : at + length] for length in (1, 2, 3) for at in range(len(words) - length + 1))
    return {" ".join(run).encode("utf-8", "replace") for run in runs}
