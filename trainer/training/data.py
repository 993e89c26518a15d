"""The captions of each step, and what a step reads of them from the cache."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch.nn.functional import pad

from zhclip.positions import position_weights
from zhclip.vectors import sentence_vector

from ..base.device import rounded_positions
from ..cache.shards import Cache

# A forward pass computes a multiple of this many positions. On a CPU in bf16 a matrix product of a new size is compiled
# first, which takes longer than the product (docs/performance.md), and no two batches have the same size.
MULTIPLE = 64
CACHED_CAPTIONS = 16
READERS = 4  # threads
CPU = torch.device("cpu")

Batch = dict[str, torch.Tensor]


def epoch_batches(rows: int, batch: int, seed: int, epoch: int) -> torch.Tensor:
    """Caption indices (batches, batch) of one epoch: a permutation, completed to whole batches from its beginning."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(rows, generator=generator)
    count = math.ceil(rows / batch)
    return order[torch.arange(count * batch) % rows].view(count, batch)


def microbatches(
    rows: int, batch: int, seed: int, steps: range, accumulate: int = 1, process: int = 0, processes: int = 1
) -> Iterator[tuple[list[int], list[int]]]:
    """For each forward pass of one process, its caption indices and those of the whole optimiser step.

    A step's batch is split into `accumulate` passes, each of them over all processes. A pure function of seed and step,
    so that a resumed run sees the same captions.
    """
    epoch, batches = -1, torch.empty(0)
    size = batch // accumulate // processes
    for step in steps:
        number, within = divmod(step, math.ceil(rows / batch))
        if number != epoch:
            epoch, batches = number, epoch_batches(rows, batch, seed, number)
        step_rows = batches[within].tolist()
        for part in range(accumulate):
            begin = (part * processes + process) * size
            yield step_rows[begin : begin + size], step_rows


def caption_batch(
    cache: Cache, rows: list[int], step_rows: list[int] | None = None, device: torch.device = CPU
) -> Batch:
    """The inputs and targets of B captions with P positions each, for a step on a device.

    ids, positions (B, P); weights (B, P), of each position in the loss; target (B, P, D); flat_index (T,), which of the
    flattened (B, P) are computed. Where the cache has them: frozen_hidden (B, P, S), pooled_target (B, G). With
    `step_rows`, N captions, for the contrastive loss: english (N, D), their English sentence vectors, and own (B, N)
    bool, which of these belong to each caption.
    """
    weights = position_weights(cache.rows("length", rows), cache.rows("count", rows), cache.window)
    size = min(cache.window, rounded_positions(weights.shape[1], device))
    weights = pad(weights, (0, size - weights.shape[1]))
    batch = {
        "ids": cache.rows("ids", rows, size).long(),
        "positions": cache.rows("position", rows, size),
        "weights": weights,
        "flat_index": rounded_index(weights),
        "target": cache.rows("target", rows, size),
    }
    if cache.has_frozen_hidden:
        batch["frozen_hidden"] = cache.rows("frozen_hidden", rows, size)
    if cache.pooled_width:
        batch["pooled_target"] = cache.rows("teacher_pooled", rows)
    if step_rows is not None:
        target = batch["target"] if rows == step_rows else cache.rows("target", step_rows)
        # A cached caption has all positions of its longer text, so the English ones come first.
        mask = torch.arange(target.shape[1]) < cache.rows("en_length", step_rows)[:, None]
        # A few captions at a time, which stay in the processor's cache, take a quarter of the time.
        parts = zip(target.split(CACHED_CAPTIONS), mask.split(CACHED_CAPTIONS))
        batch["english"] = torch.cat([sentence_vector(x.float(), text, cache.widths) for x, text in parts])
        batch["own"] = torch.tensor(rows)[:, None] == torch.tensor(step_rows)
    return batch


def read_ahead(read: Callable[..., Batch], passes: Iterable[tuple]) -> Generator[Batch, None, None]:
    """`read` of each pass's arguments, in order; READERS threads read the next batches while one is in use."""
    remaining = iter(passes)
    with ThreadPoolExecutor(READERS) as pool:
        batches = deque(pool.submit(read, *arguments) for arguments in islice(remaining, READERS))
        while batches:
            batch = batches.popleft().result()
            batches.extend(pool.submit(read, *arguments) for arguments in islice(remaining, 1))
            yield batch


def rounded_index(weights: torch.Tensor) -> torch.Tensor:
    """Indices (T,) of the flattened (B, P) positions to compute.

    All of weight above 0, and as many of the others as make T a multiple of MULTIPLE, if there are enough.
    """
    weighted = weights.flatten() > 0
    index, rest = weighted.nonzero()[:, 0], (~weighted).nonzero()[:, 0]
    return torch.cat([index, rest[: -len(index) % MULTIPLE]])
