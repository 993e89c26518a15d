"""The plan of a run before its work: downloads, steps, memory, disks and time, by a probe of a few captions."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import constants

from .artifact.export import FILE, install_path
from .base.comfyui import install_folder
from .base.device import gpu_problem, processes, use_device
from .base.files import free_bytes
from .base.recipe import Recipe, SettingsError
from .base.settings import require, sources
from .cache.builder import sum_pads
from .cache.size import gigabytes, mean_positions
from .corpus.sample import Sample, sampled
from .models.download import Weights, missing_weights
from .models.freezing import frozen_depth
from .models.student import Student, student_from_recipe
from .models.teacher import Teacher, teacher_from_recipe
from .probe import Probe
from .progress import Counter, Listener
from .training import checkpoint
from .training.schedule import total_steps
from .training.setup import check_batch, precision

START_SECONDS = 8.0  # of a stage, to load the encoders
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The plan in words, the seconds that each stage still takes, and the bytes of what is written."""

    text: str
    seconds: dict[str, float]
    sizes: dict[str, float]


def plan(recipe: Recipe, progress: Listener | None = None) -> Plan:
    """Measure this machine and plan a run. Downloads configurations and tokenizers, no weights.

    The listener gets Progress("plan", 0, 0) at least once a second while it measures.

    Raises SettingsError when a disk is too small, and whatever is wrong with settings, models or corpus.
    """
    began, state, train = time.perf_counter(), processes(), recipe.train
    check_batch(train, state.num_processes)
    comfyui = install_folder(recipe.install)
    copy = install_path(comfyui, recipe.folder.resolve().name) if comfyui else None
    # The teacher first: where the hub is out of reach, a mistyped checkpoint file is named nevertheless.
    given = {"teacher.model": recipe.teacher.model, "student.model": recipe.student.model}
    models = {flag: require(model, flag, "an encoder") for flag, model in given.items()}
    missing = {flag: missing_weights(model, flag, recipe.endpoint) for flag, model in models.items()}
    probe = Probe(state.device)
    # Where weights are missing, random ones of the same shapes take as long.
    teacher = teacher_from_recipe(recipe, state.device, weights=not missing["teacher.model"])
    student = student_from_recipe(recipe, state.device, weights=not missing["student.model"])
    sample = sampled(recipe, student.tokens.length, teacher.length, progress)
    student_bytes = (2 if recipe.export.dtype == "float16" else 4) * sum(p.numel() for p in student.parameters())
    with Counter("plan", 0, progress).repeated_in_batches():
        probe.measure(recipe, sample.pairs, sample.train, student, teacher)
    seconds = stage_seconds(recipe, sample, student, teacher, probe)
    outputs = cache_and_checkpoints(recipe, sample, student, teacher, probe.trainable)
    outputs["file"] = recipe.folder, student_bytes
    downloads = sum(weights.size for parts in missing.values() for weights in parts)
    outputs["downloads"] = Path(constants.HF_HUB_CACHE), downloads
    if copy:
        outputs["copy"] = copy.parent, student_bytes
    problem = gpu_problem() if recipe.device != "cpu" else None
    gpu = state.device.type == "cuda"
    device = torch.cuda.get_device_name(state.device) if gpu else f"CPU, threads: {torch.get_num_threads()}"
    installs = f"copied to {copy}" if copy else "not copied; --install names a ComfyUI"
    stages = ", ".join(f"{name} {in_words(value)}" for name, value in seconds.items())
    corpora = " + ".join(source.path for source in sources(recipe.corpus.train))
    lines = [
        *(f"download {models[flag]}: {_download(parts, recipe.endpoint)}" for flag, parts in missing.items()),
        f"corpus   {corpora}: about {sample.train:,} pairs to learn from, {sample.dev:,} to score on",
        f"device   {device}, {'fp32' if precision(train) == 'no' else precision(train)}",
        *([f"device   {problem}"] if problem else []),
        f"steps    {total_steps(train, sample.train):,} of {train.batch} captions, {train.strategy}",
        f"memory   {memory_line(probe)}",
        *check_disks(outputs),
        f"file     {recipe.folder / FILE}, {installs}",
        f"time     about {in_words(sum(seconds.values()))} beside the downloads ({stages}), by a probe of "
        f"{time.perf_counter() - began:.0f} s",
    ]
    sizes = {name: number for name, (_, number) in outputs.items()}
    return Plan("\n".join(f"plan: {line}" for line in lines), seconds, sizes)


def log_plan(recipe: Recipe, progress: Listener | None = None) -> None:
    """`run --plan`: the plan in the log."""
    use_device(recipe.device)
    logger.info(plan(recipe, progress).text)


def _download(missing: list[Weights], endpoint: str | None) -> str:
    if not missing:
        return "nothing, it is already on this machine"
    return f"{size(sum(weights.size for weights in missing))} from {endpoint or constants.ENDPOINT}"


def cache_and_checkpoints(
    recipe: Recipe, sample: Sample, student: Student, teacher: Teacher, trainable: int
) -> dict[str, tuple[Path, float]]:
    """Folder and bytes of the cache, and of the checkpoints at their most."""
    train, pairs = recipe.train, sample.pairs
    targets, states = gigabytes(recipe, sample.train, pairs, student, teacher)
    stored = frozen_depth(train, student.depth) is not None
    all_positions = replace(recipe, train=replace(train, pad_positions=None))
    dev = sum(gigabytes(all_positions, sample.dev, pairs, student, teacher))
    saves = -(-total_steps(train, sample.train) // train.save_every)
    # Weights and two moments in fp32. A checkpoint is written before the oldest is deleted; the final weights follow.
    checkpoints = 4 * trainable * max(3 * min(saves, checkpoint.KEEP + 1), 3 * min(saves, checkpoint.KEEP) + 1)
    cache = (targets + states * stored + dev) * 1e9
    return {"cache": (recipe.cache_folder, cache), "checkpoints": (recipe.folder, float(checkpoints))}


def check_disks(outputs: dict[str, tuple[Path, float]]) -> list[str]:
    """A line for each disk that is written to. Raises SettingsError for one that is too small."""
    disks: dict[int, list[str]] = {}
    for name, (folder, _) in outputs.items():
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        disks.setdefault(existing.stat().st_dev, []).append(name)
    lines = []
    for names in disks.values():
        folder, needed = outputs[names[0]][0], sum(outputs[name][1] for name in names)
        free = free_bytes(folder)
        parts = ", ".join(f"{name} {size(outputs[name][1])}" for name in names if outputs[name][1])
        line = f"{size(needed)} of {size(free)} free ({parts})"
        if needed > free:
            hint = "make room, move the cache (--cache.dir FOLDER), or use fewer captions (--corpus.limit N)"
            raise SettingsError(f"{folder}: the disk is too small, the run takes {line}; {hint}")
        lines.append(f"disk     {line}, {folder.absolute()}")
    return lines


def stage_seconds(recipe: Recipe, sample: Sample, student: Student, teacher: Teacher, probe: Probe) -> dict[str, float]:
    """Seconds of each stage; of one that was stopped, as if it began anew."""
    train = recipe.train
    positions = mean_positions(sample.pairs, sum_pads(train.pad_positions, sample.train), student, teacher)
    dev = sample.dev * recipe.window / positions  # dev captions have all positions
    work = {
        "corpus": sample.seconds,
        "cache": (sample.train + dev) / processes().num_processes * probe.caption_seconds,
        "train": total_steps(train, sample.train) * probe.step_seconds,
        "evaluate": dev * probe.caption_seconds,
        "export": 0.0,
    }
    return {stage: seconds + START_SECONDS for stage, seconds in work.items()}


def memory_line(probe: Probe) -> str:
    """Needed and free memory, and what to do if there may be too little."""
    line = f"about {size(probe.memory)} of {size(probe.free)} free"
    if probe.memory <= 0.7 * probe.free:
        return line
    short = "; TOO LITTLE" if probe.memory > probe.free else ""
    return f"{line}{short}; --train.accumulate 4 --cache.batch 16 takes less"


def size(number: float) -> str:
    """Bytes in words."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def in_words(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
