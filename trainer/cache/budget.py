"""Whether the frozen layers' output is stored beside the targets: it halves a step and doubles the cache."""

from __future__ import annotations

import shutil

from ..base import Recipe, SettingsError, write_text
from ..corpus import Pair
from ..encoders import Student, Teacher, trunk_depth
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
    positions = len(pairs) * _mean_positions(pairs[:: -(-len(pairs) // SAMPLE)], pads, student, teacher)
    width = student.bert.config.hidden_size
    # The untrained student's sentence vectors, ids, and once for all captions the normal equations.
    beside = len(pairs) * HALF * width + WHOLE * positions
    beside += DOUBLE * (width + recipe.window) * (width + teacher.width)
    targets, states = (HALF * positions * teacher.width + beside) / 1e9, HALF * positions * width / 1e9
    room = _room(recipe)
    if recipe.cache.budget is not None and targets > room:
        raise SettingsError(
            f"--cache.budget {room:g}: the targets of {len(pairs):,} captions alone take {targets:.3g} GB; give more, "
            "or use fewer captions (--corpus.limit)"
        )
    fits = targets + states <= room
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


def _mean_positions(pairs: list[Pair], pads: int | None, student: Student, teacher: Teacher) -> float:
    if pads is None:
        return teacher.window
    lengths = [max(student.tokens.length(pair.zh), teacher.length(pair.en)) for pair in pairs]
    return sum(min(teacher.window, length + pads) for length in lengths) / len(lengths)


def _room(recipe: Recipe) -> float:
    """GB that the cache of the training pairs may take."""
    if recipe.cache.budget is not None:
        return recipe.cache.budget
    recipe.cache_folder.mkdir(parents=True, exist_ok=True)
    return ROOM * shutil.disk_usage(recipe.cache_folder).free / 1e9
