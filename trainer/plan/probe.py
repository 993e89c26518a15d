"""Seconds of the work on this machine, by a little of it: real captions, real code, encoders of the true shapes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..base import Recipe
from ..cache import Cache, Making
from ..corpus import Pair
from ..encoders import Ridge, Student, Teacher, prepare, trunk_depth
from ..training import Captions, Loss, Piece, precision

FEW, MORE = 8, 32  # captions by which a step on a CPU is timed: enough to tell what grows with them from what does not
LEAST = 0.5  # seconds that a measurement should take


@dataclass(frozen=True)
class Speed:
    """Seconds a cached caption and an optimiser step; numbers that learn; bytes of a GPU at their most, 0 on a CPU."""

    caption: float
    step: float
    learning: int
    gpu_bytes: int


def measure(recipe: Recipe, pairs: list[Pair], student: Student, teacher: Teacher, pieces: int) -> Speed:
    """Time both kinds of work. `pieces`: passes by all processes into which a step's captions are divided. Changes the
    student. Raises torch.OutOfMemoryError where a GPU is too small."""
    device, depth = student.bert.device, trunk_depth(recipe.train, student.depth)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    most = recipe.train.batch // pieces
    wanted = max(recipe.cache.batch, most) if gpu else max(MORE, 2 * FEW)
    pairs = (pairs * (wanted // len(pairs) + 1))[:wanted]
    making = Making(teacher, student, depth, recipe.train.pad_positions, len(pairs), recipe.cache.batch if gpu else FEW)
    made, sums, trunk = making.shard(pairs, 0)  # the first of its kind is slower than all others
    rows = min(FEW, len(pairs))
    caption = timed(lambda: making.shard(pairs[:rows], 0), gpu) / rows
    step, learning = 0.0, 0
    if recipe.train.strategy != "ridge":
        cache = Cache([made | (trunk if depth is not None else {})], len(pairs), sums)
        step, learning = _step(recipe, cache, student, most)
        step *= recipe.train.accumulate
    return Speed(caption, step, learning, torch.cuda.max_memory_allocated(device) if gpu else 0)


def _step(recipe: Recipe, cache: Cache, student: Student, size: int) -> tuple[float, int]:
    """Seconds of one pass over `size` captions with its optimiser step, and how many numbers learn."""
    train, device = replace(recipe.train, kv=0.0), student.bert.device
    width, gpu = student.bert.config.hidden_size, device.type == "cuda"
    ridge = Ridge(torch.full((cache.width, width), 1e-3), torch.zeros(cache.window, cache.width))
    prepare(student, train, ridge if train.start == "ridge" else None)
    student.to(device).train()
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=0.0, fused=True)
    loss = Loss.of(cache, train, student, device)
    captions, depth = Captions(cache, train.contrast > 0), trunk_depth(train, student.depth) or 0
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision(train))

    def step(rows: int) -> None:
        batch = {k: t.to(device) for k, t in captions.__getitems__(Piece(list(range(rows)), 0, rows)).items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            z = student(batch["ids"], batch.get("trunk"), depth, batch["positions"], batch["kept"])
            terms: dict[str, Any] = loss(z, batch)
        terms["objective"].backward()
        optimiser.step()
        optimiser.zero_grad()

    few, more = (size, size) if gpu else (min(FEW, size), min(MORE, size))
    step(few)
    seconds = timed(lambda: step(few), gpu)
    if more > few:
        rest = max(0.0, timed(lambda: step(more), gpu) - seconds)
        seconds += rest * (size - few) / (more - few)
    return seconds, sum(parameter.numel() for parameter in learning)


def timed(work: Callable[[], object], gpu: bool) -> float:
    """Mean seconds of the work, done as often as fills half a second."""
    taken: list[float] = []
    while not taken or (sum(taken) < LEAST and len(taken) < 5):
        if gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return sum(taken) / len(taken)
