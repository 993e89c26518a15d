"""Stage `cache`: outputs of the frozen encoders for each caption, computed once.

Folders of shards, each a safetensors file. `captions` holds for each caption the teacher's output (fp16) at the stored
positions, its length, the student's token ids and the untrained student's sentence vector; `frozen-K` the student's
hidden states after K frozen layers (fp16) at the same positions, if the strategy has any. `sums` (float64) for the
ridge regression are written shard by shard and added up at the end. A shard appears by a rename, so a killed stage
continues at the next one, and several processes divide the shards among themselves.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip.io import save_tensors

from ..base.device import processes
from ..base.files import DamagedError, read_tensors
from ..base.recipe import Recipe
from ..base.settings import check_settings
from ..corpus.pairs import read_pairs
from ..models.freezing import frozen_depth
from ..models.student import student_from_recipe
from ..models.teacher import teacher_from_recipe
from ..progress import Counter, Listener
from .builder import CacheBuilder, add_sums
from .shards import DAMAGE_HINT, SUMS, part_names, shard_path
from .standardise import standardise_targets

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Cache the training pairs, and the dev pairs with all layers frozen.

    Raises ModelError, SettingsError.
    """
    state = processes()
    student = student_from_recipe(recipe, state.device, progress)
    teacher = teacher_from_recipe(recipe, state.device, progress)
    train, dev = (read_pairs(recipe.folder / "corpus" / f"{split}.tsv") for split in ("train", "dev"))
    depth = frozen_depth(recipe.train, student.depth)
    with state.main_process_first():
        teacher = standardise_targets(recipe.cache_folder, teacher, train, progress)
    sizes = (recipe.cache.shard_rows, recipe.cache.batch)
    builders = {
        "train": CacheBuilder(teacher, student, train, depth, recipe.train.pad_positions, *sizes),
        "dev": CacheBuilder(teacher, student, dev, student.depth, None, *sizes),
    }
    for split, builder in builders.items():
        build(recipe.cache_folder / split, builder, state, progress)


def build(
    folder: Path, builder: CacheBuilder, state: PartialState | None = None, progress: Listener | None = None
) -> None:
    """Compute the shards that are missing; with `state` only this process's share of them.

    Progress counts captions, with an event at least every second. Raises SettingsError if the folder was made with
    other settings.
    """
    captions, *frozen = (folder / name for name in part_names(builder.depth, builder.pads))
    settings = builder.settings()
    with state.main_process_first() if state else nullcontext():
        check_settings(captions, settings)
        for part in frozen:
            check_settings(part, settings | {"depth": builder.depth})
    index, processes = (state.process_index, state.num_processes) if state else (0, 1)
    numbers, has_sums = range(-(-len(builder.pairs) // builder.shard_rows)), _are_complete([captions / SUMS])
    # Sums of single shards are deleted once they are added up: as many as shards would be a quarter of the cache.
    outputs = [captions] if has_sums else [captions, captions / "sums"]
    own = numbers[index::processes]
    missing = [number for number in own if not _are_complete(shard_path(part, number) for part in [*outputs, *frozen])]
    total, left = (sum(len(builder.shard_pairs(number)) for number in shards) for shards in (own, missing))
    counter = Counter(f"cache {folder.name}", total, progress, total - left)
    with counter.repeated_during_forward():
        for number in missing:
            if not _are_complete(shard_path(part, number) for part in outputs):
                *contents, hidden = builder.shard(number, counter.add)
            else:
                columns = read_tensors(shard_path(captions, number), DAMAGE_HINT)
                contents, hidden = [], builder.frozen_hidden(number, columns, counter.add)
            for part, tensors in [*zip(outputs, contents), *((part, hidden) for part in frozen)]:
                save_tensors(shard_path(part, number), tensors)
    if state:
        state.wait_for_everyone()
    if index == 0:
        if not has_sums:
            shards = (dict(read_tensors(shard_path(captions / "sums", number), DAMAGE_HINT)) for number in numbers)
            sums = functools.reduce(add_sums, shards)
            save_tensors(captions / SUMS, sums)
        shutil.rmtree(captions / "sums", ignore_errors=True)
    if state:
        state.wait_for_everyone()


def _are_complete(paths: Iterable[Path]) -> bool:
    """Whether these files exist and none is cut short."""
    try:
        return all(path.is_file() and read_tensors(path, DAMAGE_HINT) for path in paths)
    except DamagedError as error:
        logger.warning("cache: %s", error)
        return False
