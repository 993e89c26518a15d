"""Size of a cache, for the plan."""

from __future__ import annotations

from ..base.recipe import Recipe
from ..corpus.pairs import Pair
from ..models.student import Student
from ..models.teacher import Teacher

FP16, FP32, FP64 = 2, 4, 8  # bytes


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
