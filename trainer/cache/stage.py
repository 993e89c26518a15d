"""Stage `cache`: what the frozen encoders make of each caption, computed once.

Folders of shards. `captions` holds per caption the teacher's output (fp16) at the positions that are kept and its
length, the student's ids and the pooled sentence vector of the untrained student; `trunk-K` the student's hidden state
after the K frozen layers (fp16) at the same positions, where the strategy has any and the disk has room. `sums`, in
float64 and over all positions, are the normal equations that the closed-form floors need. They are written shard by
shard and added up at the end. A shard appears whole by a rename; a killed stage goes on at the next one, and several
processes take turns at the shards.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from torch.nn.functional import normalize
from tqdm import tqdm

from zhclip.calibration import sentence

from .. import corpus
from ..base import DamagedError, Recipe, guard, processes, read_tensors, require, write_tensors
from ..corpus import Pair
from ..encoders import Student, Teacher, check_finite, digest, load_student, teacher_of
from . import budget
from .positions import keep
from .shards import CURE, SUMS, Shard, parts_of, shard_path

CODE_VERSION = 4


def run(recipe: Recipe) -> None:
    """Stage `cache`: targets and states of the training pairs, and of the dev pairs with all layers frozen."""
    state = processes()
    model = require(recipe.student.model, "student.model", "the Chinese encoder")
    student, teacher = load_student(model, recipe.window, state.device), teacher_of(recipe, state.device)
    shard_rows, batch = recipe.cache.shard_rows, recipe.cache.batch
    pairs = {split: corpus.read_pairs(recipe.folder / "corpus" / f"{split}.tsv") for split in ("train", "dev")}
    with state.main_process_first():
        trunk = budget.trunk(recipe, pairs["train"], student, teacher, state.is_main_process)
    kept = {"train": (trunk, recipe.train.pad_positions), "dev": (student.depth, None)}
    for split, (depth, pads) in kept.items():
        build(recipe.cache_folder / split, pairs[split], teacher, student, depth, shard_rows, batch, pads, state)


def build(
    folder: Path,
    pairs: list[Pair],
    teacher: Teacher,
    student: Student,
    depth: int | None,
    shard_rows: int,
    batch: int,
    pads: int | None = None,
    state: PartialState | None = None,
) -> None:
    """Compute the shards of these pairs that are not there yet, with `state` only this process's share of them.

    `depth`: layers of the student whose output is stored, None to store none. `pads`: padded positions that a caption
    keeps, None for all. Raises SettingsError when a part was made with other settings.
    """
    common = {
        "code": CODE_VERSION,
        "corpus": corpus.sha256(pairs),
        "rows": len(pairs),
        "window": teacher.window,
        "shard_rows": shard_rows,
        "teacher": teacher.sha256(),
        "layer": teacher.layer,
        "student": digest(student.bert),
        "pads": pads,
    }
    captions, *trunks = (folder / part for part in parts_of(depth, pads))
    with state.main_process_first() if state else nullcontext():
        guard(captions, common)
        for trunk in trunks:
            guard(trunk, common | {"depth": depth})
    index, count = (state.process_index, state.num_processes) if state else (0, 1)
    numbers, summed = range(-(-len(pairs) // shard_rows)), _whole(captions / SUMS)

    def lacks(number: int, parts: list[Path]) -> bool:
        return not all(_whole(shard_path(part, number)) for part in parts)

    first = [captions] if summed else [captions, _unsummed(captions)]
    missing = [number for number in numbers[index::count] if lacks(number, [*first, *trunks])]
    for number in tqdm(missing, desc=f"cache {folder.name}", unit="shard", disable=not missing):
        some = pairs[number * shard_rows : (number + 1) * shard_rows]
        if lacks(number, first):
            made, sums, stored = _shards(some, number, teacher, student, depth, pads, batch)
            if not summed:
                write_tensors(shard_path(_unsummed(captions), number), sums)
            write_tensors(shard_path(captions, number), made)
        else:  # made with a trunk of another depth
            made = read_tensors(shard_path(captions, number), CURE)
            stored = _trunk_shard(some, made, student, depth or 0, batch)
        for trunk in trunks:
            write_tensors(shard_path(trunk, number), stored)
    if state:
        state.wait_for_everyone()
    if index == 0 and not summed:
        write_tensors(captions / SUMS, _added(shard_path(_unsummed(captions), number) for number in numbers))
    if index == 0:
        shutil.rmtree(_unsummed(captions), ignore_errors=True)
    if state:
        state.wait_for_everyone()


def _unsummed(captions: Path) -> Path:
    """Where the shards' sums stand until all are there: as many of them as shards would be a quarter of the cache."""
    return captions / "sums"


def _added(paths: Iterator[Path]) -> Shard:
    total = dict(read_tensors(next(paths), CURE))
    for path in paths:
        total = {name: value + total[name] for name, value in read_tensors(path, CURE).items()}
    return total


def _whole(path: Path) -> bool:
    """Whether a shard is there and undamaged. Read once when the stage goes on, not whenever training starts."""
    try:
        return path.is_file() and bool(read_tensors(path, CURE, verify=True))
    except DamagedError as error:
        tqdm.write(f"cache: {error}")
        return False


@torch.inference_mode()
def _shards(
    some: list[Pair], number: int, teacher: Teacher, student: Student, depth: int | None, pads: int | None, batch: int
) -> tuple[Shard, Shard, Shard]:
    """The captions of a shard, their sums, and their trunk."""
    ids = torch.tensor([student.tokens.windows(p.zh)[0] for p in some])
    chance = torch.rand(len(some), teacher.window, generator=torch.Generator().manual_seed(number))
    made: list[Shard] = []
    sums: Shard = {}
    for first in range(0, len(some), batch):
        at = slice(first, first + batch)
        columns, own = _columns(some[at], ids[at], chance[at], teacher, student, depth or 0, pads)
        made.append(columns)
        sums = {name: value + sums[name] for name, value in own.items()} if sums else own
    captions = {name: torch.cat([columns[name] for columns in made]) for name in made[0]}
    return captions, sums, {"trunk": captions.pop("trunk")}


def _columns(
    some: list[Pair],
    ids: torch.Tensor,
    chance: torch.Tensor,
    teacher: Teacher,
    student: Student,
    depth: int,
    pads: int | None,
) -> tuple[Shard, Shard]:
    """The columns of a batch, trunk among them, and its sums. ids and chance (B, W)."""
    device, zh = student.bert.device, ids.to(student.bert.device)
    target, en_length = teacher.encode([p.en for p in some])  # (B, W, D)
    text = student.tokens.key_mask(zh)
    stored = student.hidden(zh, depth)
    last = student.layers(stored, text, depth, student.depth)  # (B, W, S)
    check_finite(target.half(), [p.en for p in some], f"--teacher.model {teacher.name}")
    for outputs in (last, stored.half()):
        check_finite(outputs, [p.zh for p in some], "--student.model")
    length = torch.maximum(text.sum(dim=1), en_length).cpu()
    position, count = keep(length, chance, pads)
    kept = (torch.arange(len(some)).repeat_interleave(count) * ids.shape[1] + position).to(device)
    en = sentence(target, torch.arange(ids.shape[1], device=device) < en_length[:, None])
    columns = {
        "target": target.flatten(0, 1)[kept].half(),
        "trunk": stored.flatten(0, 1)[kept].half(),
        "position": position.short(),
        "count": count.int(),
        "length": length.int(),
        "ids": ids.flatten()[kept.cpu()].int(),
        "en_length": en_length.int(),
        "pooled": sentence(last, text).half(),
    }
    sums = _sums(last.double(), target) | {"en_pooled_sum": en.double().sum(dim=0)}  # (D,)
    return {name: column.cpu() for name, column in columns.items()}, sums


def _sums(x: torch.Tensor, target: torch.Tensor) -> Shard:
    """The normal equations' sums over a batch: student (B, W, S) in double precision, teacher (B, W, D)."""
    y = normalize(target, dim=-1).double()
    return {
        "xx": x.flatten(0, 1).T @ x.flatten(0, 1),  # (S, S)
        "xy": x.flatten(0, 1).T @ y.flatten(0, 1),  # (S, D)
        "x_sum": x.sum(dim=0),  # (W, S)
        "unit_sum": y.sum(dim=0),  # (W, D)
        "norm_sum": target.norm(dim=-1).double().sum(dim=0),  # (W,)
    }


@torch.inference_mode()
def _trunk_shard(some: list[Pair], captions: Shard, student: Student, depth: int, batch: int) -> Shard:
    """The last of `_shards` alone: no teacher, and no layers above."""
    device = student.bert.device
    ids = torch.tensor([student.tokens.windows(p.zh)[0] for p in some])
    hidden = torch.cat([student.hidden(part.to(device), depth).half() for part in ids.split(batch)])
    check_finite(hidden, [p.zh for p in some], "--student.model")
    rows = torch.arange(len(some)).repeat_interleave(captions["count"].long())
    return {"trunk": hidden[rows, captions["position"].long()]}
