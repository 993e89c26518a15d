"""Which positions of a window are computed, and how much each counts, so that means over all positions stay unbiased.

The student masks padding as keys and a CLIP teacher is causal, so that leaving padded positions out is exact for all
others. Training draws a few of each caption (`draw_positions`); a calibration, whose host computes prefixes only,
computes most pairs without padding and a few over the whole window (`batches`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

WHOLE_EVERY = 8
BATCH_TOKENS = 2048  # positions of one forward pass, of which a 12 x 768 encoder holds some 50 MB


def draw_positions(lengths: torch.Tensor, chance: torch.Tensor, pads: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """All positions of each text and `pads` of the padded ones after it, None for all.

    lengths: (N,) positions that a caption's text takes; chance: (N, W) random numbers from 0 to 1, of which the lowest
    win. Returns the positions in ascending order, one caption after another (sum of counts,), and the counts (N,).
    """
    window = chance.shape[1]
    counts = torch.full_like(lengths, window) if pads is None else (lengths + pads).clamp(max=window)
    text = torch.arange(window) < lengths[:, None]
    rank = chance.masked_fill(text, -1).argsort(dim=1).argsort(dim=1)
    return (rank < counts[:, None]).nonzero()[:, 1], counts


def position_weights(lengths: torch.Tensor, counts: torch.Tensor, window: int) -> torch.Tensor:
    """Weights (B, P) of drawn positions, by lengths and counts (B,) of `draw_positions`; P is the largest count. Each
    row sums to 1: a position of text counts 1 / window, a drawn padded one its share of all padded ones."""
    at, lengths, counts = torch.arange(int(counts.max()), device=counts.device), lengths[:, None], counts[:, None]
    padded = (window - lengths) / (counts - lengths).clamp(min=1)
    return torch.where(at < lengths, 1.0, padded).masked_fill(at >= counts, 0.0) / window


@dataclass(frozen=True)
class TokenPair:
    """The ids (W,) of a pair's two windows, and the positions that each text takes, start and end included."""

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
    """Pairs that are computed together over their first `positions`, and the weights (B, positions) of these."""

    pairs: list[TokenPair]
    positions: int
    weights: torch.Tensor

    def ids(self, language: str) -> list[list[int]]:
        """The ids (B, positions) of one language, "zh" or "en"."""
        return [getattr(pair, language)[: self.positions] for pair in self.pairs]

    def mask(self, language: str) -> torch.Tensor:
        """(B, positions) bool, True where the text of one language stands."""
        return _mask([getattr(pair, f"{language}_length") for pair in self.pairs], self.positions)


def batches(
    pairs: list[TokenPair], window: int, whole_every: int = WHOLE_EVERY, tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Pairs in batches of at most `tokens` positions, in order of length; each position's weights sum to len(pairs).
    Every `whole_every`-th pair is computed over the whole window, the others up to the end of their longest text."""
    ordered = sorted(pairs, key=lambda pair: pair.length)
    whole, short = ordered[::whole_every], [pair for at, pair in enumerate(ordered) if at % whole_every]

    def batch(pairs: list[TokenPair], positions: int, padding: torch.Tensor) -> Batch:
        """`padding` (window,) is the weight of a position after both texts."""
        text = _mask([pair.length for pair in pairs], positions)
        return Batch(pairs, positions, torch.where(text, 1.0, padding[:positions]))

    out = []
    while short:
        size = max(1, sum(number * pair.length <= tokens for number, pair in enumerate(short, 1)))
        out.append(batch(short[:size], short[:size][-1].length, torch.zeros(window)))
        short = short[size:]
    # (window,) the number of pairs of which each position is padding
    all_padding, computed = (
        (~_mask([pair.length for pair in group], window)).sum(dim=0).float() for group in (ordered, whole)
    )
    size = max(1, tokens // window)
    padding = all_padding / computed.clamp_min(1)
    return out + [batch(whole[at : at + size], window, padding) for at in range(0, len(whole), size)]


def _mask(lengths: list[int], positions: int) -> torch.Tensor:
    """(len(lengths), positions) bool, True at each row's first positions, as many as its length."""
    return torch.arange(positions)[None] < torch.tensor(lengths, dtype=torch.long)[:, None]
