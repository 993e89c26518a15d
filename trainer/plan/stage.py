"""The plan of a run: some lines before the work, and what does not fit said now, with the flag that makes it fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from ..artifact import FILE, installed
from ..base import Recipe, SettingsError, free_bytes, install_folder, processes, require, sources
from ..corpus import sampled
from ..encoders import Weights, load_student, load_teacher, missing_weights
from ..training import check_settings, precision
from .needs import Work
from .probe import measure


@dataclass(frozen=True)
class Plan:
    """What is printed, and the seconds that each stage still takes."""

    text: str
    seconds: dict[str, float]

    def left(self, stage: str) -> str:
        """How long it takes from this stage on."""
        names = list(self.seconds)
        return span(sum(self.seconds[name] for name in names[names.index(stage) :]))


def made(recipe: Recipe) -> Plan:
    """The plan of a recipe on this machine. Downloads configurations and tokenizers, no weights.

    Raises SettingsError when a disk or a GPU is too small, and whatever is wrong with settings, models or corpus.
    """
    began = time.perf_counter()
    work = _work(recipe)
    seconds, train = work.seconds(), recipe.train
    number = "fp32" if precision(train) == "no" else precision(train)
    copy = f", copied to {work.target}" if work.target else "; no ComfyUI is around this clone, --install names one"
    stages = ", ".join(f"{name} {span(value)}" for name, value in seconds.items())
    corpora = " + ".join(source.path for source in sources(recipe.corpus.train))
    lines = [
        *(f"download {model}: {_download(weights)}" for model, weights in work.missing.items()),
        f"corpus   {corpora}: about {work.sample.train:,} pairs to learn from, {work.sample.dev:,} to score on",
        f"device   {_device()}, {number}",
        f"steps    {work.steps:,} of {train.batch} captions, {train.strategy}",
        f"memory   {_memory(work)}",
        *_disks(work.disk()),
        f"file     {recipe.folder / FILE}, {size(work.file)}{copy}",
        f"time     about {span(sum(seconds.values()))} beside the downloads ({stages}), by a probe of "
        f"{time.perf_counter() - began:.0f} s",
    ]
    return Plan("\n".join(f"plan: {line}" for line in lines), seconds)


def _work(recipe: Recipe) -> Work:
    state, given, train = processes(), recipe.teacher, recipe.train
    check_settings(train, state.num_processes)
    comfyui = install_folder(recipe.install)
    target = installed(comfyui, recipe.folder.resolve().name) if comfyui else None
    chinese = require(recipe.student.model, "student.model", "the Chinese encoder")
    english = require(given.model, "teacher.model", "the English encoder")
    missing = {chinese: missing_weights(chinese, "student.model"), english: missing_weights(english, "teacher.model")}
    here = [weights is None for weights in missing.values()]
    teacher = load_teacher(english, recipe.window, given.layer, given.tokenizer, state.device, here[-1])
    while True:
        student = load_student(chinese, recipe.window, state.device, here[0])
        numbers = sum(parameter.numel() for parameter in student.parameters())
        sample = sampled(recipe, student.tokens.length, teacher.length)
        try:
            speed = measure(replace(recipe, train=train), sample, student, teacher, state.num_processes)
        except torch.cuda.OutOfMemoryError:  # the train stage divides its steps in the same way
            if train.batch % (2 * train.accumulate * state.num_processes):
                raise
            train = replace(train, accumulate=2 * train.accumulate)
            continue
        return Work(recipe, student, teacher, sample, speed, numbers, missing, target)


def _disks(places: list[tuple[str, Path, float]]) -> list[str]:
    """A line for each disk. Raises SettingsError for one that is too small."""
    by_disk: dict[int, list[tuple[str, Path, float]]] = {}
    for what, path, needed in places:
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        by_disk.setdefault(there.stat().st_dev, []).append((what, path, needed))
    lines = []
    for entries in by_disk.values():
        needed, folder = sum(entry[2] for entry in entries), entries[0][1]
        # What an earlier call wrote is not free, and not needed again.
        free = free_bytes(folder) + sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        said = f"{size(needed)} of {size(free)} free ({', '.join(f'{what} {size(n)}' for what, _, n in entries if n)})"
        if needed > free:
            raise SettingsError(
                f"{folder}: the disk is full before the end, the run takes {said}; make room, put the cache on another "
                "disk (--cache.dir FOLDER), or use fewer captions (--corpus.limit N)"
            )
        lines.append(f"disk     {said}, {folder.absolute()}")
    return lines


def _memory(work: Work) -> str:
    if work.speed.gpu_bytes:
        return f"{size(work.speed.gpu_bytes)} of the GPU's {size(torch.cuda.mem_get_info()[1])}"
    needed, free = work.memory(), psutil.virtual_memory().available
    said = f"about {size(needed)} of {size(free)} free"
    return said if needed < free else f"{said}: TOO LITTLE; add --train.accumulate 4 and --cache.batch 16"


def _download(weights: Weights | None) -> str:
    if weights is None:
        return "nothing, it is here"
    part = f" (the text encoder's of {size(weights.whole)})" if weights.table else ""
    return f"{size(weights.size)}{part} from {constants.ENDPOINT}"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def size(number: float) -> str:
    """Bytes in words."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def span(seconds: float) -> str:
    """A time in words."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
