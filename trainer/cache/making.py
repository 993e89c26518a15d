"""What the frozen encoders make of a shard's captions: the columns that are stored, and the sums of the closed form.

Padding is masked as keys in the student, and CLIP is causal: positions that nobody reads are not computed. The sums
weigh the kept padding for all of it, or, in a small cache, run over all positions (`exact`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from zhclip.bert import unpack
from zhclip.io import digest
from zhclip.positions import draw_positions, position_weights
from zhclip.ridge import RidgeSums, sum_by_position
from zhclip.vectors import norms, sentence_vector, unit

from ..corpus import stage as corpus
from ..corpus.pairs import Pair
from ..models.load import check_finite
from ..models.student import Student
from ..models.teacher import Teacher
from .shards import Shard

EXACT, KEPT = 4, 5  # versions of the arithmetic: sums over all positions, or over those that are kept
FEW = 4096  # captions up to which the sums are exact: of fewer, some padded positions would hardly be drawn


@dataclass(frozen=True)
class Making:
    """Who makes a cache, and what of each caption is stored.

    `depth`: layers of the student whose output is stored, None to store none. `pads`: padded positions that a caption
    keeps, None for all. `batch`: captions a forward pass. `exact`: whether the sums run over all positions.
    """

    teacher: Teacher
    student: Student
    depth: int | None
    pads: int | None = None
    shard_rows: int = 1024
    batch: int = 64
    exact: bool = False

    def settings(self, pairs: list[Pair]) -> dict[str, Any]:
        """What a cache of these pairs is only good for."""
        several = {"parts": [*self.teacher.widths], "pooled": self.teacher.pooled_width} if self.teacher.widths else {}
        return several | {
            "code": EXACT if self.exact else KEPT,
            "corpus": corpus.sha256(pairs),
            "rows": len(pairs),
            "window": self.teacher.window,
            "shard_rows": self.shard_rows,
            "teacher": self.teacher.sha256,
            "layer": self.teacher.layer,
            "student": digest(self.student.bert.state_dict()),
            "pads": self.pads,
        }

    @torch.inference_mode()
    def shard(self, some: list[Pair], number: int) -> tuple[Shard, Shard, Shard]:
        """The captions of shard `number`, their sums, and their trunk."""
        zh = torch.tensor([self.student.tokens.windows(p.zh)[0] for p in some])
        en, en_length = self.teacher.tokens([p.en for p in some])
        length = torch.maximum(self.student.tokens.key_mask(zh).sum(dim=1), en_length)
        chance = torch.rand(len(some), self.teacher.window, generator=torch.Generator().manual_seed(number))
        stored = _by_caption(*draw_positions(length, chance, self.pads))
        computed = _by_caption(*draw_positions(length, chance, None)) if self.exact else stored
        made: list[tuple[torch.Tensor, ...]] = [()] * len(some)
        beside: dict[str, torch.Tensor] = {}
        sums: Shard = {}
        # Captions of like reach together: a causal teacher runs up to the last position that any of them keeps.
        for rows in torch.stack([at[-1] for at in computed]).argsort(stable=True).split(self.batch):
            chosen = rows.tolist()
            counts = [len(computed[row]) for row in chosen]
            positions = pad_sequence([computed[row] for row in chosen], batch_first=True)  # (B, P)
            there = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
            # Filled up with the caption's last, which is padding wherever there is anything to fill.
            positions = torch.where(there, positions, positions.amax(dim=1, keepdim=True))
            tokens = (zh[rows], en[rows], en_length[rows], length[rows])
            target, trunk, vectors, own = self._outputs([some[row] for row in chosen], *tokens, positions, there)
            sums = added(sums, own)
            for row, *outputs in zip(chosen, target.split(counts), trunk.split(counts)):
                at = torch.isin(computed[row], stored[row])
                made[row] = tuple(output[at] for output in outputs)
            for name, vector in vectors.items():
                beside.setdefault(name, vector.new_empty(len(some), vector.shape[1]))[rows] = vector
        targets, trunks = zip(*made)
        captions = {
            "target": torch.cat(targets),
            "position": torch.cat(stored).short(),
            "count": torch.tensor([len(at) for at in stored]).int(),
            "length": length.int(),
            "ids": torch.cat([ids[at] for ids, at in zip(zh, stored)]).int(),
            "en_length": en_length.int(),
            **beside,
        }
        return captions, sums, {"trunk": torch.cat(trunks)}

    @torch.inference_mode()
    def trunk(self, some: list[Pair], captions: Shard) -> Shard:
        """The trunk alone of a shard whose captions are stored: no teacher, and no layers above."""
        counts = captions["count"].tolist()
        parts = []
        for first in range(0, len(some), self.batch):
            rows = slice(first, first + self.batch)
            columns = (captions[name].long().split(counts)[rows] for name in ("ids", "position"))
            ids, at = (pad_sequence(list(column), batch_first=True) for column in columns)
            there = torch.arange(ids.shape[1]) < captions["count"][rows, None]
            stored, _, _ = self._states(ids, at, there, self.depth or 0)
            check_finite(stored.half(), [p.zh for p in some[rows]], "--student.model")
            parts.append(stored.half().cpu())
        return {"trunk": torch.cat(parts)}

    def _outputs(
        self,
        texts: list[Pair],
        zh: torch.Tensor,
        en: torch.Tensor,
        en_length: torch.Tensor,
        length: torch.Tensor,
        positions: torch.Tensor,
        there: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, Shard, Shard]:
        """Of a batch's ids (B, W), lengths (B,), positions and which of them are there (B, P): target (T, D) and trunk
        (T, S) in half precision, by name the captions' vectors beside them, and sums."""
        device, window = self.student.bert.device, zh.shape[1]
        weight = (position_weights(length, there.sum(dim=1), window) * window).flatten()
        ids, en, en_length, positions, there = (
            tensor.to(device) for tensor in (zh.gather(1, positions), en, en_length, positions, there)
        )
        kept = there.flatten().nonzero()[:, 0]
        target, projected = self.teacher.outputs(en, en_length, positions)  # (B, P, D), (B, G) or None
        trunk, last, text = self._states(ids, positions, there, self.depth or 0)
        check_finite(target.half(), [p.en for p in texts], f"--teacher.model {self.teacher.name}")
        for outputs in (last, trunk.half()):
            check_finite(unpack(outputs, kept, there.shape), [p.zh for p in texts], "--student.model")
        widths = self.teacher.widths
        english = sentence_vector(target, (positions < en_length[:, None]) & there, widths)
        states = unpack(last, kept, there.shape)  # (B, P, S)
        beside = {"pooled": sentence_vector(states, text)}
        target = target.flatten(0, 1)[kept]
        at, weight = positions.flatten()[kept], weight.to(device)[kept]
        ridge = RidgeSums.zeros(window, last.shape[1], target.shape[1], device)
        ridge.add(last, unit(target, widths), at, weight)
        sums = ridge.tensors() | {"norm_sum": sum_by_position(norms(target, widths) * weight[:, None], at, window)}
        sums["en_pooled_sum"] = english.double().sum(dim=0)  # (D,)
        if projected is not None:
            check_finite(projected.half(), [p.en for p in texts], f"--teacher.model {self.teacher.name}")
            beside["projected"] = projected
            first = states[:, 0]
            ridge = RidgeSums.zeros(1, first.shape[1], projected.shape[1], device)
            ridge.add(first, unit(projected), torch.zeros_like(en_length), torch.ones(len(first), device=device))
            sums |= ridge.tensors("projected_")
            sums["projected_norm_sum"] = norms(projected).double().sum(dim=0, keepdim=True)  # (1, 1)
        vectors = {name: vector.half().cpu() for name, vector in beside.items()}
        return target.half().cpu(), trunk.half().cpu(), vectors, {name: total.cpu() for name, total in sums.items()}

    def _states(
        self, ids: torch.Tensor, positions: torch.Tensor, there: torch.Tensor, depth: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids, positions and which of them are there, each (B, P) -> the student's states (T, S) after `depth` layers
        and after all, and which are text (B, P)."""
        student, kept = self.student, there.flatten().nonzero()[:, 0]
        text = student.tokens.key_mask(ids) & there
        keys = student.keys(ids) & there
        trunk = student.bert(ids, keys, positions, kept, last=depth)
        return trunk, student.bert(ids, keys, positions, kept, trunk, depth), text


def _by_caption(positions: torch.Tensor, counts: torch.Tensor) -> list[torch.Tensor]:
    return list(positions.split(counts.tolist()))


def added(one: Shard, other: Shard) -> Shard:
    """Two batches' or shards' sums as one; the first may be empty."""
    return {name: value + one[name] for name, value in other.items()} if one else other
