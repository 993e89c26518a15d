"""Size of a cache, and whether the frozen hidden states are stored too: they halve a training step and double it."""

from __future__ import annotations

import logging

from ..base.files import free_bytes, write_text
from ..base.recipe import Recipe
from ..corpus.pairs import Pair
from ..models.freezing import frozen_depth
from ..models.student import Student
from ..models.teacher import Teacher
from .shards import omitted_note, part_names

SAMPLE = 1000  # captions from which the size is estimated
DISK_SHARE = 0.95  # of the free bytes
FP16, FP32, FP64 = 2, 4, 8  # bytes
logger = logging.getLogger(__name__)


def stored_depth(recipe: Recipe, pairs: list[Pair], student: Student, teacher: Teacher) -> int | None:
    """Number of frozen layers whose output is stored; None without such layers, or if their output does not fit.

    In the latter case a note beside the cache says so.
    """
    depth = frozen_depth(recipe.train, student.depth)
    if depth is None:
        return None
    folder = recipe.cache_folder / "train" / part_names(depth, recipe.train.pad_positions)[-1]
    if (folder / "settings.json").is_file():  # begun by an earlier call
        return depth
    targets, frozen = gigabytes(recipe, len(pairs), pairs[:: -(-len(pairs) // SAMPLE)], student, teacher)
    if fits(recipe, targets + frozen):
        omitted_note(folder).unlink(missing_ok=True)
        return depth
    line = (
        f"cache: {targets:.3g} GB of targets and {frozen:.3g} GB of frozen hidden states do not fit: targets alone are "
        "stored, and the frozen layers run in every step"
    )
    logger.info(line)
    write_text(omitted_note(folder), f"{line}\n")
    return None


def fits(recipe: Recipe, size: float) -> bool:
    """Whether a training cache of so many GB is within --cache.budget, or on the disk without one."""
    budget = recipe.cache.budget
    return size <= (DISK_SHARE * free_bytes(recipe.cache_folder) / 1e9 if budget is None else budget)


def gigabytes(recipe: Recipe, rows: int, sample: list[Pair], student: Student, teacher: Teacher) -> tuple[float, float]:
    """GB of so many training captions: targets with all that is stored beside them, and frozen hidden states."""
    positions = rows * mean_positions(sample, recipe.train.pad_positions, student, teacher)
    width, pooled = student.bert.dimensions.width, teacher.pooled_width
    sums = (width + recipe.window) * (width + teacher.width) + (pooled > 0) * (width + 1) * (width + pooled)
    beside = rows * FP16 * (width + pooled) + FP32 * positions + FP64 * sums  # sentence vectors, ids, sums
    return (FP16 * positions * teacher.width + beside) / 1e9, FP16 * positions * width / 1e9


def mean_positions(pairs: list[Pair], pads: int | None, student: Student, teacher: Teacher) -> float:
    """Mean number of positions of a caption: its text and `pads` padded ones, all for None."""
    if pads is None:
        return teacher.window
    lengths = [max(student.tokens.length(pair.zh), teacher.length(pair.en)) for pair in pairs]
    return sum(min(teacher.window, length + pads) for length in lengths) / len(lengths)
