"""What a run needs: bytes of disk and of memory, and seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import constants

from ..base import Recipe, processes
from ..cache import FEW, both_fit, gigabytes
from ..corpus import Sample
from ..encoders import Student, Teacher, Weights, trunk_depth
from ..training import checkpoint, total_steps
from .probe import Speed

FIXED = 8  # seconds that a stage takes to start and to load the encoders
SCORED, SCORE = 512, 2 / 3  # captions of a scoring during training, and what one costs against a step's
LIBRARIES = 600_000_000  # bytes of memory
ACTIVATIONS = 20  # numbers that a position leaves for the backward pass in each layer that learns, in widths


@dataclass(frozen=True)
class Work:
    """A recipe with its encoders and captions, and how fast this machine is at it."""

    recipe: Recipe
    student: Student
    teacher: Teacher
    sample: Sample
    speed: Speed
    numbers: int  # of the student's weights
    missing: dict[str, Weights | None]  # by model, what is downloaded
    target: Path | None  # where a ComfyUI gets the file

    @cached_property
    def steps(self) -> int:
        """Optimiser steps."""
        return total_steps(self.recipe.train, self.sample.train)

    @cached_property
    def file(self) -> int:
        """Bytes of the encoder's file."""
        return self.numbers * (2 if self.recipe.export.dtype == "float16" else 4)

    @cached_property
    def positions(self) -> float:
        """Mean positions that a caption keeps."""
        states = gigabytes(self.recipe, 1, self.sample.pairs, self.student, self.teacher)[1]
        return states * 1e9 / 2 / self.student.bert.config.hidden_size

    def disk(self) -> list[tuple[str, Path, float]]:
        """What is written, where, and its bytes when it is largest."""
        recipe, dev, rows = self.recipe, self.sample.dev, self.sample.train
        targets, states = gigabytes(recipe, rows, self.sample.pairs, self.student, self.teacher)
        stored = trunk_depth(recipe.train, self.student.depth) is not None and both_fit(recipe, rows, targets, states)
        whole = dev * recipe.window * (self.student.bert.config.hidden_size + self.teacher.width) * 2
        # Weights and two moments in fp32, and the next one is written before the oldest goes.
        checkpoints = self.speed.learning * 4 * (3 + (recipe.train.patience is not None)) * (checkpoint.KEEP + 1)
        return [
            ("cache", recipe.cache_folder, (targets + states * stored) * 1e9 + whole),
            ("checkpoints", recipe.folder, checkpoints),
            ("file", recipe.folder, self.file),
            ("copy of it", self.target or recipe.folder, self.file if self.target else 0),
            ("downloads", Path(constants.HF_HUB_CACHE), sum(w.size for w in self.missing.values() if w)),
        ]

    def memory(self) -> float:
        """Bytes of a CPU's memory, by arithmetic: for the cache both encoders; for a step the student, gradients, two
        moments and activations."""
        train, width = self.recipe.train, self.student.bert.config.hidden_size
        caching = self.numbers + sum(parameter.numel() for parameter in self.teacher.model.parameters())
        caching += self.recipe.cache.batch * self.recipe.window * width * 12
        layers = self.student.depth - (trunk_depth(train, self.student.depth) or 0)
        activations = train.batch / train.accumulate * self.positions * layers * ACTIVATIONS * width
        return LIBRARIES + 4 * max(caching, self.numbers + 3 * self.speed.learning + activations)

    def seconds(self) -> dict[str, float]:
        """By stage, what is left of it."""
        recipe, train, rows = self.recipe, self.recipe.train, self.sample.train
        newest = checkpoint.newest(recipe.folder / "checkpoints")
        left = self.steps - (int(newest.stem.rpartition("-")[2]) if newest else 0)
        scored = left / train.dev_every * min(SCORED, self.sample.dev) if train.dev_every else 0.0
        done = recipe.cache.shard_rows * len(list(recipe.cache_folder.glob("train/captions*/[0-9]*.safetensors")))
        dev = self.sample.dev * (1 if rows <= FEW else recipe.window / self.positions)  # which keep all positions
        return {
            "corpus": self.sample.seconds + FIXED,
            "cache": (max(0, rows - done) + dev) / processes().num_processes * self.speed.caption + FIXED,
            "train": (left + scored * SCORE / train.batch) * self.speed.step + FIXED,
            "evaluate": dev * self.speed.caption + FIXED,
            "export": float(FIXED),
        }
