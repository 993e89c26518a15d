"""What a run needs: bytes of disk and of memory, and seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from ..base import Recipe, processes
from ..cache import both_fit, gigabytes
from ..corpus import Sample
from ..encoders import Student, Teacher, Weights, trunk_depth
from ..training import checkpoint, total_steps
from .probe import Speed

FIXED = 8  # seconds that a stage takes to start and to load the encoders
SCORED = 512  # captions of a scoring during training, and what one costs against a caption of a step: forwards alone,
SCORE = 2 / 3  # but through all layers
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

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return total_steps(self.recipe.train, self.sample.train)

    @property
    def file(self) -> int:
        """Bytes of the encoder's file."""
        return self.numbers * (2 if self.recipe.export.dtype == "float16" else 4)

    def disk(self) -> list[tuple[str, Path, float]]:
        """What is written, where, and its bytes when it is largest."""
        recipe, sample, width = self.recipe, self.sample, self.student.bert.config.hidden_size
        targets, states = gigabytes(recipe, sample.train, sample.pairs, self.student, self.teacher)
        trunk = trunk_depth(recipe.train, self.student.depth) is not None
        trunk = trunk and both_fit(recipe, sample.train, targets, states)
        dev = sample.dev * recipe.window * (width + self.teacher.width) * 2
        # Weights and two moments in fp32, and the next one is written before the oldest goes.
        checkpoints = self.speed.learning * 4 * (3 + (recipe.train.patience is not None)) * (checkpoint.KEEP + 1)
        downloads = sum(weights.size for weights in self.missing.values() if weights)
        return [
            ("cache", recipe.cache_folder, (targets + states * trunk) * 1e9 + dev),
            ("checkpoints", recipe.folder, checkpoints),
            ("file", recipe.folder, self.file),
            ("copy of it", self.target or recipe.folder, self.file if self.target else 0),
            ("downloads", Path(constants.HF_HUB_CACHE), downloads),
        ]

    def memory(self) -> float:
        """Bytes of a CPU's memory, by arithmetic: for the cache both encoders; for a step the student, gradients, two
        moments and activations."""
        recipe, train, width = self.recipe, self.recipe.train, self.student.bert.config.hidden_size
        other = sum(parameter.numel() for parameter in self.teacher.model.parameters())
        positions = gigabytes(recipe, 1, self.sample.pairs, self.student, self.teacher)[1] * 1e9 / (2 * width)
        layers = self.student.depth - (trunk_depth(train, self.student.depth) or 0)
        step = self.numbers + 3 * self.speed.learning
        step += train.batch / train.accumulate * positions * layers * ACTIVATIONS * width
        return LIBRARIES + 4 * max(self.numbers + other + recipe.cache.batch * recipe.window * width * 12, step)

    def seconds(self) -> dict[str, float]:
        """By stage, what is left of it."""
        train, dev = self.recipe.train, self.sample.dev
        folder = self.recipe.folder / "checkpoints"
        newest = checkpoint.newest(folder)
        left = self.steps - (int(newest.stem.rpartition("-")[2]) if newest else 0)
        left = 0 if checkpoint.final(folder).is_file() else left
        scorings = (left // train.dev_every + 1) * min(SCORED, dev) / train.batch * SCORE if train.dev_every else 0
        done = self.recipe.cache.shard_rows * len(list(self.recipe.cache_folder.glob("*/captions*/[0-9]*.safetensors")))
        captions = max(0, self.sample.train + dev - done) / processes().num_processes
        return {
            "corpus": self.sample.seconds + FIXED,
            "cache": captions * self.speed.caption + FIXED,
            "train": (left + scorings * bool(left)) * self.speed.step + FIXED,
            "evaluate": dev * self.speed.caption + FIXED,
            "export": float(FIXED),
        }
