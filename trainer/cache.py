"""What a frozen encoder makes of each caption, computed once: teacher targets, and the student's frozen states.

Folders of shards: `targets` holds per caption the teacher's output (fp16) and length, `states` the student's ids and
the pooled sentence vector of the untrained student, `trunk-K` its hidden state after the K frozen layers (fp16), where
the strategy has any. Each shard also carries, in float64, its own share of the normal equations that the closed-form
floors need, so that ridge is a sum over shards. A shard appears whole by a rename; a killed stage goes on at the next
one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from . import corpus
from .corpus import Pair
from .objective import unit
from .recipe import Recipe, SettingsError, guard, require
from .student import Ridge, Student, load_student, trunk_depth
from .teacher import Teacher, load_teacher
from .weights import digest

CODE_VERSION = 1
Shard = dict[str, torch.Tensor]


def run(recipe: Recipe, device: torch.device | str | None = None) -> None:
    """Stage `cache`: targets and states of the training pairs, and of the dev pairs with all layers frozen."""
    device = device or default_device()
    student = load_student(require(recipe.student.model, "student.model", "the Chinese encoder"), recipe.window, device)
    teacher = teacher_of(recipe, device)
    depths = {"train": trunk_depth(recipe.train, student.depth), "dev": student.depth}
    for split, depth in depths.items():
        pairs = corpus.read_pairs(recipe.folder / "corpus" / f"{split}.tsv")
        build(recipe.cache_folder / split, pairs, teacher, student, depth, recipe.cache.shard_rows, recipe.cache.batch)


def teacher_of(recipe: Recipe, device: torch.device | str) -> Teacher:
    """The recipe's teacher."""
    model = require(recipe.teacher.model, "teacher.model", "the English encoder")
    return load_teacher(model, recipe.window, recipe.teacher.layer, recipe.teacher.tokenizer, device)


def default_device() -> str:
    """The first CUDA device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build(
    folder: Path, pairs: list[Pair], teacher: Teacher, student: Student, depth: int | None, shard_rows: int, batch: int
) -> None:
    """Compute the shards of these pairs that are not there yet.

    `depth`: layers of the student whose output is stored, None to store none. Raises SettingsError when a part was made
    with other settings.
    """
    common = {
        "code": CODE_VERSION,
        "corpus": corpus.sha256(pairs),
        "rows": len(pairs),
        "window": teacher.window,
        "shard_rows": shard_rows,
        "teacher": teacher.sha256(),
        "layer": teacher.layer,
    }
    settings = [common, common | {"student": digest(student.bert)}]
    settings += [settings[1] | {"depth": depth}] * (depth is not None)
    folders = [folder / part for part in parts_of(depth)]
    for part, made_with in zip(folders, settings):
        guard(part, made_with)

    def target_shard(some: list[Pair], _: int) -> list[Shard]:
        return [_target_shard(some, teacher, batch)]

    def state_shards(some: list[Pair], index: int) -> list[Shard]:
        target = load_file(_shard(folders[0], index))["target"]
        return _state_shards(some, student, target, depth, batch)

    groups = [pairs[i : i + shard_rows] for i in range(0, len(pairs), shard_rows)]
    _fill(folders[:1], groups, target_shard)
    _fill(folders[1:], groups, state_shards)


def parts_of(depth: int | None) -> list[str]:
    """Names of a cache's folders: what depends on the teacher, on the student, and on the depth of its trunk."""
    return ["targets", "states"] + [f"trunk-{depth}"] * (depth is not None)


def _fill(folders: list[Path], groups: list[list[Pair]], make: Callable[[list[Pair], int], list[Shard]]) -> None:
    missing = [i for i in range(len(groups)) if not all(_shard(folder, i).is_file() for folder in folders)]
    name = " and ".join(folder.name for folder in folders)
    for index in tqdm(missing, desc=f"cache {folders[0].parent.name} {name}", unit="shard", disable=not missing):
        for folder, shard in zip(folders, make(groups[index], index)):
            temporary = _shard(folder, index).with_suffix(".tmp")
            save_file({name: tensor.cpu().contiguous() for name, tensor in shard.items()}, temporary)
            temporary.replace(_shard(folder, index))


def _shard(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


def _target_shard(part: list[Pair], teacher: Teacher, batch: int) -> Shard:
    outputs = [teacher.encode([p.en for p in some]) for some in _batches(part, batch)]
    target = torch.cat([hidden for hidden, _ in outputs])  # (n, W, D)
    return {
        "target": target.half(),
        "en_length": torch.cat([lengths for _, lengths in outputs]).int(),
        "norm_sum": target.norm(dim=-1).double().sum(dim=0),  # (W,)
        "unit_sum": unit(target).double().sum(dim=0),  # (W, D)
    }


@torch.inference_mode()
def _state_shards(
    part: list[Pair], student: Student, target: torch.Tensor, depth: int | None, batch: int
) -> list[Shard]:
    ids = torch.tensor([student.tokens.windows(p.zh)[0] for p in part])
    device = student.bert.device
    trunks, pooled = [], []
    width, goal_width = student.bert.config.hidden_size, target.shape[-1]
    xx = torch.zeros(width, width, dtype=torch.float64, device=device)
    xy = torch.zeros(width, goal_width, dtype=torch.float64, device=device)
    x_sum = torch.zeros(ids.shape[1], width, dtype=torch.float64, device=device)
    for some, goal in zip(ids.split(batch), target.split(batch), strict=True):
        some = some.to(device)
        mask = student.tokens.key_mask(some)
        stored = student.hidden(some, depth or 0)
        last = student.layers(stored, mask, depth or 0, student.depth)  # (B, W, S)
        trunks.append(stored.half())
        pooled.append(pool(last, mask))
        x, y = last.double(), unit(goal.to(device).float()).double()
        xx += x.flatten(0, 1).T @ x.flatten(0, 1)
        xy += x.flatten(0, 1).T @ y.flatten(0, 1)
        x_sum += x.sum(dim=0)
    states = {"ids": ids.int(), "pooled": torch.cat(pooled), "xx": xx, "xy": xy, "x_sum": x_sum}
    return [states, {"trunk": torch.cat(trunks)}][: 1 if depth is None else 2]


def pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, W, S) and (B, W) bool -> (B, S): the mean of unit vectors over the positions of the text."""
    weights = mask.float()[:, :, None]
    return (unit(hidden.float()) * weights).sum(dim=1) / weights.sum(dim=1)


def _batches(part: list[Pair], size: int) -> Iterator[list[Pair]]:
    for i in range(0, len(part), size):
        yield part[i : i + size]


@dataclass(frozen=True)
class Cache:
    """Shards on disk, memory-mapped: all columns and sums of a shard by name."""

    shards: list[Shard]
    shard_rows: int

    @classmethod
    def open(cls, folder: Path, depth: int | None) -> Cache:
        """Open a complete cache, with the states after `depth` layers unless None.

        Raises SettingsError when a part is missing or unfinished.
        """
        shards: list[Shard] = []
        for part in (folder / name for name in parts_of(depth)):
            if not (part / "settings.json").is_file():
                raise SettingsError(f"{part}: no cache there; run the cache stage first (`python -m trainer cache`)")
            settings = json.loads((part / "settings.json").read_text(encoding="utf-8"))
            count = math.ceil(settings["rows"] / settings["shard_rows"])
            missing = [i for i in range(count) if not _shard(part, i).is_file()]
            if missing:
                raise SettingsError(f"{part}: {len(missing)} of {count} shards are missing; run the cache stage again")
            opened = [load_file(_shard(part, i)) for i in range(count)]
            shards = [a | b for a, b in zip(shards, opened)] if shards else opened
        return cls(shards, settings["shard_rows"])

    def only(self, shard: int) -> Cache:
        """The cache of one shard."""
        return Cache([self.shards[shard]], self.shard_rows)

    def __len__(self) -> int:
        return sum(len(shard["en_length"]) for shard in self.shards)

    def rows(self, name: str, indices: list[int]) -> torch.Tensor:
        """Rows of a column ("target", "en_length", "ids", "trunk", "pooled") by index, stacked in that order."""
        return torch.stack([self.shards[i // self.shard_rows][name][i % self.shard_rows] for i in indices])

    def column(self, name: str) -> torch.Tensor:
        """A whole column in memory; for small ones."""
        return torch.cat([shard[name] for shard in self.shards])

    def total(self, name: str) -> torch.Tensor:
        """A float64 sum over all captions ("norm_sum", "unit_sum", "xx", "xy", "x_sum")."""
        return torch.stack([shard[name] for shard in self.shards]).sum(dim=0)

    def norms(self) -> torch.Tensor:
        """(W,) the teacher's mean norm of each position."""
        return (self.total("norm_sum") / len(self)).float()

    def constant(self) -> torch.Tensor:
        """(W, D) the mean unit target of each position: the best constant predictor's direction."""
        return (self.total("unit_sum") / len(self)).float()

    def ridge(self, penalty: float) -> Ridge:
        """The closed form: one map for all positions and one bias a position, from x to unit targets.

        With x and y centred at each position, weight = (Sxx + lambda I)^-1 Sxy and bias = mean y - weight mean x, where
        lambda is `penalty` times the mean of Sxx's diagonal. Solved in float64.
        """
        n = len(self)
        x, y = self.total("x_sum") / n, self.total("unit_sum") / n  # (W, S), (W, D)
        sxx = self.total("xx") - n * x.T @ x
        sxy = self.total("xy") - n * x.T @ y
        scale = penalty * sxx.diagonal().mean()
        weight = torch.linalg.solve(sxx + scale * torch.eye(len(sxx), dtype=sxx.dtype), sxy)  # (S, D)
        return Ridge(weight.T.contiguous().float(), (y - x @ weight).float())
