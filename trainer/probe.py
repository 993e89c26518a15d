"""Seconds of the work on this machine, by a little of it: real captions, real code, encoders of the true shapes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .base import Recipe, TrainSettings
from .cache import FEW, Cache, Making
from .corpus import Sample
from .encoders import Ridge, Student, Teacher, prepare, trunk_depth
from .training import Captions, Loss, Piece, precision

LESS, MORE = 4, 16  # captions by which a CPU is timed: enough to tell what grows with them from what does not


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
    rows = max(recipe.cache.batch, size) if device.type == "cuda" else MORE
    pairs = (sample.pairs * rows)[:rows]
    exact = sample.train <= FEW
    making = Making(teacher, student, depth, train.pad_positions, rows, recipe.cache.batch, exact)
    making.shard(pairs[:LESS], 0)  # the first of its kind is slower than all others
    began = _now(device)
    made, sums, trunk = making.shard(pairs, 0)
    caption = (_now(device) - began) / rows
    if train.strategy == "ridge":
        return Speed(caption)
    cache = Cache([made | (trunk if depth is not None else {})], rows, sums)
    step = _step(train, cache, student)
    passes = train.accumulate
    while True:
        try:
            seconds = _each(step, min(size, rows), device)
            break
        except torch.cuda.OutOfMemoryError:  # the train stage divides its steps in the same way
            if size % 2:
                raise
            size, passes = size // 2, 2 * passes
    if size > rows:  # so many more cost in proportion; the optimiser costs the same
        few = _each(step, LESS, device)
        seconds += max(0.0, seconds - few) * (size - rows) / (rows - LESS)
    learning = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Speed(caption, seconds * passes, learning, memory)


def _step(train: TrainSettings, cache: Cache, student: Student) -> Callable[[int], None]:
    """One pass over so many captions, with its optimiser step, as training makes it."""
    width, device, depth = student.bert.config.hidden_size, student.bert.device, trunk_depth(train, student.depth) or 0
    ridge = Ridge(torch.full((cache.width, width), 1e-3), torch.zeros(cache.window, cache.width))
    prepare(student, train, ridge if train.start == "ridge" else None)
    student.to(device).train()
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=0.0, fused=True)
    loss, captions = Loss.of(cache, train, student, device), Captions(cache, train.contrast > 0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision(train))

    def step(rows: int) -> None:
        batch = {k: t.to(device) for k, t in captions.__getitems__(Piece(list(range(rows)), 0, rows)).items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            z = student(batch["ids"], batch.get("trunk"), depth, batch["positions"], batch["kept"])
        loss(z, batch)["objective"].backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _each(step: Callable[[int], None], rows: int, device: torch.device) -> float:
    """Seconds of the second time and the third, for the first is slower."""
    step(rows)
    began = _now(device)
    step(rows)
    step(rows)
    return (_now(device) - began) / 2


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
