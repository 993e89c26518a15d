"""A cache as training and scoring read it: memory-mapped, or on a device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from zhclip.ridge import RidgeSums, solve
from zhclip.vectors import norms

from ..base.files import read_json, read_tensors
from ..base.recipe import SettingsError
from ..models.student import Ridge

CURE = "run the cache stage again, which makes damaged shards anew"
PER_POSITION = ("target", "trunk", "position", "ids")
VECTORS = ("target", "trunk")  # what a step reads most of
# What it decides by, and little else.
BESIDE = ("position", "ids", "count", "length", "en_length", "projected")
SUMS = "sums.safetensors"
Shard = dict[str, torch.Tensor]


def parts_of(depth: int | None, pads: int | None) -> list[str]:
    """Names of a cache's folders, by how many padded positions a caption keeps (None: all) and the trunk's depth."""
    kept = "" if pads is None else f"-pad{pads}"
    return [f"captions{kept}"] + [f"trunk-{depth}{kept}"] * (depth is not None)


def shard_path(folder: Path, index: int) -> Path:
    """Where a folder's shard stands."""
    return folder / f"{index:05d}.safetensors"


def left_out(trunk: Path) -> Path:
    """The note beside a trunk's folder that says that it did not fit, and is not there for that reason."""
    return trunk.with_name(f"{trunk.name}.left-out.txt")


@dataclass(frozen=True)
class Cache:
    """Shards, all columns of each by name, and sums over all captions. `widths` of the targets' parts, where there are
    several; there is then a pooled vector "projected" (G,) fp16 a caption too.

    Columns with a value a position ("target" (_, D) and "trunk" (_, S), both fp16, "position" and "ids") hold the kept
    positions of one caption after another, "count" of them each.
    """

    shards: list[Shard]
    shard_rows: int
    sums: Shard
    widths: tuple[int, ...] = ()

    @classmethod
    def open(cls, folder: Path, depth: int | None, pads: int | None) -> Cache:
        """Open a complete cache, memory-mapped, with the states after `depth` layers unless None or left out.

        Raises SettingsError when a part is missing or unfinished.
        """
        shards: list[Shard] = []
        captions, *trunk = (folder / name for name in parts_of(depth, pads))
        trunk = [some for some in trunk if not left_out(some).is_file()]
        for part in [captions, *trunk]:
            if not (part / "settings.json").is_file():
                raise SettingsError(f"{part}: no cache there; run the cache stage first (`python -m trainer cache`)")
            settings = read_json(part / "settings.json", f"delete {part} and run the cache stage again")
            count = math.ceil(settings["rows"] / settings["shard_rows"])
            missing = [i for i in range(count) if not shard_path(part, i).is_file()]
            if missing:
                raise SettingsError(f"{part}: {len(missing)} of {count} shards are missing; run the cache stage again")
            opened = [read_tensors(shard_path(part, i), CURE) for i in range(count)]
            shards = [a | b for a, b in zip(shards, opened)] if shards else opened
        if not (captions / SUMS).is_file():
            raise SettingsError(f"{captions}: {SUMS} is missing; run the cache stage again")
        widths = tuple(read_json(captions / "settings.json", CURE).get("parts", ()))
        return cls(shards, settings["shard_rows"], read_tensors(captions / SUMS, CURE), widths)

    def moved(self, device: torch.device) -> Cache:
        """A copy of what training reads of single captions, as one shard: its vectors on a device, the rest here, so
        that no step has to wait for a number from there."""
        whole = {name: self.column(name) for name in BESIDE if name in self.shards[0]}
        for name in VECTORS:
            if name in self.shards[0]:
                columns = [shard[name] for shard in self.shards]
                shape = (sum(len(column) for column in columns), *columns[0].shape[1:])
                whole[name] = torch.empty(shape, dtype=columns[0].dtype, device=device)
                for to, column in zip(whole[name].split([len(column) for column in columns]), columns):
                    to.copy_(column)
        return replace(self, shards=[whole], shard_rows=len(self))

    def vector_bytes(self) -> int:
        """What `moved` takes on the device."""
        return sum(shard[name].nbytes for shard in self.shards for name in VECTORS if name in shard)

    def __len__(self) -> int:
        return sum(len(shard["count"]) for shard in self.shards)

    @property
    def stores_trunk(self) -> bool:
        """Whether the frozen layers' output is there."""
        return "trunk" in self.shards[0]

    @property
    def pooled_width(self) -> int:
        """Width of the teacher's pooled vectors, 0 where it has none."""
        return self.shards[0]["projected"].shape[1] if "projected" in self.shards[0] else 0

    @property
    def window(self) -> int:
        """Positions of a caption, padding included."""
        return len(self.sums["y"])

    @property
    def width(self) -> int:
        """Width of the targets."""
        return self.shards[0]["target"].shape[1]

    @cached_property
    def _firsts(self) -> list[torch.Tensor]:
        """Of each shard, where each caption's positions begin in the columns with a value a position."""
        return [shard["count"].long().cumsum(0) - shard["count"] for shard in self.shards]

    def rows(self, name: str, indices: list[int]) -> torch.Tensor:
        """Rows of a column by index, stacked in that order: (B, ...), or (B, P, ...) of one with a value a position.

        P is the largest count among them; a caption with fewer is filled up with its last one, and as "position" with
        the window's last, which is padding. Columns beside those of the class: "count", "length" (positions
        of the longer side's text), "en_length", and the sentence vector "pooled" (S,).
        """
        index = torch.tensor(indices)
        if name not in PER_POSITION:
            return self._gathered(name, index)
        counts = self._gathered("count", index).long()
        at = torch.arange(int(counts.max()))
        rows = self._gathered(name, index, at)
        if name == "position":
            rows = rows.long().masked_fill(at >= counts[:, None], self.window - 1)
        return rows

    def _gathered(self, name: str, index: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        first = self.shards[0][name]
        if len(self.shards) == 1:  # on a device as a rule: nothing to put together, and nothing to wait for
            return first[sent(self._within(0, index, at), first.device)]
        inner = first.shape[1:] if at is None else (len(at), *first.shape[1:])
        out = torch.empty((len(index), *inner), dtype=first.dtype, device=first.device)
        of_shard, of_row = index // self.shard_rows, index % self.shard_rows
        for number in of_shard.unique().tolist():
            here = of_shard == number
            out[here] = self.shards[number][name][self._within(number, of_row[here], at)]
        return out

    def _within(self, number: int, rows: torch.Tensor, at: torch.Tensor | None) -> torch.Tensor:
        """Where a shard's captions (B,) have their values: (B,), or (B, P) of columns with a value a position."""
        if at is None:
            return rows
        last = self.shards[number]["count"][rows].long()[:, None] - 1
        return self._firsts[number][rows][:, None] + torch.minimum(at, last)

    def column(self, name: str) -> torch.Tensor:
        """A whole column in memory; for small ones."""
        return torch.cat([shard[name] for shard in self.shards])

    def norms(self) -> torch.Tensor:
        """The teacher's mean norm of each position (W,), or of each of its parts (W, parts)."""
        table = (self.sums["norm_sum"] / self.sums["weight"][:, None]).float()
        return table if self.widths else table[:, 0]

    def constant(self) -> torch.Tensor:
        """(W, D) the mean unit target of each position: the best constant predictor's direction."""
        return (self.sums["y"] / self.sums["weight"][:, None]).float()

    def constant_loss(self) -> float:
        """The best constant predictor's loss over the cache: the mean of cos(u, m) over unit vectors u of mean m is
        |m|."""
        lengths = norms(self.constant(), self.widths)
        parts = max(1, len(self.widths))
        return float(1 - lengths.mean() * parts**0.5)

    def position0(self) -> bool:
        """Whether the teacher's first position is one vector for every caption, as a causal teacher's is."""
        return bool(self.constant()[0].norm() > 1 - 1e-4)

    def ridge(self, penalty: float) -> Ridge:
        """The ridge regression (zhclip/ridge.py) from the untrained student's output to the unit targets."""
        return _ridge(self.sums, "", penalty)

    def projected_constant(self) -> torch.Tensor:
        """(G,) the mean unit pooled vector."""
        return (self.sums["projected_y"][0] / len(self)).float()

    def projected_norm(self) -> torch.Tensor:
        """(1, 1) the mean norm of the teacher's pooled vectors."""
        return (self.sums["projected_norm_sum"] / len(self)).float()

    def projected_ridge(self, penalty: float) -> Ridge | None:
        """`ridge` from the student's first position to the unit pooled vectors; None where there are none."""
        return _ridge(self.sums, "projected_", penalty) if self.pooled_width else None


def _ridge(sums: Shard, prefix: str, penalty: float) -> Ridge:
    weight, bias = solve(RidgeSums.from_tensors(sums, prefix), penalty)
    return Ridge(weight.float(), bias.float())


def sent(index: torch.Tensor, device: torch.device) -> torch.Tensor:
    """An index where it is needed; a copy to a GPU waits only from memory that is not pinned."""
    return index if device.type == "cpu" else index.pin_memory().to(device, non_blocking=True)
