"""Time and memory of a run on this machine, measured on a few captions for the plan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import psutil
import torch
from accelerate.utils.memory import clear_device_cache

from .base.device import is_out_of_memory, processes
from .base.recipe import Recipe
from .cache.builder import CacheBuilder
from .cache.shards import Cache, Tensors
from .corpus.pairs import Pair
from .models.freezing import frozen_depth
from .models.student import Student
from .models.teacher import Teacher
from .training import checkpoint
from .training.data import CaptionDataset, Microbatch
from .training.losses import Loss
from .training.setup import make_accelerator, prepare_student, unchanged_process

CPU_CAPTIONS = 8  # on a GPU a whole batch, which shows its memory


class Probe:
    """Seconds per cached caption and per optimiser step, the number of trainable weights, and bytes of memory.

    memory: on a GPU the larger one of both stages' peaks, on a CPU all that the process has. free: before the probe.
    """

    def __init__(self, device: torch.device) -> None:
        """Create it before the models are loaded."""
        self.device = device
        self.caption_seconds = self.step_seconds = 0.0
        self.trainable = self.memory = self.before = 0
        self.free: int = psutil.virtual_memory().available + psutil.Process().memory_info().rss
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before, self.free = torch.cuda.memory_reserved(device), torch.cuda.mem_get_info(device)[0]

    def measure(self, recipe: Recipe, sample: list[Pair], rows: int, student: Student, teacher: Teacher) -> None:
        """Run the cache's and the training's work on some pairs of the sample, short and long.

        rows: training pairs in all. A batch that does not fit the GPU's memory is tried in halves, as in training.
        Changes the student, and moves the teacher to the CPU.
        """
        train, depth = recipe.train, frozen_depth(recipe.train, student.depth)
        batch = train.batch // train.accumulate // processes().num_processes
        count = max(recipe.cache.batch, batch) if self.device.type == "cuda" else CPU_CAPTIONS
        ordered = sorted(sample, key=lambda pair: len(pair.en))
        pairs = (ordered[:: max(1, len(ordered) // count)] * count)[:count]
        builder = CacheBuilder(teacher, student, pairs, depth, train.pad_positions, count, recipe.cache.batch, rows)
        shards: list[tuple[Tensors, Tensors, Tensors]] = []
        self.caption_seconds = self._seconds(lambda: shards.append(builder.shard(0))) / count
        self._add_peak()
        if train.strategy == "ridge":
            return
        captions, sums, frozen = shards[-1]
        cache = Cache([captions | (frozen if depth is not None else {})], count, sums, teacher.widths)
        for model in teacher.models:
            model.to("cpu")
        with unchanged_process():
            prepare_student(student, cache, train)
            accelerator = make_accelerator(train)
            parameters = list(checkpoint.trainable(student.to(self.device).train()).values())
            self.trainable = sum(parameter.numel() for parameter in parameters)
            optimiser = torch.optim.AdamW(parameters, lr=0.0, fused=True)
            loss = Loss.from_cache(cache, train, student, self.device)
            dataset = CaptionDataset(cache, train.contrast > 0)

            def one_pass() -> None:
                inputs = dataset[Microbatch(list(range(min(batch, count))), 0, min(batch, count))]
                inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
                hidden, positions = inputs.get("frozen_hidden"), inputs["positions"]
                with accelerator.autocast():
                    z, pooled = student(inputs["ids"], hidden, depth or 0, positions, inputs["flat_index"])
                loss(z, pooled, inputs)["objective"].backward()

            while True:
                try:
                    one_pass()
                    update = self._seconds(optimiser.step)  # its first call allocates the moments
                    seconds = self._seconds(one_pass) / min(batch, count)
                    break
                except RuntimeError as error:
                    if batch % 2 or not is_out_of_memory(error):
                        raise
                    batch //= 2
                clear_device_cache()
                torch.cuda.reset_peak_memory_stats(self.device)  # of the attempt that failed
        self._add_peak()
        self.step_seconds = seconds * train.batch / processes().num_processes + update

    def _seconds(self, work: Callable[[], object]) -> float:
        """Median of three calls after a first one, which is slower."""
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds[1:])

    def _add_peak(self) -> None:
        """Take the memory of the work since the last call."""
        if self.device.type == "cuda":
            self.memory = max(self.memory, torch.cuda.max_memory_reserved(self.device) - self.before)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.memory = psutil.Process().memory_info().rss
