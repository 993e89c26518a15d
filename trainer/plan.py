"""The plan of a run: ten lines before the work. What does not fit is said there, with the flag that makes it fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from .artifact.export import FILE, installed
from .base.comfyui import install_folder
from .base.device import free_bytes, processes
from .base.recipe import Recipe, SettingsError
from .base.settings import require, sources
from .cache.budget import both_fit, gigabytes
from .cache.making import FEW
from .corpus.sample import Sample, sampled
from .models.download import Weights, missing_weights
from .models.freezing import trunk_depth
from .models.student import Student, load_student
from .models.teacher import Teacher, load_teacher
from .probe import Speed, measure
from .training import checkpoint
from .training.opening import check_batch, precision
from .training.schedule import total_steps

FIXED = 8  # seconds that a stage takes to start and to load the encoders
SCORED, SCORE = 512, 2 / 3  # captions of a scoring during training, and what one costs against a step's
LIBRARIES = 700_000_000  # bytes of memory
ACTIVATIONS = 24  # numbers that a position leaves for the backward pass in each layer that learns, in widths


@dataclass(frozen=True)
class Work:
    """A recipe with its encoders and captions, and how fast this machine is at it. `numbers` of the student's weights;
    what is `missing` of each model, by folder; `target`: where a ComfyUI gets the file."""

    recipe: Recipe
    student: Student
    teacher: Teacher
    sample: Sample
    speed: Speed
    numbers: int
    missing: dict[str, dict[str, Weights]]
    target: Path | None


@dataclass(frozen=True)
class Plan:
    """The plan in words, and the seconds that each stage still takes."""

    text: str
    seconds: dict[str, float]


def plan(recipe: Recipe) -> Plan:
    """Measure the speed of this machine and plan a run. Downloads configurations and tokenizers, no weights.

    Raises SettingsError when a disk is too small, and whatever is wrong with settings, models or corpus.
    """
    began = time.perf_counter()
    work = _work(recipe)
    seconds, train, sample = _seconds(work), recipe.train, work.sample
    number = "fp32" if precision(train) == "no" else precision(train)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    corpora = " + ".join(source.path for source in sources(recipe.corpus.train))
    copy = f", copied to {work.target}" if work.target else "; no ComfyUI is around this clone, --install names one"
    stages = ", ".join(f"{name} {span(value)}" for name, value in seconds.items())
    lines = [
        *(f"download {model}: {_download(parts)}" for model, parts in work.missing.items()),
        f"corpus   {corpora}: about {sample.train:,} pairs to learn from, {sample.dev:,} to score on",
        f"device   {device}, {number}",
        f"steps    {total_steps(train, sample.train):,} of {train.batch} captions, {train.strategy}",
        f"memory   {_memory(work)}",
        *_disks(work),
        f"file     {recipe.folder / FILE}{copy}",
        f"time     about {span(sum(seconds.values()))} beside the downloads ({stages}), by a probe of "
        f"{time.perf_counter() - began:.0f} s",
    ]
    return Plan("\n".join(f"plan: {line}" for line in lines), seconds)


def remaining(seconds: dict[str, float], stage: str) -> str:
    """How long a run takes from this stage on."""
    return span(sum(list(seconds.values())[list(seconds).index(stage) :]))


def _work(recipe: Recipe) -> Work:
    state, given = processes(), recipe.teacher
    check_batch(recipe.train, state.num_processes)
    comfyui = install_folder(recipe.install)
    target = installed(comfyui, recipe.folder.resolve().name) if comfyui else None
    chinese = require(recipe.student.model, "student.model", "the Chinese encoder")
    english = require(given.model, "teacher.model", "the English encoder")
    missing = {chinese: missing_weights(chinese, "student.model"), english: missing_weights(english, "teacher.model")}
    here = [not parts for parts in missing.values()]
    teacher = load_teacher(english, recipe.window, given.layer, given.tokenizer, state.device, here[-1])
    student = load_student(chinese, recipe.window, state.device, here[0])
    numbers = sum(parameter.numel() for parameter in student.parameters())
    sample = sampled(recipe, student.tokens.length, teacher.length)
    speed = measure(recipe, sample, student, teacher, state.num_processes)
    return Work(recipe, student, teacher, sample, speed, numbers, missing, target)


def _download(parts: dict[str, Weights]) -> str:
    if not parts:
        return "nothing, it is here"
    said = [f"{folder} {_part(each)}" if len(parts) > 1 else _part(each) for folder, each in parts.items()]
    return f"{' and '.join(said)} from {constants.ENDPOINT}"


def _part(weights: Weights) -> str:
    return size(weights.size) + (f" (the text encoder's of {size(weights.whole)})" if weights.table else "")


Place = tuple[str, Path, float]  # what is written, where, and its bytes


def _places(work: Work) -> list[Place]:
    """All that is written, checkpoints at their most."""
    recipe, train = work.recipe, work.recipe.train
    file = work.numbers * (2 if recipe.export.dtype == "float16" else 4)
    # Weights and two moments in fp32. The next one is written before the oldest goes, whose room the file and the final
    # weights take.
    weights, saves = 4 * work.speed.learning, -(-total_steps(train, work.sample.train) // train.save_every)
    each = weights * (3 + (train.patience is not None))
    checkpoints = max(each * min(saves, checkpoint.KEEP + 1) - file, each * min(saves, checkpoint.KEEP) + weights)
    downloads = sum(weights.size for parts in work.missing.values() for weights in parts.values())
    places: list[Place] = [("cache", recipe.cache_folder, _cached(work)), ("checkpoints", recipe.folder, checkpoints)]
    places += [("file", recipe.folder, file), ("downloads", Path(constants.HF_HUB_CACHE), downloads)]
    return places + ([("copy", work.target, file)] if work.target else [])


def _disks(work: Work) -> list[str]:
    """A line for each disk that is written to. Raises SettingsError for one that is too small."""
    disks: dict[int, list[Place]] = {}
    for place in _places(work):
        there = next(parent for parent in (place[1], *place[1].absolute().parents) if parent.exists())
        disks.setdefault(there.stat().st_dev, []).append(place)
    return [_disk(some) for some in disks.values()]


def _cached(work: Work) -> float:
    """Bytes of the cache."""
    recipe, student, rows = work.recipe, work.student, work.sample.train
    targets, states = gigabytes(recipe, rows, work.sample.pairs, student, work.teacher)
    stored = trunk_depth(recipe.train, student.depth) is not None and both_fit(recipe, rows, targets, states)
    return (targets + states * stored) * 1e9 + _dev(work, work.sample.dev)


def _dev(work: Work, rows: int) -> float:
    """Bytes of so many dev captions, which keep all positions."""
    whole = replace(work.recipe, train=replace(work.recipe.train, pad_positions=None))
    return sum(gigabytes(whole, rows, work.sample.pairs, work.student, work.teacher)) * 1e9


def _disk(places: list[Place]) -> str:
    folder, needed = places[0][1], sum(number for _, _, number in places)
    # What an earlier call wrote is not free, and not needed again.
    free = free_bytes(folder) + sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    said = f"{size(needed)} of {size(free)} free ({', '.join(f'{what} {size(n)}' for what, _, n in places if n)})"
    if needed <= free:
        return f"disk     {said}, {folder.absolute()}"
    raise SettingsError(
        f"{folder}: the disk is full before the end, the run takes {said}; make room, put the cache on another disk "
        "(--cache.dir FOLDER), or use fewer captions (--corpus.limit N)"
    )


def _memory(work: Work) -> str:
    """On a CPU by arithmetic: for the cache both encoders, and a shard four times, as it comes, joined, and twice in a
    file's bytes; for training the student, gradients, moments, activations, and a checkpoint twice in its bytes."""
    if work.speed.gpu_bytes:
        return f"{size(work.speed.gpu_bytes)} of the GPU's {size(torch.cuda.mem_get_info()[1])}"
    train, width = work.recipe.train, work.student.bert.config.hidden_size
    english = sum(parameter.numel() for model in work.teacher.models for parameter in model.parameters())
    dev, caching = work.sample.dev, work.numbers + english
    layers = work.student.depth - (trunk_depth(train, work.student.depth) or 0)
    activations = train.batch / train.accumulate * _positions(work) * layers * ACTIVATIONS * width
    # A teacher without a last norm is asked for the states of all layers, one encoder after the other.
    states = [
        m.config.num_hidden_layers * m.config.hidden_size * (not work.teacher.final_norm) for m in work.teacher.models
    ]
    caching += work.recipe.cache.batch * work.recipe.window * (width * 12 + max(states))
    caching += _dev(work, min(work.recipe.cache.shard_rows, dev))
    learning = work.speed.learning * (9 + 3 * (train.patience is not None))
    needed = LIBRARIES + 4 * max(caching, work.numbers + learning + activations)
    # Training reads the whole cache; scoring the dev captions, while an encoder is loaded.
    mapped = max(_cached(work), _dev(work, dev) + 4 * max(work.numbers, english))
    free = psutil.virtual_memory().available
    said = f"about {size(needed)} of {size(free)} free, and {size(mapped)} of mapped files where there is room"
    return said if needed < free else f"{said}: TOO LITTLE; add --train.accumulate 4 and --cache.batch 16"


def _positions(work: Work) -> float:
    """Mean positions that a caption keeps."""
    _, states = gigabytes(work.recipe, 1, work.sample.pairs, work.student, work.teacher)
    return states * 1e9 / 2 / work.student.bert.config.hidden_size


def _seconds(work: Work) -> dict[str, float]:
    """By stage, what is left of it."""
    recipe, train, rows = work.recipe, work.recipe.train, work.sample.train
    newest = checkpoint.newest(recipe.folder / "checkpoints")
    steps = total_steps(train, rows) - (int(newest.stem.rpartition("-")[2]) if newest else 0)
    scored = steps / train.dev_every * min(SCORED, work.sample.dev) if train.dev_every else 0.0
    done = recipe.cache.shard_rows * len(list(recipe.cache_folder.glob("train/captions*/[0-9]*.safetensors")))
    dev = work.sample.dev * (1 if rows <= FEW else recipe.window / _positions(work))  # which keep all positions
    return {
        "corpus": work.sample.seconds + FIXED,
        "cache": (max(0, rows - done) + dev) / processes().num_processes * work.speed.caption + FIXED,
        "train": (steps + scored * SCORE / train.batch) * work.speed.step + FIXED,
        "evaluate": dev * work.speed.caption + FIXED,
        "export": float(FIXED),
    }


def size(number: float) -> str:
    """Bytes in words."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def span(seconds: float) -> str:
    """A time in words."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole / 60:.0f} min" if whole < 6000 else f"{whole / 3600:.1f} h"
