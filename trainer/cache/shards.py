"""A cache as training and scoring read it, memory-mapped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from zhclip.ridge import RidgeSums, solve
from zhclip.vectors import norms

from ..base.files import read_json, read_tensors
from ..base.recipe import SettingsError
from ..models.student import Ridge

DAMAGE_HINT = "run the cache stage again, which computes damaged shards anew"
NUMBERS = ("count", "length", "en_length")
PER_POSITION = ("target", "frozen_hidden", "position", "ids")
SUMS = "sums.safetensors"
POOLED = "pooled_"  # prefix of the sums for the pooled vectors
Tensors = dict[str, torch.Tensor]


def part_names(depth: int | None, pads: int | None) -> list[str]:
    """Folder names of the captions and, unless depth is None, the frozen hidden states. pads: padded positions that a
    caption keeps, None for all."""
    suffix = "" if pads is None else f"-pad{pads}"
    return [f"captions{suffix}"] + ([] if depth is None else [f"frozen-{depth}{suffix}"])


def shard_path(folder: Path, number: int) -> Path:
    """Path of a shard in one of the folders."""
    return folder / f"{number:05d}.safetensors"


@dataclass(frozen=True)
class Cache:
    """Shards, each with its columns by name, and sums over all captions.

    Columns with a value a position hold the stored positions of one caption after another, "count" of them each:
    "target" (_, D) and "frozen_hidden" (_, S) fp16, "position" and "ids". Columns with a value a caption: "count",
    "length" (positions of its longer text), "en_length", "zh_sentence" (S,) fp16, the untrained student's sentence
    vector, and for a teacher with pooled vectors "teacher_pooled" (G,) fp16. `widths` of the targets' parts if there
    are several.
    """

    shards: list[Tensors]
    shard_rows: int
    sums: Tensors
    widths: tuple[int, ...] = ()

    @classmethod
    def open(cls, folder: Path, depth: int | None, pads: int | None) -> Cache:
        """Open a complete cache, memory-mapped, with the states after `depth` layers unless None.

        Raises SettingsError if a part is missing or incomplete.
        """
        parts = [folder / name for name in part_names(depth, pads)]
        captions = parts[0]
        for part in parts:
            if not (part / "settings.json").is_file():
                raise SettingsError(f"{part}: no cache there; run the cache stage first (`python -m trainer cache`)")
        settings = read_json(captions / "settings.json", f"delete {captions} and run the cache stage again")
        numbers = range(math.ceil(settings["rows"] / settings["shard_rows"]))
        paths = [[shard_path(part, number) for part in parts] for number in numbers]
        for path in [*chain(*paths), captions / SUMS]:
            if not path.is_file():
                raise SettingsError(f"{path}: missing; run the cache stage again")
        shards = [dict(chain(*(read_tensors(path, DAMAGE_HINT).items() for path in shard))) for shard in paths]
        sums = read_tensors(captions / SUMS, DAMAGE_HINT)
        return cls(shards, settings["shard_rows"], sums, tuple(settings.get("parts", ())))

    def __len__(self) -> int:
        return sum(len(shard["count"]) for shard in self.shards)

    @property
    def has_frozen_hidden(self) -> bool:
        """Whether the frozen hidden states are stored."""
        return "frozen_hidden" in self.shards[0]

    @property
    def pooled_width(self) -> int:
        """Width G of the teacher's pooled vectors, 0 without them."""
        return self.shards[0]["teacher_pooled"].shape[1] if "teacher_pooled" in self.shards[0] else 0

    @property
    def window(self) -> int:
        """Positions W of a window."""
        return len(self.sums["y"])

    @property
    def width(self) -> int:
        """Width D of the targets."""
        return self.shards[0]["target"].shape[1]

    @cached_property
    def _numbers(self) -> Tensors:
        """Columns with a number a caption, and "first": the index of its first value in its shard."""
        numbers = {name: self.column(name) for name in NUMBERS if name in self.shards[0]}
        return numbers | {"first": torch.cat([s["count"].long().cumsum(0) - s["count"] for s in self.shards])}

    def rows(self, name: str, indices: list[int], positions: int | None = None) -> torch.Tensor:
        """Captions of a column by index: (B, ...), or (B, P, ...) of a column with a value a position.

        P is `positions`, by default the largest count among them; a caption with fewer repeats its last value, or, as
        "position", has the window's last one, which is padding.
        """
        if name in NUMBERS:
            return self._numbers[name][indices]
        places = [divmod(index, self.shard_rows) for index in indices]
        if name not in PER_POSITION:
            return torch.stack([self.shards[number][name][row] for number, row in places])
        # Caption by caption: a third of the time that one index of all values takes.
        first, counts = (self._numbers[number][indices].tolist() for number in ("first", "count"))
        column = self.shards[0][name]
        rows = column.new_empty(len(indices), positions or max(counts), *column.shape[1:])
        for values, (number, _), begin, count in zip(rows, places, first, counts):
            values[:count] = self.shards[number][name][begin : begin + count]
            values[count:] = self.window - 1 if name == "position" else values[count - 1]
        return rows.long() if name == "position" else rows

    def column(self, name: str) -> torch.Tensor:
        """A whole column in memory; for small ones."""
        return torch.cat([shard[name] for shard in self.shards])

    def norms(self, prefix: str = "") -> torch.Tensor:
        """The teacher's mean norm of each part at each position (W, parts); of its pooled vectors (1, 1) by POOLED."""
        return (self.sums[f"{prefix}norm_sum"] / self.sums[f"{prefix}weight"][:, None]).float()

    def constant(self, prefix: str = "") -> torch.Tensor:
        """The mean unit target of each position (W, D), direction of the best constant predictor; the mean unit pooled
        vector (1, G) by POOLED."""
        return (self.sums[f"{prefix}y"] / self.sums[f"{prefix}weight"][:, None]).float()

    def constant_loss(self) -> float:
        """Loss of the best constant predictor: the mean of cos(u, m) over unit vectors u of mean m is |m|."""
        lengths = norms(self.constant(), self.widths)
        return float(1 - lengths.mean() * max(1, len(self.widths)) ** 0.5)

    def has_constant_start(self) -> bool:
        """Whether the teacher's first position is one vector for every caption, as a causal teacher's is."""
        return bool(self.constant()[0].norm() > 1 - 1e-4)

    def ridge(self, penalty: float, prefix: str = "") -> Ridge:
        """The ridge regression (zhclip/ridge.py) from the untrained student's output to the unit targets; from its
        first position to the unit pooled vectors by POOLED."""
        weight, bias = solve(RidgeSums.from_tensors(self.sums, prefix), penalty)
        return Ridge(weight.float(), bias.float())
