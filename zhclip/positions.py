"""Which positions of which pairs a calibration computes, and what each counts for. Pure.

Most of a window is padding, and both encoders allow a short pass that is exact for the positions in it: the student
masks padding as keys, the teacher is causal. So every pair is computed up to the end of the longer of its two texts,
and every EVERY-th pair, in order of that length, over the whole window; the padding of those stands for the padding of
all. Weights say so: summed over the pairs, each position counts as often as if all had been computed whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

EVERY = 8
BATCH_TOKENS = 2048  # positions of one forward pass, of which a 12 x 768 encoder holds some 50 MB


@dataclass(frozen=True)
class TokenPair:
    """One pair as whole windows of ids, and the positions of each text with its start and end."""

    zh: list[int]
    en: list[int]
    zh_length: int
    en_length: int

    @property
    def length(self) -> int:
        """Positions that the longer text takes."""
        return max(self.zh_length, self.en_length)


@dataclass(frozen=True)
class Batch:
    """Pairs computed together over their first `positions`; weights (B, positions)."""

    pairs: list[TokenPair]
    positions: int
    weights: torch.Tensor

    def ids(self, language: str) -> list[list[int]]:
        """The windows of one side, cut to the batch's positions."""
        return [getattr(pair, language)[: self.positions] for pair in self.pairs]

    def texts(self, language: str) -> torch.Tensor:
        """(B, positions) bool: where the text of one side stands."""
        return _within([getattr(pair, f"{language}_length") for pair in self.pairs], self.positions)

    def first(self) -> Batch:
        """The same pairs' first position alone, which is text in each."""
        return Batch(self.pairs, 1, self.weights[:, :1])


def batches(pairs: list[TokenPair], window: int, every: int = EVERY, tokens: int = BATCH_TOKENS) -> list[Batch]:
    """The batches that stand for these pairs."""
    ordered = sorted(pairs, key=lambda pair: pair.length)
    whole, short = ordered[::every], [pair for at, pair in enumerate(ordered) if at % every]
    made = []
    while short:
        size = max(1, tokens // short[0].length)
        while size > 1 and size * short[:size][-1].length > tokens:
            size -= 1
        made.append(_batch(short[:size], short[:size][-1].length, torch.zeros(window)))
        short = short[size:]
    counts = _padded(ordered, window) / _padded(whole, window).clamp_min(1)
    size = max(1, tokens // window)
    return made + [_batch(whole[at : at + size], window, counts) for at in range(0, len(whole), size)]


def _batch(pairs: list[TokenPair], positions: int, padding: torch.Tensor) -> Batch:
    """`padding` (window,) is the weight of a position behind both texts."""
    text = _within([pair.length for pair in pairs], positions)
    return Batch(pairs, positions, torch.where(text, 1.0, padding[:positions]))


def _padded(pairs: list[TokenPair], window: int) -> torch.Tensor:
    """(window,) at how many pairs each position lies behind both texts."""
    return (~_within([pair.length for pair in pairs], window)).sum(dim=0).float()


def _within(lengths: list[int], positions: int) -> torch.Tensor:
    """(len(lengths), positions) bool: whether a position lies in the first so many."""
    return torch.arange(positions)[None] < torch.tensor(lengths, dtype=torch.long)[:, None]
