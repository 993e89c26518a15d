"""Which captions a step sees, and which of their positions.

Padding is masked as keys, so a padded query neither changes nor sees another position's output: leaving some out of a
step is exact for all that remain. A step computes the positions up to the longest text of its batch, and a few of the
padded ones behind it, drawn anew each step and weighted so that the mean over all positions stays unbiased.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from zhclip.tokens import PromptTokenizer

from .cache import Cache

BUCKET = 16  # batches that are sorted by length together: long enough to even lengths out, short enough to mix


@dataclass(frozen=True)
class Order:
    """Batches from one step on: a pure function of seed and step, so that a resumed run sees what an unbroken one saw.

    Each pass is a new permutation of `rows`, filled up to whole batches from its own beginning. With `lengths` (rows,),
    captions of like length share a batch. A step's batch comes in `parts` equal pieces, one for each accumulation pass.
    """

    rows: int
    batch: int
    seed: int
    first: int
    last: int
    parts: int = 1
    lengths: torch.Tensor | None = None
    drop_last: bool = True  # what Accelerate asks of a batch sampler

    @property
    def batch_size(self) -> int:
        """Captions a piece; Accelerate splits it over the processes."""
        return self.batch // self.parts

    def __len__(self) -> int:
        return (self.last - self.first) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        passed, batches = -1, torch.empty(0)
        for step in range(self.first, self.last):
            number, within = divmod(step, math.ceil(self.rows / self.batch))
            if number != passed:
                passed, batches = number, self.one_pass(number)
            yield from (piece.tolist() for piece in batches[within].split(self.batch_size))

    def one_pass(self, number: int) -> torch.Tensor:
        """(batches, batch) row indices of one pass over the captions."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(self.rows, generator=generator)
        count = math.ceil(self.rows / self.batch)
        order = order[torch.arange(count * self.batch) % self.rows]
        if self.lengths is None:
            return order.view(count, self.batch)
        sorts = [some[self.lengths[some].argsort(stable=True)] for some in order.split(self.batch * BUCKET)]
        return torch.cat(sorts).view(count, self.batch)[torch.randperm(count, generator=generator)]


@dataclass(frozen=True)
class Captions(Dataset):
    """Cache rows, asked for a whole batch at once. Of the padded positions `pad_positions` are drawn; None: all."""

    cache: Cache
    lengths: torch.Tensor
    pad_positions: int | None
    trunk: bool
    seed: int

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """ids (B, W), positions (P,), their weights (P,), target (B, P, D) and, if stored, trunk (B, P, S)."""
        ids = self.cache.rows("ids", indices).long()
        window = ids.shape[1]
        longest = int(self.lengths[indices].max())
        # From the rows themselves, and so again a function of seed and step alone.
        seed = zlib.crc32(repr((self.seed, indices)).encode())
        positions, weights = draw_positions(window, longest, self.pad_positions, seed)
        batch = {
            "ids": ids,
            "target": self.cache.rows("target", indices)[:, positions],
            "positions": positions,
            "weights": weights,
        }
        return batch | {"trunk": self.cache.rows("trunk", indices)[:, positions].float()} if self.trunk else batch


def draw_positions(window: int, longest: int, drawn: int | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of a step (P,) and their weights (P,), which sum to 1 and make a weighted mean unbiased.

    All of [0, longest) are taken, and `drawn` of the others, at random by `seed`; all others when drawn is None.
    """
    others = window - longest
    if drawn is None or drawn >= others:
        return torch.arange(window), torch.full((window,), 1 / window)
    generator = torch.Generator().manual_seed(seed)
    chosen = longest + torch.randperm(others, generator=generator)[:drawn].sort().values
    weights = torch.full((longest + drawn,), 1 / window)
    weights[longest:] = others / (window * drawn)
    return torch.cat([torch.arange(longest), chosen]), weights


def text_lengths(cache: Cache, tokens: PromptTokenizer) -> torch.Tensor:
    """(rows,) positions that a pair's text takes, on the side where it takes more."""
    return torch.maximum(tokens.key_mask(cache.column("ids")).sum(dim=1), cache.column("en_length"))
