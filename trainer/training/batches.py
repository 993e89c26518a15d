"""Which captions a step sees, and what it reads of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from zhclip.positions import position_weights
from zhclip.vectors import sentence_vector

from ..cache.shards import Cache, index_on

# A step computes a multiple of so many positions. On a CPU in bf16 a product of a size not seen before is compiled,
# which takes longer than the product (docs/performance.md), and no two batches would be of one size.
ROWS = 64


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

    Each pass over the captions is a new permutation of `rows`, filled up to whole batches from its own beginning. A
    step's batch is cut into `parts` passes, and each of them into `processes` pieces, of which those of `process` are
    yielded.
    """

    rows: int
    batch: int
    seed: int
    first: int
    last: int
    parts: int = 1
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
        return order[torch.arange(count * self.batch) % self.rows].view(count, self.batch)


@dataclass(frozen=True)
class Captions(Dataset):
    """Cache rows, asked for a piece at once.

    With `contrast`, English sentence vectors as well.
    """

    cache: Cache
    contrast: bool = False

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, piece: Piece) -> dict[str, torch.Tensor]:
        """ids and positions (B, P), drawn (B, P), the loss's weights, target (B, P, D), kept (T,), which of the flat
        (B, P) are computed, and, where they are there, trunk (B, P, S), projected (B, G), en (N, D) with own (B, N)
        bool of the step's captions.
        """
        rows, cache = piece.rows, self.cache
        positions = cache.rows("position", rows)
        drawn = position_weights(cache.rows("length", rows), cache.rows("count", rows), cache.window)
        batch = {
            "ids": cache.rows("ids", rows).long(),
            "kept": computed(drawn),
            "target": cache.rows("target", rows),
            "positions": positions,
            "drawn": drawn,
        }
        if cache.has_frozen_hidden:
            batch["trunk"] = cache.rows("frozen_hidden", rows)
        if cache.pooled_width:
            batch["projected"] = cache.rows("projected", rows)
        if self.contrast:
            step = torch.tensor(piece.step)
            target = batch["target"] if rows == piece.step else cache.rows("target", piece.step)
            batch["en"] = english(target, cache.rows("en_length", piece.step), cache.widths)
            batch["own"] = step[piece.begin : piece.end, None] == step[None, :]
        return batch


def english(target: torch.Tensor, lengths: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """(N, P, D) targets and (N,) English lengths -> (N, D) float sentence vectors.

    A caption keeps all positions of its longer side's text, so the English text is the first ones. Stored beside the
    targets they would take as much as another position of each caption.
    """
    text = torch.arange(target.shape[1], device=target.device) < index_on(lengths, target.device)[:, None]
    return sentence_vector(target.float(), text, widths)


def computed(drawn: torch.Tensor) -> torch.Tensor:
    """(B, P) shares -> (T,), which of the flat (B, P) to compute: all that count, and of the filling as much as makes T
    a multiple of 64, if there is so much."""
    counts = drawn.flatten() > 0
    kept, filling = counts.nonzero()[:, 0], (~counts).nonzero()[:, 0]
    return torch.cat([kept, filling[: -len(kept) % ROWS]])
