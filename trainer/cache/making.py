"""What the frozen encoders make of a shard's captions: the columns that are stored, and the sums of the closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from zhclip.calibration import sentence

from .. import corpus
from ..corpus import Pair
from ..encoders import Student, Teacher, check_finite, digest
from .positions import keep
from .shards import Shard

CODE_VERSION = 4


@dataclass(frozen=True)
class Making:
    """Who makes a cache, and what of each caption is stored.

    `depth`: layers of the student whose output is stored, None to store none. `pads`: padded positions that a caption
    keeps, None for all. `batch`: captions a forward pass.
    """

    teacher: Teacher
    student: Student
    depth: int | None
    pads: int | None = None
    shard_rows: int = 1024
    batch: int = 64

    def settings(self, pairs: list[Pair]) -> dict[str, Any]:
        """What a cache of these pairs is only good for."""
        return {
            "code": CODE_VERSION,
            "corpus": corpus.sha256(pairs),
            "rows": len(pairs),
            "window": self.teacher.window,
            "shard_rows": self.shard_rows,
            "teacher": self.teacher.sha256(),
            "layer": self.teacher.layer,
            "student": digest(self.student.bert),
            "pads": self.pads,
        }

    @torch.inference_mode()
    def shard(self, some: list[Pair], number: int) -> tuple[Shard, Shard, Shard]:
        """The captions of shard `number`, their sums, and their trunk."""
        ids = torch.tensor([self.student.tokens.windows(p.zh)[0] for p in some])
        chance = torch.rand(len(some), self.teacher.window, generator=torch.Generator().manual_seed(number))
        made: list[Shard] = []
        sums: Shard = {}
        for first in range(0, len(some), self.batch):
            at = slice(first, first + self.batch)
            columns, own = self._columns(some[at], ids[at], chance[at])
            made.append(columns)
            sums = added(sums, own)
        captions = {name: torch.cat([columns[name] for columns in made]) for name in made[0]}
        return captions, sums, {"trunk": captions.pop("trunk")}

    @torch.inference_mode()
    def trunk(self, some: list[Pair], captions: Shard) -> Shard:
        """The trunk alone of a shard whose captions are stored: no teacher, and no layers above."""
        device = self.student.bert.device
        ids = torch.tensor([self.student.tokens.windows(p.zh)[0] for p in some])
        parts = [self.student.hidden(part.to(device), self.depth or 0).half() for part in ids.split(self.batch)]
        hidden = torch.cat(parts)
        check_finite(hidden, [p.zh for p in some], "--student.model")
        rows = torch.arange(len(some)).repeat_interleave(captions["count"].long())
        return {"trunk": hidden[rows, captions["position"].long()]}

    def _columns(self, some: list[Pair], ids: torch.Tensor, chance: torch.Tensor) -> tuple[Shard, Shard]:
        """The columns of a batch, trunk among them, and its sums. ids and chance (B, W)."""
        student, depth = self.student, self.depth or 0
        device, zh = student.bert.device, ids.to(student.bert.device)
        target, en_length = self.teacher.encode([p.en for p in some])  # (B, W, D)
        text = student.tokens.key_mask(zh)
        stored = student.hidden(zh, depth)
        last = student.layers(stored, text, depth, student.depth)  # (B, W, S)
        check_finite(target.half(), [p.en for p in some], f"--teacher.model {self.teacher.name}")
        for outputs in (last, stored.half()):
            check_finite(outputs, [p.zh for p in some], "--student.model")
        length = torch.maximum(text.sum(dim=1), en_length).cpu()
        position, count = keep(length, chance, self.pads)
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
        sums = normal_equations(last.double(), target) | {"en_pooled_sum": en.double().sum(dim=0)}  # (D,)
        return {name: column.cpu() for name, column in columns.items()}, {name: x.cpu() for name, x in sums.items()}


def normal_equations(x: torch.Tensor, target: torch.Tensor) -> Shard:
    """Sums over a batch: student (B, W, S) in double precision, teacher (B, W, D)."""
    y = normalize(target, dim=-1).double()
    return {
        "xx": x.flatten(0, 1).T @ x.flatten(0, 1),  # (S, S)
        "xy": x.flatten(0, 1).T @ y.flatten(0, 1),  # (S, D)
        "x_sum": x.sum(dim=0),  # (W, S)
        "unit_sum": y.sum(dim=0),  # (W, D)
        "norm_sum": target.norm(dim=-1).double().sum(dim=0),  # (W,)
    }


def added(one: Shard, other: Shard) -> Shard:
    """Two batches' or shards' sums as one; the first may be empty."""
    return {name: value + one[name] for name, value in other.items()} if one else other
