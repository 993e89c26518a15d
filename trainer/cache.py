"""What a frozen encoder makes of each caption, computed once: teacher targets, and the student's frozen states.

Folders of shards: `targets` holds per caption the teacher's output (fp16), its length and its sentence vector, `states`
the student's ids and the pooled sentence vector of the untrained student, `trunk-K` its hidden state after the K frozen
layers (fp16), where the strategy has any. Each shard also carries, in float64, its own share of the normal equations
that the closed-form floors need, so that ridge is a sum over shards. A shard appears whole by a rename; a killed stage
goes on at the next one, and several processes take turns at the shards.

Clip skip has a cache of its own beside, `train-skip` and `dev-skip`: of the teacher's layer before, and of the student
without its last layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from zhclip.calibration import sentence

from . import corpus
from .corpus import Pair
from .files import DamagedError, read_json, read_tensors, write_tensors
from .objective import unit
from .recipe import Recipe, SettingsError, guard, require
from .student import Ridge, Student, load_student, trunk_depth
from .teacher import Teacher, load_teacher
from .weights import check_finite, digest

CODE_VERSION = 2
CURE = "run the cache stage again, which makes damaged shards anew"
Shard = dict[str, torch.Tensor]


def run(recipe: Recipe) -> None:
    """Stage `cache`: targets and states of the training pairs, and of the dev pairs with all layers frozen."""
    state = processes()
    model = require(recipe.student.model, "student.model", "the Chinese encoder")
    student, teacher = load_student(model, recipe.window, state.device), teacher_of(recipe, state.device)
    trunk = trunk_depth(recipe.train, student.depth)
    shard_rows, batch = recipe.cache.shard_rows, recipe.cache.batch
    for split, depth in {"train": trunk, "dev": student.depth}.items():
        pairs = corpus.read_pairs(recipe.folder / "corpus" / f"{split}.tsv")
        build(recipe.cache_folder / split, pairs, teacher, student, depth, shard_rows, batch, state)
    if not recipe.teacher.skip:
        return
    before, cut = replace(teacher, layer=teacher.layer - 1), student.without_last()
    for split, depth in {"train": None, "dev": cut.depth}.items():
        pairs = corpus.read_pairs(recipe.folder / "corpus" / f"{split}.tsv")
        build(recipe.cache_folder / f"{split}-skip", pairs, before, cut, depth, shard_rows, batch, state)


def processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started; alone without them."""
    # Waiting for a process that does what only one can do, such as scoring, may take long.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


def teacher_of(recipe: Recipe, device: torch.device | str) -> Teacher:
    """The recipe's teacher."""
    model = require(recipe.teacher.model, "teacher.model", "the English encoder")
    return load_teacher(model, recipe.window, recipe.teacher.layer, recipe.teacher.tokenizer, device)


def default_device() -> str:
    """The first CUDA device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build(
    folder: Path,
    pairs: list[Pair],
    teacher: Teacher,
    student: Student,
    depth: int | None,
    shard_rows: int,
    batch: int,
    state: PartialState | None = None,
) -> None:
    """Compute the shards of these pairs that are not there yet, with `state` only this process's share of them.

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
    with state.main_process_first() if state else nullcontext():
        for part, made_with in zip(folders, settings):
            guard(part, made_with)

    def target_shard(some: list[Pair], _: int) -> Sequence[Shard | None]:
        return [_target_shard(some, teacher, batch)]

    def state_shards(some: list[Pair], index: int) -> Sequence[Shard | None]:
        if depth is not None and _whole(_shard(folders[1], index)):  # made with a trunk of another depth
            return [None, _trunk_shard(some, student, depth, batch)]
        target = read_tensors(_shard(folders[0], index), CURE)["target"]
        return _state_shards(some, student, target, depth, batch)

    groups = [pairs[i : i + shard_rows] for i in range(0, len(pairs), shard_rows)]
    _fill(folders[:1], groups, target_shard, state)
    _fill(folders[1:], groups, state_shards, state)


def parts_of(depth: int | None) -> list[str]:
    """Names of a cache's folders: what depends on the teacher, on the student, and on the depth of its trunk."""
    return ["targets", "states"] + [f"trunk-{depth}"] * (depth is not None)


def _fill(
    folders: list[Path],
    groups: list[list[Pair]],
    make: Callable[[list[Pair], int], Sequence[Shard | None]],
    state: PartialState | None,
) -> None:
    index, count = (state.process_index, state.num_processes) if state else (0, 1)
    mine = range(index, len(groups), count)
    missing = [i for i in mine if not all(_whole(_shard(folder, i)) for folder in folders)]
    name = " and ".join(folder.name for folder in folders)
    for index in tqdm(missing, desc=f"cache {folders[0].parent.name} {name}", unit="shard", disable=not missing):
        for folder, shard in zip(folders, make(groups[index], index)):
            if shard is not None:
                write_tensors(_shard(folder, index), shard)
    if state:
        state.wait_for_everyone()


def _whole(path: Path) -> bool:
    """Whether a shard is there and undamaged. Read once when the stage goes on, not whenever training starts."""
    try:
        return path.is_file() and bool(read_tensors(path, CURE, verify=True))
    except DamagedError as error:
        tqdm.write(f"cache: {error}")
        return False


def _shard(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


def _target_shard(part: list[Pair], teacher: Teacher, batch: int) -> Shard:
    outputs = [teacher.encode([p.en for p in some]) for some in _batches(part, batch)]
    target = torch.cat([hidden for hidden, _ in outputs])  # (n, W, D)
    check_finite(target.half(), [p.en for p in part], f"--teacher.model {teacher.name}")
    lengths = torch.cat([lengths for _, lengths in outputs])
    pooled = sentence(target, torch.arange(target.shape[1], device=target.device) < lengths[:, None])
    return {
        "target": target.half(),
        "en_length": lengths.int(),
        "en_pooled": pooled.half(),
        "en_pooled_sum": pooled.double().sum(dim=0),  # (D,)
        "norm_sum": target.norm(dim=-1).double().sum(dim=0),  # (W,)
        "unit_sum": unit(target).double().sum(dim=0),  # (W, D)
    }


@torch.inference_mode()
def _state_shards(
    part: list[Pair], student: Student, target: torch.Tensor, depth: int | None, batch: int
) -> Sequence[Shard | None]:
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
        pooled.append(sentence(last, mask))
        x, y = last.double(), unit(goal.to(device).float()).double()
        xx += x.flatten(0, 1).T @ x.flatten(0, 1)
        xy += x.flatten(0, 1).T @ y.flatten(0, 1)
        x_sum += x.sum(dim=0)
    for outputs in (torch.cat(pooled), torch.cat(trunks)):
        check_finite(outputs, [p.zh for p in part], "--student.model")
    states = {"ids": ids.int(), "pooled": torch.cat(pooled), "xx": xx, "xy": xy, "x_sum": x_sum}
    return [states, {"trunk": torch.cat(trunks)}][: 1 if depth is None else 2]


@torch.inference_mode()
def _trunk_shard(part: list[Pair], student: Student, depth: int, batch: int) -> Shard:
    """The second of `_state_shards` alone, without the layers above it."""
    ids = torch.tensor([student.tokens.windows(p.zh)[0] for p in part])
    trunk = torch.cat([student.hidden(some.to(student.bert.device), depth).half() for some in ids.split(batch)])
    check_finite(trunk, [p.zh for p in part], "--student.model")
    return {"trunk": trunk}


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
            settings = read_json(part / "settings.json", f"delete {part} and run the cache stage again")
            count = math.ceil(settings["rows"] / settings["shard_rows"])
            missing = [i for i in range(count) if not _shard(part, i).is_file()]
            if missing:
                raise SettingsError(f"{part}: {len(missing)} of {count} shards are missing; run the cache stage again")
            opened = [read_tensors(_shard(part, i), CURE) for i in range(count)]
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
        """A float64 sum over all captions ("norm_sum", "unit_sum", "en_pooled_sum", "xx", "xy", "x_sum")."""
        total = torch.zeros_like(self.shards[0][name])
        for shard in self.shards:
            total += shard[name]
        return total

    def norms(self) -> torch.Tensor:
        """(W,) the teacher's mean norm of each position."""
        return (self.total("norm_sum") / len(self)).float()

    def constant(self) -> torch.Tensor:
        """(W, D) the mean unit target of each position: the best constant predictor's direction."""
        return (self.total("unit_sum") / len(self)).float()

    def position0(self) -> bool:
        """Whether the teacher's first position is one vector for every caption, as a causal teacher's is."""
        return bool(self.constant()[0].norm() > 1 - 1e-4)

    def ridge(self, penalty: float, position_bias: bool = True) -> Ridge:
        """The closed form: one map for all positions and one bias a position, from x to unit targets.

        With x and y centred at each position, weight = (Sxx + lambda I)^-1 Sxy and bias = mean y - weight mean x, where
        lambda is `penalty` times the mean of Sxx's diagonal. Solved in float64. Without `position_bias` x and y are
        centred on their mean over all positions, and the bias (1, D) is one.
        """
        n = len(self)
        x, y = self.total("x_sum") / n, self.total("unit_sum") / n  # (W, S), (W, D)
        if not position_bias:
            n, x, y = n * len(x), x.mean(dim=0, keepdim=True), y.mean(dim=0, keepdim=True)
        sxx = self.total("xx") - n * x.T @ x
        sxy = self.total("xy") - n * x.T @ y
        scale = penalty * sxx.diagonal().mean()
        weight = torch.linalg.solve(sxx + scale * torch.eye(len(sxx), dtype=sxx.dtype), sxy)  # (S, D)
        return Ridge(weight.T.contiguous().float(), (y - x @ weight).float())
