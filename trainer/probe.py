"""Seconds of the work on this machine, by a little of it: real captions, real code, encoders of the true shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .base.recipe import Recipe, TrainSettings
from .cache.making import FEW, Making
from .cache.shards import Cache, Shard
from .corpus.sample import Sample
from .models.freezing import prepare, trunk_depth
from .models.student import Ridge, Student
from .models.teacher import Teacher
from .training.batches import Captions, Piece
from .training.loss import Loss
from .training.opening import precision

ROWS = 8  # captions by which a CPU is timed
TIMES = 3  # of which the middle one counts, behind a first time that is slower than all others


@dataclass(frozen=True)
class Speed:
    """Seconds a cached caption and an optimiser step; numbers that learn; bytes of a GPU at their most, 0 on a CPU."""

    caption: float
    step: float = 0.0
    learning: int = 0
    gpu_bytes: int = 0


def measure(recipe: Recipe, sample: Sample, student: Student, teacher: Teacher, processes: int) -> Speed:
    """Time both kinds of work. Changes the student."""
    device, train, depth = student.bert.device, recipe.train, trunk_depth(recipe.train, student.depth)
    size = train.batch // train.accumulate // processes
    rows = max(recipe.cache.batch, size) if device.type == "cuda" else ROWS
    # Short ones and long ones as there are in all of them.
    pairs = (sorted(sample.pairs, key=lambda pair: len(pair.en))[:: max(1, len(sample.pairs) // rows)] * rows)[:rows]
    making = Making(teacher, student, depth, train.pad_positions, rows, recipe.cache.batch, sample.train <= FEW)
    shards: list[tuple[Shard, Shard, Shard]] = []
    caption = _middle(lambda: shards.append(making.shard(pairs, 0)), device) / rows
    if train.strategy == "ridge":
        return Speed(caption)
    made, sums, trunk = shards[-1]
    cache = Cache([made | (trunk if depth is not None else {})], rows, sums, teacher.widths)
    one_pass, optimiser = _step(train, cache, student)
    passes = train.accumulate
    while True:
        some = min(size, rows)
        try:
            one_pass(some)
            optimise = _middle(optimiser.step, device)  # makes the moments, which take memory beside a pass
            seconds = _middle(lambda: one_pass(some), device) * size / some  # noqa: B023
            break
        except torch.cuda.OutOfMemoryError:  # the train stage divides its steps in the same way
            if size % 2:
                raise
            size, passes = size // 2, 2 * passes
    learning = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    return Speed(
        caption,
        seconds * passes + optimise,
        learning,
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def _step(train: TrainSettings, cache: Cache, student: Student) -> tuple[Callable[[int], None], torch.optim.Optimizer]:
    """One pass over so many captions, and the optimiser of its gradients, as training makes them."""
    width, device, depth = student.bert.config.hidden_size, student.bert.device, trunk_depth(train, student.depth) or 0
    maps = [Ridge(torch.full((cache.width, width), 1e-3), torch.zeros(cache.window, cache.width))]
    if cache.pooled_width:
        maps.append(Ridge(torch.full((cache.pooled_width, width), 1e-3), torch.zeros(1, cache.pooled_width)))
    prepare(student, train, *(maps if train.start == "ridge" else [None]))
    student.to(device).train()
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    loss, captions = Loss.of(cache, train, student, device), Captions(cache, train.contrast > 0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision(train))

    def one_pass(rows: int) -> None:
        batch = {k: t.to(device) for k, t in captions.__getitems__(Piece(list(range(rows)), 0, rows)).items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            z, pooled = student(batch["ids"], batch.get("trunk"), depth, batch["positions"], batch["kept"])
        loss(z, pooled, batch)["objective"].backward()

    return one_pass, torch.optim.AdamW(learning, lr=0.0, fused=True)


def _middle(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that work takes."""
    work()
    seconds = []
    for _ in range(TIMES):
        began = _now(device)
        work()
        seconds.append(_now(device) - began)
    return statistics.median(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
