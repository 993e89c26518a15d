"""The captions of each step, and what a step reads of them from the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from zhclip.positions import position_weights
from zhclip.vectors import sentence_vector

from ..cache.shards import Cache, index_on

# A forward pass computes a multiple of this many positions. On a CPU in bf16 a matrix product of a new size is compiled
# first, which takes longer than the product (docs/performance.md), and no two batches have the same size.
MULTIPLE = 64

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Microbatch:
    """The captions [begin, end) of an optimiser step: what one process computes in one forward pass.

    step: row indices of all captions of the step.
    """

    step: list[int]
    begin: int
    end: int

    @property
    def rows(self) -> list[int]:
        """Row indices of these captions."""
        return self.step[self.begin : self.end]


@dataclass(frozen=True)
class Order:
    """The microbatches of steps [first, last), a pure function of seed and step: a resumed run sees the same ones.

    Each epoch is a new permutation of `rows` captions, completed to whole batches from its own beginning. A step's
    batch is split into `accumulate` forward passes, each of them over all processes; those of `process` are yielded.
    """

    rows: int
    batch: int
    seed: int
    first: int
    last: int
    accumulate: int = 1
    process: int = 0
    processes: int = 1

    def __iter__(self) -> Iterator[Microbatch]:
        epoch, batches = -1, torch.empty(0)
        size = self.batch // self.accumulate // self.processes
        for step in range(self.first, self.last):
            number, within = divmod(step, math.ceil(self.rows / self.batch))
            if number != epoch:
                epoch, batches = number, self.permutation(number)
            rows = batches[within].tolist()
            for part in range(self.accumulate):
                begin = (part * self.processes + self.process) * size
                yield Microbatch(rows, begin, begin + size)

    def permutation(self, epoch: int) -> torch.Tensor:
        """Row indices (batches, batch) of one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.rows, generator=generator)
        count = math.ceil(self.rows / self.batch)
        return order[torch.arange(count * self.batch) % self.rows].view(count, self.batch)


@dataclass(frozen=True)
class CaptionDataset:
    """Captions of a cache. With `contrast`, a batch also has the English sentence vectors of the whole step."""

    cache: Cache
    contrast: bool = False

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, microbatch: Microbatch) -> Batch:
        """A batch of B captions and P positions each.

        ids, positions (B, P); weights (B, P), of each position in the loss; target (B, P, D); flat_index (T,), which of
        the flattened (B, P) are computed. Where the cache has them: frozen_hidden (B, P, S), pooled_target (B, G). With
        `contrast`: english (N, D), sentence vectors of the step's N captions, and own (B, N) bool.
        """
        rows, cache = microbatch.rows, self.cache
        weights = position_weights(cache.rows("length", rows), cache.rows("count", rows), cache.window)
        batch = {
            "ids": cache.rows("ids", rows).long(),
            "positions": cache.rows("position", rows),
            "weights": weights,
            "flat_index": flat_index(weights),
            "target": cache.rows("target", rows),
        }
        if cache.has_frozen_hidden:
            batch["frozen_hidden"] = cache.rows("frozen_hidden", rows)
        if cache.pooled_width:
            batch["pooled_target"] = cache.rows("teacher_pooled", rows)
        if self.contrast:
            step = torch.tensor(microbatch.step)
            target = batch["target"] if rows == microbatch.step else cache.rows("target", microbatch.step)
            batch["english"] = english_vectors(target, cache.rows("en_length", microbatch.step), cache.widths)
            batch["own"] = step[microbatch.begin : microbatch.end, None] == step[None, :]
        return batch


def english_vectors(target: torch.Tensor, lengths: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """Sentence vectors (N, D) float of targets (N, P, D) and English lengths (N,).

    Computed at each step: a cached caption has all positions of its longer text, so the English ones come first.
    """
    text = torch.arange(target.shape[1], device=target.device) < index_on(lengths, target.device)[:, None]
    return sentence_vector(target.float(), text, widths)


def flat_index(weights: torch.Tensor) -> torch.Tensor:
    """Which of the flattened (B, P) positions to compute: (T,).

    All of weight above 0, and as many of the others as make T a multiple of MULTIPLE, if there are enough.
    """
    counted = weights.flatten() > 0
    index, rest = counted.nonzero()[:, 0], (~counted).nonzero()[:, 0]
    return torch.cat([index, rest[: -len(index) % MULTIPLE]])
