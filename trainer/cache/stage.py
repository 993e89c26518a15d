"""Stage `cache`: what the frozen encoders make of each caption, computed once.

Folders of shards. `captions` holds per caption the teacher's output (fp16) at the positions that are kept and its
length, the student's ids and the pooled sentence vector of the untrained student; `trunk-K` the student's hidden state
after the K frozen layers (fp16) at the same positions, where the strategy has any and the disk has room;
`sums`, in float64, are the normal equations that the closed-form floors need. They are written shard by
shard and added up at the end. A shard appears whole by a rename; a killed stage goes on at the next one, and several
processes take turns at the shards.
"""

from __future__ import annotations

import functools
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from ..base.device import processes
from ..base.files import DamagedError, read_json, read_tensors, write_tensors
from ..base.recipe import Recipe
from ..base.settings import check_settings, require
from ..corpus import stage as corpus
from ..corpus.pairs import Pair
from ..models.student import load_student
from ..models.teacher import teacher_of
from ..progress import Listener
from . import budget, standard
from .making import EXACT, FEW, Making, added
from .shards import CURE, SUMS, Shard, parts_of, shard_path


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Targets and states of the training pairs, and of the dev pairs with all layers frozen."""
    state = processes()
    # TF32 on GPUs that have it. Rounded so, all-MiniLM-L6-v2's targets turn by a mean 1 - cos of 2.4e-7.
    torch.set_float32_matmul_precision("high")
    model = require(recipe.student.model, "student.model", "the Chinese encoder")
    student, teacher = load_student(model, recipe.window, state.device), teacher_of(recipe, state.device)
    pairs = {split: corpus.read_pairs(recipe.folder / "corpus" / f"{split}.tsv") for split in ("train", "dev")}
    with state.main_process_first():
        teacher = standard.measured(recipe.cache_folder, teacher, pairs["train"])
        trunk = budget.trunk(recipe, pairs["train"], student, teacher, state.is_main_process)
    making = Making(teacher, student, student.depth, None, recipe.cache.shard_rows, recipe.cache.batch)
    learnt = replace(making, depth=trunk, pads=recipe.train.pad_positions)
    for split, of in (("train", learnt), ("dev", making)):
        build(recipe.cache_folder / split, pairs[split], of, state)


def build(folder: Path, pairs: list[Pair], making: Making, state: PartialState | None = None) -> None:
    """Compute the shards of these pairs that are not there yet, with `state` only this process's share of them.

    Raises SettingsError when a part was made with other settings.
    """
    captions, *trunks = (folder / part for part in parts_of(making.depth, making.pads))
    making = replace(making, exact=_exact(captions, len(pairs)))
    settings = making.settings(pairs)
    with state.main_process_first() if state else nullcontext():
        check_settings(captions, settings)
        for trunk in trunks:
            check_settings(trunk, settings | {"depth": making.depth})
    index, count = (state.process_index, state.num_processes) if state else (0, 1)
    numbers, summed = range(-(-len(pairs) // making.shard_rows)), _whole(captions / SUMS)
    # The shards' sums stand in a folder until all are there: as many as shards would be a quarter of the cache.
    unsummed = captions / "sums"
    first = [captions] if summed else [captions, unsummed]
    missing = [number for number in numbers[index::count] if _lacks(number, [*first, *trunks])]
    for number in tqdm(missing, desc=f"cache {folder.name}", unit="shard", disable=not missing):
        some = pairs[number * making.shard_rows : (number + 1) * making.shard_rows]
        stored: Shard = {}
        if _lacks(number, first):
            made, sums, stored = making.shard(some, number)
            if not summed:
                write_tensors(shard_path(unsummed, number), sums)
            write_tensors(shard_path(captions, number), made)
        elif _lacks(number, trunks):  # made with a trunk of another depth
            stored = making.trunk(some, read_tensors(shard_path(captions, number), CURE))
        for trunk in trunks if stored else ():
            write_tensors(shard_path(trunk, number), stored)
    if state:
        state.wait_for_everyone()
    if index == 0:
        if not summed:
            parts = (dict(read_tensors(shard_path(unsummed, number), CURE)) for number in numbers)
            write_tensors(captions / SUMS, functools.reduce(added, parts))
        shutil.rmtree(unsummed, ignore_errors=True)
    if state:
        state.wait_for_everyone()


def _exact(captions: Path, rows: int) -> bool:
    """Whether a cache's sums run over all positions: a small one's do, and one's that was begun so."""
    begun = captions / "settings.json"
    if begun.is_file():
        return read_json(begun, f"delete {captions} and run the stage again").get("code") == EXACT
    return rows <= FEW


def _lacks(number: int, parts: list[Path]) -> bool:
    return not all(_whole(shard_path(part, number)) for part in parts)


def _whole(path: Path) -> bool:
    """Whether a shard is there and undamaged. Read once when the stage goes on, not whenever training starts."""
    try:
        return path.is_file() and bool(read_tensors(path, CURE))
    except DamagedError as error:
        tqdm.write(f"cache: {error}")
        return False
