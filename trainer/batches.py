"""Which captions a step sees, and which of their positions.

Padding is masked as keys, so a padded query neither changes nor sees another position's output: leaving some out of a
step is exact for all that remain. A step computes the positions up to the longest text of its batch, and a few of the
padded ones behind it, drawn anew each step and weighted so that the mean over all positions stays unbiased.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset

from zhclip.tokens import PromptTokenizer

from .cache import Cache
from .objective import position_weights
from .recipe import ZoneWeights

BUCKET = 16  # batches that are sorted by length together: long enough to even lengths out, short enough to mix


@dataclass(frozen=True)
class Piece:
    """What one process computes in one pass: `step`'s captions [begin, end), of all that the optimiser step sees."""

    step: list[int]
    begin: int
    end: int

    @property
    def rows(self) -> list[int]:
        """The captions of this piece."""
        return self.step[self.begin : self.end]


@dataclass(frozen=True)
class Order:
    """Batches from one step on: a pure function of seed and step, so that a resumed run sees what an unbroken one saw.

    Each pass over the captions is a new permutation of `rows`, filled up to whole batches from its own beginning. With
    `lengths` (rows,), captions of like length share a batch. A step's batch is cut into `parts` passes, and each of
    them into `processes` pieces, of which those of `process` are yielded.
    """

    rows: int
    batch: int
    seed: int
    first: int
    last: int
    parts: int = 1
    lengths: torch.Tensor | None = None
    process: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return (self.last - self.first) * self.parts

    def __iter__(self) -> Iterator[Piece]:
        passed, batches = -1, torch.empty(0)
        size = self.batch // self.parts // self.processes
        for step in range(self.first, self.last):
            number, within = divmod(step, math.ceil(self.rows / self.batch))
            if number != passed:
                passed, batches = number, self.one_pass(number)
            whole = batches[within].tolist()
            for part in range(self.parts):
                begin = (part * self.processes + self.process) * size
                yield Piece(whole, begin, begin + size)

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
    """Cache rows, asked for a piece at once. Of the padded positions `pad_positions` are drawn; None: all.

    With `skip`, a cache of the same captions for clip skip's target; with `contrast`, English sentence vectors as well.
    """

    cache: Cache
    lengths: torch.Tensor
    pad_positions: int | None
    trunk: bool
    seed: int
    zones: ZoneWeights = field(default_factory=ZoneWeights)
    skip: Cache | None = None
    contrast: bool = False

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, piece: Piece) -> dict[str, torch.Tensor]:
        """ids (B, W), positions (P,), drawn (P,) and weights (B, P) of the loss, target (B, P, D) and, where asked for,
        trunk (B, P, S), target_skip (B, P, D), and en (N, D) with own (B, N) bool of the step's captions.
        """
        rows = piece.rows
        ids = self.cache.rows("ids", rows).long()
        window = ids.shape[1]
        # Of the whole step, so that its pieces share their positions: pieces of a step then add up to it exactly.
        longest = int(self.lengths[piece.step].max())
        # From the rows themselves, and so again a function of seed and step alone.
        seed = zlib.crc32(repr((self.seed, piece.step)).encode())
        positions, drawn = draw_positions(window, longest, self.pad_positions, seed)
        batch = {
            "ids": ids,
            "target": self.cache.rows("target", rows)[:, positions],
            "positions": positions,
            "drawn": drawn,
            "weights": position_weights(self.cache.rows("en_length", rows), positions, drawn, window, self.zones),
        }
        if self.trunk:
            batch["trunk"] = self.cache.rows("trunk", rows)[:, positions].float()
        if self.skip is not None:
            batch["target_skip"] = self.skip.rows("target", rows)[:, positions]
        if self.contrast:
            step = torch.tensor(piece.step)
            batch["en"] = self.cache.rows("en_pooled", piece.step).float()
            batch["own"] = step[piece.begin : piece.end, None] == step[None, :]
        return batch


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
