"""The plan of a run before its work: downloads, steps, memory, disks and time, by a probe of a few captions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from huggingface_hub import constants

from .artifact.export import FILE, install_path
from .base.comfyui import install_folder
from .base.device import gpu_problem, is_out_of_memory, processes, use_device
from .base.files import free_bytes
from .base.recipe import Recipe, SettingsError
from .base.settings import require, sources
from .cache.builder import CacheBuilder, sum_pads
from .cache.shards import Cache
from .corpus.pairs import Pair
from .corpus.stage import Sample, sample_pairs
from .models.download import missing_weights
from .models.freezing import frozen_depth
from .models.load import resolve
from .models.student import Student, student_from_recipe
from .models.teacher import Teacher, teacher_from_recipe
from .progress import Counter, Listener
from .training import checkpoint
from .training.data import caption_batch
from .training.losses import Loss
from .training.schedule import total_steps
from .training.setup import (
    MIN_SHARE,
    check_batch,
    make_accelerator,
    precision,
    prepare_student,
    train_processes,
    unchanged_process,
)

START_SECONDS = 8.0  # of a stage, to load the encoders
CPU_CAPTIONS = 8  # of the probe; on a GPU a whole batch, which shows its memory
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The plan in words, the seconds that each stage still takes, and the bytes of what is written."""

    text: str
    seconds: dict[str, float]
    sizes: dict[str, float]


def plan(recipe: Recipe, progress: Listener | None = None) -> Plan:
    """Measure this machine and plan a run. Downloads configurations and tokenizers, no weights.

    The listener gets Progress("plan", 0, 0) at least once a second while it measures. Raises SettingsError when a disk
    is too small, and whatever is wrong with settings, models or corpus.
    """
    began, state, train = time.perf_counter(), processes(), recipe.train
    training_processes = train_processes(train)
    check_batch(train, training_processes)
    comfyui = install_folder(recipe.install)
    copy = install_path(comfyui, recipe.folder.resolve().name) if comfyui else None
    # The teacher first: where the hub is out of reach, a mistyped checkpoint file is named nevertheless.
    given = {"teacher.model": recipe.teacher.model, "student.model": recipe.student.model}
    models = {flag: require(model, flag, "an encoder") for flag, model in given.items()}
    folders = {flag: resolve(model, flag) for flag, model in models.items()}
    missing = {flag: missing_weights(models[flag], folder, flag) for flag, folder in folders.items()}
    downloads = {flag: sum(weights.size for weights in parts) for flag, parts in missing.items()}
    resident, gpu = peak_memory(state.device), state.device.type == "cuda"
    free = torch.cuda.mem_get_info(state.device)[0] if gpu else psutil.virtual_memory().available + resident
    # Where weights are missing, random ones of the same shapes take as long.
    teacher = teacher_from_recipe(recipe, state.device, weights=not missing["teacher.model"])
    student = student_from_recipe(recipe, state.device, weights=not missing["student.model"])
    sample = sample_pairs(recipe, student.tokens.length, teacher.length, progress)
    file_bytes = (2 if recipe.export.dtype == "float16" else 4) * sum(p.numel() for p in student.parameters())
    with Counter("plan", 0, progress).repeated_during_forward():
        caption_seconds, step_seconds, memory, trainable = measure(recipe, sample, student, teacher)
    steps, pads = total_steps(train, sample.train), sum_pads(train.pad_positions, sample.train)
    # A dev caption takes all positions of the window.
    dev = sample.dev * recipe.window / mean_positions(sample.pairs, pads, student, teacher)
    seconds = {  # of a stage that was stopped, as if it began anew
        "corpus": START_SECONDS + sample.seconds,
        "cache": START_SECONDS + (sample.train + dev) / state.num_processes * caption_seconds,
        "train": START_SECONDS + steps * step_seconds,
        "evaluate": START_SECONDS + dev * caption_seconds,
        "export": START_SECONDS,
    }
    # A checkpoint has weights and two moments in fp32, and is written before the oldest is deleted; then final weights.
    copies = 3 * min(-(-steps // train.save_every), checkpoint.KEEP + 1) + 1
    outputs = {
        "cache": (recipe.cache_folder, cache_bytes(recipe, sample, student, teacher)),
        "checkpoints": (recipe.folder, 4.0 * trainable * copies),
        "file": (recipe.folder, float(file_bytes)),
        "downloads": (Path(constants.HF_HUB_CACHE), float(sum(downloads.values()))),
    }
    device = torch.cuda.get_device_name(state.device) if gpu else f"CPU, threads: {torch.get_num_threads()}"
    lines = []
    for flag, number in downloads.items():
        origin = f"{format_bytes(number)} from {constants.ENDPOINT}"
        lines.append(f"download {models[flag]}: {origin if number else 'nothing, it is already on this machine'}")
    corpora = " + ".join(source.path for source in sources(recipe.corpus.train))
    lines.append(f"corpus   {corpora}: about {sample.train:,} pairs to learn from, {sample.dev:,} to score on")
    lines.append(f"device   {device}, {'fp32' if precision(train) == 'no' else precision(train)}")
    if recipe.device != "cpu" and (problem := gpu_problem()):
        lines.append(f"device   {problem}")
    if training_processes < state.num_processes:
        lines.append(
            f"device   {state.num_processes} GPUs share the cache, one trains: below {MIN_SHARE} captions a GPU, of "
            f"--train.batch {train.batch}, exchanging the gradients would take longer than a step"
        )
    lines.append(f"steps    {steps:,} of {train.batch} captions, {train.strategy}")
    lines.append(f"memory   about {format_bytes(memory)} of {format_bytes(free)} free")
    if memory > 0.7 * free:
        short = "; TOO LITTLE" if memory > free else ""
        lines[-1] += f"{short}; --train.accumulate 4 --cache.batch 16 takes less"
    lines += check_disks(outputs)
    lines.append(
        f"file     {recipe.folder / FILE}, {f'copied to {copy}' if copy else 'not copied; --install names a ComfyUI'}"
    )
    stages = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items())
    lines.append(
        f"time     about {format_seconds(sum(seconds.values()))} beside the downloads ({stages}), by a probe of "
        f"{time.perf_counter() - began:.0f} s"
    )
    text = "\n".join(f"plan: {line}" for line in lines)
    return Plan(text, seconds, {name: number for name, (_, number) in outputs.items()})


def log_plan(recipe: Recipe, progress: Listener | None = None) -> None:
    """`run --plan`: the plan in the log."""
    use_device(recipe.device)
    logger.info(plan(recipe, progress).text)


def measure(recipe: Recipe, sample: Sample, student: Student, teacher: Teacher) -> tuple[float, float, int, int]:
    """Seconds of a cached caption and of a step, bytes of memory, and trainable weights, on a few pairs of the sample.

    A batch that does not fit the GPU's memory is tried in halves, as in training. Changes the student, and moves the
    teacher to the CPU.
    """
    train, depth, device = recipe.train, frozen_depth(recipe.train, student.depth), processes().device
    batch = train.batch // train.accumulate // train_processes(train)
    count = max(recipe.cache.batch, batch) if device.type == "cuda" else CPU_CAPTIONS
    ordered = sorted(sample.pairs, key=lambda pair: len(pair.en))
    pairs = (ordered[:: max(1, len(ordered) // count)] * count)[:count]
    builder = CacheBuilder(teacher, student, pairs, depth, train.pad_positions, count, recipe.cache.batch, sample.train)
    captions, sums, frozen = builder.shard(0)
    caption_seconds, memory = mean_seconds(device, lambda: builder.shard(0)) / count, peak_memory(device)
    if train.strategy == "ridge":
        return caption_seconds, 0.0, memory, 0
    cache = Cache([captions | (frozen if depth is not None else {})], count, sums, teacher.widths)
    for model in teacher.models:
        model.to("cpu")
    with unchanged_process():
        prepare_student(student, cache, train)
        accelerator = make_accelerator(train)
        parameters = list(checkpoint.trainable(student.to(device).train()).values())
        optimiser = torch.optim.AdamW(parameters, lr=0.0, fused=True)
        loss = Loss(cache, train, student, device)

        def one_pass() -> None:
            rows = list(range(min(batch, count)))
            inputs = caption_batch(cache, rows, rows if train.contrast else None)
            inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            hidden, positions = inputs.get("frozen_hidden"), inputs["positions"]
            with accelerator.autocast():
                z, pooled = student(inputs["ids"], hidden, depth or 0, positions, inputs["flat_index"])
            loss(z, pooled, inputs)["objective"].backward()

        while True:
            try:
                one_pass()
                optimiser.step()  # allocates the moments
                seconds = mean_seconds(device, one_pass) / min(batch, count)
                break
            except RuntimeError as error:
                if batch % 2 or not is_out_of_memory(error):
                    raise
                batch //= 2
            clear_device_cache()
            peak_memory(device)  # of the attempt that failed
    step_seconds = seconds * train.batch / train_processes(train) + mean_seconds(device, optimiser.step)
    trainable = sum(parameter.numel() for parameter in parameters)
    return caption_seconds, step_seconds, max(memory, peak_memory(device)), trainable


def mean_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Mean seconds of three calls. The caller makes a first one, which is slower."""
    began = time.perf_counter()
    for _ in range(3):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / 3


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most since the last call, of a GPU; on a CPU those of now."""
    if device.type != "cuda":
        return psutil.Process().memory_info().rss
    reserved = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return reserved


def cache_bytes(recipe: Recipe, sample: Sample, student: Student, teacher: Teacher) -> float:
    """Bytes of the cache of training and dev captions, whose values are fp16, ids and positions, and fp64 sums."""
    width, pooled = student.bert.dimensions.width, teacher.pooled_width
    sums = 8 * ((width + recipe.window) * (width + teacher.width) + (pooled > 0) * (width + 1) * (width + pooled))

    def part(captions: int, pads: int | None, stored_width: int) -> float:
        positions = mean_positions(sample.pairs, pads, student, teacher)
        return sums + captions * (positions * (2 * (teacher.width + stored_width) + 6) + 2 * (width + pooled))

    stored_width = 0 if frozen_depth(recipe.train, student.depth) is None else width
    return part(sample.train, recipe.train.pad_positions, stored_width) + part(sample.dev, None, width)


def mean_positions(pairs: list[Pair], pads: int | None, student: Student, teacher: Teacher) -> float:
    """Mean number of positions of a caption: its text and `pads` padded ones, all for None."""
    if pads is None:
        return teacher.window
    lengths = [max(student.tokens.length(pair.zh), teacher.length(pair.en)) for pair in pairs]
    return sum(min(teacher.window, length + pads) for length in lengths) / len(lengths)


def check_disks(outputs: dict[str, tuple[Path, float]]) -> list[str]:
    """A line for each disk that is written to. Raises SettingsError for one that is too small."""
    disks: dict[int, list[str]] = {}
    for name, (folder, number) in outputs.items():
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if number:
            disks.setdefault(existing.stat().st_dev, []).append(name)
    lines = []
    for names in disks.values():
        folder, needed = outputs[names[0]][0].absolute(), sum(outputs[name][1] for name in names)
        parts = ", ".join(f"{name} {format_bytes(outputs[name][1])}" for name in names)
        lines.append(f"disk     {format_bytes(needed)} of {format_bytes(free_bytes(folder))} free ({parts}), {folder}")
        if needed > free_bytes(folder):
            hint = "free some space, move the cache (--cache.dir FOLDER), or use fewer captions (--corpus.limit N)"
            raise SettingsError(f"the run takes {lines[-1][9:]}: too little; {hint}")
    return lines


def format_bytes(number: float) -> str:
    """A number of bytes with its unit: 1.60 GB, 204 MB."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def format_seconds(seconds: float) -> str:
    """A duration with its unit: 42 s, 12 min, 3.0 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
