"""Whether the frozen layers' output is stored beside the targets: it halves a step and doubles the cache."""

from __future__ import annotations

from ..base.disk import free_bytes
from ..base.files import write_text
from ..base.recipe import Recipe, SettingsError
from ..corpus.pairs import Pair
from ..models.freezing import trunk_depth
from ..models.student import Student
from ..models.teacher import Teacher
from .shards import left_out, parts_of

SAMPLE = 1000  # captions by which the size is told beforehand
ROOM = 0.95  # of the free disk
HALF, WHOLE, DOUBLE = 2, 4, 8  # bytes of a number


def trunk(recipe: Recipe, pairs: list[Pair], student: Student, teacher: Teacher, says: bool) -> int | None:
    """The trunk's depth, or None when there is none to store or no room for it: said in one line, and noted beside.

    A trunk once begun is gone on with. Raises SettingsError when --cache.budget is too small for the targets alone.
    """
    depth, pads = trunk_depth(recipe.train, student.depth), recipe.train.pad_positions
    if pads is not None and pads < 1:  # nothing would stand for the padding that is left out
        raise SettingsError(f"--train.pad_positions {pads}: give 1 or more, or null for all padded positions")
    if depth is None:
        return None
    folder = recipe.cache_folder / "train" / parts_of(depth, pads)[-1]
    if (folder / "settings.json").is_file():
        return depth
    targets, states = gigabytes(recipe, len(pairs), pairs[:: -(-len(pairs) // SAMPLE)], student, teacher)
    room = room_for(recipe)
    fits = both_fit(recipe, len(pairs), targets, states)
    line = (
        f"cache: {len(pairs):,} captions take {targets:.3g} GB of targets and {states:.3g} GB of the frozen layers' "
        f"output; there is room for {room:.3g} GB: "
    )
    line += "both are stored" if fits else "targets alone are stored, and the frozen layers run in every step"
    if says:
        print(line, flush=True)
    if not fits:
        write_text(left_out(folder), f"{line}\n")
        return None
    left_out(folder).unlink(missing_ok=True)
    return depth


def both_fit(recipe: Recipe, rows: int, targets: float, states: float) -> bool:
    """Whether there is room for the frozen layers' output as well, all in GB. Raises SettingsError when --cache.budget
    is too small for the targets alone."""
    if recipe.cache.budget is not None and targets > recipe.cache.budget:
        raise SettingsError(
            f"--cache.budget {recipe.cache.budget:g}: the targets of {rows:,} captions alone take {targets:.3g} GB; "
            "give more, or use fewer captions (--corpus.limit)"
        )
    return targets + states <= room_for(recipe)


def gigabytes(recipe: Recipe, rows: int, sample: list[Pair], student: Student, teacher: Teacher) -> tuple[float, float]:
    """What so many training captions take: the targets with what stands beside them, and the frozen layers' output."""
    positions = rows * _mean_positions(sample, recipe.train.pad_positions, student, teacher)
    width = student.bert.dimensions.width
    # The untrained student's sentence vectors, pooled vectors, ids, and once for all captions the normal equations.
    pooled = teacher.pooled_width
    sums = (width + recipe.window) * (width + teacher.width) + (pooled > 0) * (width + 1) * (width + pooled)
    beside = rows * HALF * (width + pooled) + WHOLE * positions + DOUBLE * sums
    return (HALF * positions * teacher.width + beside) / 1e9, HALF * positions * width / 1e9


def _mean_positions(pairs: list[Pair], pads: int | None, student: Student, teacher: Teacher) -> float:
    if pads is None:
        return teacher.window
    lengths = [max(student.tokens.length(pair.zh), teacher.length(pair.en)) for pair in pairs]
    return sum(min(teacher.window, length + pads) for length in lengths) / len(lengths)


def room_for(recipe: Recipe) -> float:
    """GB that the cache of the training pairs may take."""
    if recipe.cache.budget is not None:
        return recipe.cache.budget
    return ROOM * free_bytes(recipe.cache_folder) / 1e9
