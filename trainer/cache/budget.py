"""Whether the frozen hidden states are stored beside the targets: it halves a training step and doubles the cache."""

from __future__ import annotations

import logging

from ..base.disk import free_bytes
from ..base.files import write_text
from ..base.recipe import Recipe, SettingsError
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
    """Number of frozen layers whose output is stored; None without such layers, or without room, which is noted.

    Raises SettingsError if --cache.budget is too small for the targets.
    """
    depth, pads = frozen_depth(recipe.train, student.depth), recipe.train.pad_positions
    if pads is not None and pads < 1:  # nothing would stand for the padding that is left out
        raise SettingsError(f"--train.pad_positions {pads}: give 1 or more, or null for all padded positions")
    if depth is None:
        return None
    folder = recipe.cache_folder / "train" / part_names(depth, pads)[-1]
    if (folder / "settings.json").is_file():  # begun by an earlier call
        return depth
    targets, states = gigabytes(recipe, len(pairs), pairs[:: -(-len(pairs) // SAMPLE)], student, teacher)
    fits = fits_both(recipe, len(pairs), targets, states)
    line = (
        f"cache: {len(pairs):,} captions take {targets:.3g} GB of targets and {states:.3g} GB of frozen hidden states; "
        f"{available(recipe):.3g} GB are available: "
    ) + ("both are stored" if fits else "targets alone are stored, and the frozen layers run in every step")
    logger.info(line)
    if not fits:
        write_text(omitted_note(folder), f"{line}\n")
        return None
    omitted_note(folder).unlink(missing_ok=True)
    return depth


def fits_both(recipe: Recipe, rows: int, targets: float, states: float) -> bool:
    """Whether targets and states, in GB, fit. Raises SettingsError if --cache.budget is too small for the targets."""
    if recipe.cache.budget is not None and targets > recipe.cache.budget:
        raise SettingsError(
            f"--cache.budget {recipe.cache.budget:g}: the targets of {rows:,} captions alone take {targets:.3g} GB; "
            "give more, or use fewer captions (--corpus.limit)"
        )
    return targets + states <= available(recipe)


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


def available(recipe: Recipe) -> float:
    """GB that the cache of the training pairs may take."""
    if recipe.cache.budget is not None:
        return recipe.cache.budget
    return DISK_SHARE * free_bytes(recipe.cache_folder) / 1e9
