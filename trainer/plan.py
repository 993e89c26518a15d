"""The plan of a run before its work: downloads, steps, memory, disks and time, by a probe of a few captions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from .artifact.export import FILE, install_path
from .base.comfyui import install_folder
from .base.device import is_out_of_memory, processes
from .base.disk import free_bytes
from .base.recipe import Recipe, SettingsError
from .base.settings import require, sources
from .cache.budget import fits, gigabytes, mean_positions
from .cache.builder import CacheBuilder, sum_pads
from .cache.shards import Cache, Shard
from .corpus.sample import Sample, sampled
from .models.download import Weights, missing_weights
from .models.freezing import frozen_depth, prepare
from .models.student import Ridge, Student, student_from_recipe
from .models.teacher import Teacher, teacher_from_recipe
from .progress import Counter, Listener
from .training import checkpoint
from .training.data import CaptionDataset, Microbatch
from .training.losses import Loss
from .training.schedule import total_steps
from .training.setup import check_batch, precision

START_SECONDS = 8.0  # of a stage, to load the encoders
DEV_CAPTIONS, DEV_COST = 512, 2 / 3  # of a scoring during training; what one costs against a caption of a step
PROBE_CAPTIONS = 8  # on a CPU; on a GPU a whole batch, which shows its memory


@dataclass(frozen=True)
class Plan:
    """The plan in words, the seconds that each stage still takes, and the bytes of what is written."""

    text: str
    seconds: dict[str, float]
    sizes: dict[str, float]


@dataclass(frozen=True)
class Speed:
    """Seconds per cached caption and per optimiser step, the number of trainable weights, and bytes of memory used."""

    caption: float
    step: float
    trainable: int
    memory: int


@dataclass(frozen=True)
class Outputs:
    """What a run writes, in bytes by name, and in which folder."""

    folders: dict[str, Path]
    sizes: dict[str, float]


def plan(recipe: Recipe, progress: Listener | None = None) -> Plan:
    """Measure this machine and plan a run. Downloads configurations and tokenizers, no weights.

    Raises SettingsError when a disk is too small, and whatever is wrong with settings, models or corpus.
    """
    began, state, train = time.perf_counter(), processes(), recipe.train
    check_batch(train, state.num_processes)
    comfyui = install_folder(recipe.install)
    copy = install_path(comfyui, recipe.folder.resolve().name) if comfyui else None
    chinese = require(recipe.student.model, "student.model", "the Chinese encoder")
    english = require(recipe.teacher.model, "teacher.model", "the English encoder")
    missing = {
        chinese: missing_weights(chinese, "student.model", recipe.endpoint),
        english: missing_weights(english, "teacher.model", recipe.endpoint),
    }
    # Where weights are missing, random ones of the same shapes take as long.
    teacher = teacher_from_recipe(recipe, state.device, weights=not missing[english])
    student = student_from_recipe(recipe, state.device, weights=not missing[chinese])
    sample = sampled(recipe, student.tokens.length, teacher.length, progress)
    downloads = sum(weights.size for parts in missing.values() for weights in parts)
    weights = sum(parameter.numel() for parameter in student.parameters())
    with Counter("plan", 0, progress).repeated_in_batches():
        speed = measure_speed(recipe, sample, student, teacher)
    seconds = stage_seconds(recipe, sample, student, teacher, speed)
    outputs = planned_outputs(recipe, sample, student, teacher, weights, speed.trainable)
    outputs.folders["downloads"], outputs.sizes["downloads"] = Path(constants.HF_HUB_CACHE), downloads
    if copy:
        outputs.folders["copy"], outputs.sizes["copy"] = copy.parent, outputs.sizes["file"]
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"CPU, threads: {torch.get_num_threads()}"
    total = torch.cuda.mem_get_info()[1] if gpu else psutil.virtual_memory().available + speed.memory
    much = "; if that is too much, --train.accumulate 4 --cache.batch 16" if speed.memory > 0.7 * total else ""
    installs = f", copied to {copy}" if copy else "; no ComfyUI is around this clone, --install names one"
    stages = ", ".join(f"{name} {in_words(value)}" for name, value in seconds.items())
    corpora = " + ".join(source.path for source in sources(recipe.corpus.train))
    lines = [
        *(f"download {model}: {_download(parts, recipe.endpoint)}" for model, parts in missing.items()),
        f"corpus   {corpora}: about {sample.train:,} pairs to learn from, {sample.dev:,} to score on",
        f"device   {device}, {'fp32' if precision(train) == 'no' else precision(train)}",
        f"steps    {total_steps(train, sample.train):,} of {train.batch} captions, {train.strategy}",
        f"memory   about {size(speed.memory)} of {size(total)}{much}",
        *check_disks(outputs),
        f"file     {recipe.folder / FILE}{installs}",
        f"time     about {in_words(sum(seconds.values()))} beside the downloads ({stages}), by a probe of "
        f"{time.perf_counter() - began:.0f} s",
    ]
    return Plan("\n".join(f"plan: {line}" for line in lines), seconds, outputs.sizes)


def _download(missing: list[Weights], endpoint: str | None) -> str:
    if not missing:
        return "nothing, it is already on this machine"
    return f"{size(sum(weights.size for weights in missing))} from {endpoint or constants.ENDPOINT}"


def planned_outputs(
    recipe: Recipe, sample: Sample, student: Student, teacher: Teacher, weights: int, trainable: int
) -> Outputs:
    """What a run writes below its folders; checkpoints at their most. `weights`: number of the student's weights."""
    train, pairs = recipe.train, sample.pairs
    targets, states = gigabytes(recipe, sample.train, pairs, student, teacher)
    stored = frozen_depth(train, student.depth) is not None and fits(recipe, targets + states)
    all_positions = replace(recipe, train=replace(train, pad_positions=None))
    dev = sum(gigabytes(all_positions, sample.dev, pairs, student, teacher))
    saves = -(-total_steps(train, sample.train) // train.save_every)
    # Weights and two moments in fp32. A checkpoint is written before the oldest is deleted; the final weights follow.
    checkpoints = 4 * trainable * max(3 * min(saves, checkpoint.KEEP + 1), 3 * min(saves, checkpoint.KEEP) + 1)
    file = weights * (2 if recipe.export.dtype == "float16" else 4)
    folders = {"cache": recipe.cache_folder, "checkpoints": recipe.folder, "file": recipe.folder}
    cache = (targets + states * stored + dev) * 1e9
    return Outputs(folders, {"cache": cache, "checkpoints": float(checkpoints), "file": float(file)})


def check_disks(outputs: Outputs) -> list[str]:
    """A line for each disk that is written to. Raises SettingsError for one that is too small."""
    disks: dict[int, list[str]] = {}
    for name, folder in outputs.folders.items():
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        disks.setdefault(existing.stat().st_dev, []).append(name)
    lines = []
    for names in disks.values():
        folder, needed = outputs.folders[names[0]], sum(outputs.sizes[name] for name in names)
        # What an earlier call wrote is not free, and is not written again.
        free = free_bytes(folder) + sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        parts = ", ".join(f"{name} {size(outputs.sizes[name])}" for name in names if outputs.sizes[name])
        line = f"{size(needed)} of {size(free)} free ({parts})"
        if needed > free:
            hint = "make room, move the cache (--cache.dir FOLDER), or use fewer captions (--corpus.limit N)"
            raise SettingsError(f"{folder}: the disk is too small, the run takes {line}; {hint}")
        lines.append(f"disk     {line}, {folder.absolute()}")
    return lines


def stage_seconds(recipe: Recipe, sample: Sample, student: Student, teacher: Teacher, speed: Speed) -> dict[str, float]:
    """Seconds that each stage still takes."""
    train, rows = recipe.train, sample.train
    newest = checkpoint.newest(recipe.folder / "checkpoints")
    steps = total_steps(train, rows) - (int(newest.stem.rpartition("-")[2]) if newest else 0)
    scored = steps / train.dev_every * min(DEV_CAPTIONS, sample.dev) if train.dev_every else 0.0
    cached = recipe.cache.shard_rows * len(list(recipe.cache_folder.glob("train/captions*/[0-9]*.safetensors")))
    positions = mean_positions(sample.pairs, sum_pads(train.pad_positions, rows), student, teacher)
    dev = sample.dev * recipe.window / positions  # dev captions have all positions
    return {
        "corpus": sample.seconds + START_SECONDS,
        "cache": (max(0, rows - cached) + dev) / processes().num_processes * speed.caption + START_SECONDS,
        "train": (steps + scored * DEV_COST / train.batch) * speed.step + START_SECONDS,
        "evaluate": dev * speed.caption + START_SECONDS,
        "export": START_SECONDS,
    }


def measure_speed(recipe: Recipe, sample: Sample, student: Student, teacher: Teacher) -> Speed:
    """Time the cache's and the training's work on a few captions, short and long. Changes the student.

    A batch that does not fit the GPU's memory is tried in halves, as the train stage does.
    """
    train, device, depth = recipe.train, student.bert.device, frozen_depth(recipe.train, student.depth)
    batch = train.batch // train.accumulate // processes().num_processes
    rows = max(recipe.cache.batch, batch) if device.type == "cuda" else PROBE_CAPTIONS
    ordered = sorted(sample.pairs, key=lambda pair: len(pair.en))
    pairs = (ordered[:: max(1, len(ordered) // rows)] * rows)[:rows]
    builder = CacheBuilder(teacher, student, pairs, depth, train.pad_positions, rows, recipe.cache.batch, sample.train)
    shards: list[tuple[Shard, Shard, Shard]] = []
    caption = _median_seconds(lambda: shards.append(builder.shard(0)), device) / rows
    if train.strategy == "ridge":
        return Speed(caption, 0.0, 0, _memory(device))
    captions, sums, frozen = shards[-1]
    cache = Cache([captions | (frozen if depth is not None else {})], rows, sums, teacher.widths)
    width, scale = student.bert.dimensions.width, 1e-3
    maps = [Ridge(torch.full((cache.width, width), scale), torch.zeros(cache.window, cache.width))]
    if cache.pooled_width:
        maps.append(Ridge(torch.full((cache.pooled_width, width), scale), torch.zeros(1, cache.pooled_width)))
    prepare(student, train, *(maps if train.start == "ridge" else [None]))
    student.to(device).train()
    trainable = list(checkpoint.trainable(student).values())
    optimiser = torch.optim.AdamW(trainable, lr=0.0, fused=True)
    loss, dataset = Loss.from_cache(cache, train, student, device), CaptionDataset(cache, train.contrast > 0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision(train))

    def one_pass() -> None:
        count = min(batch, rows)
        inputs = dataset[Microbatch(list(range(count)), 0, count)]
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            z, pooled = student(
                inputs["ids"], inputs.get("frozen_hidden"), depth or 0, inputs["positions"], inputs["flat_index"]
            )
        loss(z, pooled, inputs)["objective"].backward()

    while True:
        try:
            one_pass()
            update = _median_seconds(optimiser.step, device)  # its first call allocates the moments
            seconds = _median_seconds(one_pass, device) / min(batch, rows)
            break
        except RuntimeError as error:
            if batch % 2 or not is_out_of_memory(error):
                raise
            batch //= 2
    step = seconds * train.batch / processes().num_processes + update
    return Speed(caption, step, sum(parameter.numel() for parameter in trainable), _memory(device))


def _memory(device: torch.device) -> int:
    """Bytes: the most of a GPU since the start, or what this process has now."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of three calls after a first one, which is slower than the others."""
    seconds = []
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def size(number: float) -> str:
    """Bytes in words."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def in_words(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
