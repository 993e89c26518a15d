"""Computes what a cache stores of each caption, shard by shard, and the sums for the ridge regression.

Padding is masked as keys in the student and a CLIP teacher is causal, so padded positions that are not stored need not
be computed. A few random ones of each caption are, with weights so that sums over them stand for all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from zhclip.bert import unpack
from zhclip.device import matmul_precision
from zhclip.io import digest
from zhclip.positions import draw_positions, position_weights
from zhclip.ridge import RidgeSums, sum_by_position
from zhclip.vectors import norms, sentence_vector, unit

from ..base.device import is_out_of_memory, rounded_positions, teacher_precision
from ..corpus.pairs import Pair, pairs_sha256
from ..models.load import check_finite
from ..models.student import Student
from ..models.teacher import Teacher
from .shards import POOLED, Tensors

VERSION = 1  # of the arithmetic
SUM_ROWS = 4096  # a smaller cache draws more padded positions for its sums, as many in all as one of this size
T = TypeVar("T")
OnBatch = Callable[[int], object] | None  # called with the number of captions after each batch
logger = logging.getLogger(__name__)


def sum_pads(pads: int | None, rows: int) -> int | None:
    """Padded positions of each caption that the sums of a cache of so many captions run over; None: all of them."""
    return None if pads is None else math.ceil(pads * max(1.0, SUM_ROWS / rows))


@dataclass
class CacheBuilder:
    """Two frozen encoders, the captions, and what is stored of each.

    depth: layers of the student whose output is stored, None for none. pads: padded positions that a caption keeps,
    None for all. batch: captions a forward pass, halved when memory is too small. rows: captions of the whole cache if
    `pairs` are a sample of it.
    """

    teacher: Teacher
    student: Student
    pairs: list[Pair]
    depth: int | None
    pads: int | None = None
    shard_rows: int = 1024
    batch: int = 64
    rows: int | None = None

    def settings(self) -> dict[str, Any]:
        """Settings that this cache depends on."""
        parts = {"parts": [*self.teacher.widths], "pooled": self.teacher.pooled_width} if self.teacher.widths else {}
        return parts | {
            "code": VERSION,
            "corpus": pairs_sha256(self.pairs),
            "rows": len(self.pairs),
            "window": self.teacher.window,
            "shard_rows": self.shard_rows,
            "teacher": self.teacher.sha256,
            "layer": self.teacher.layer,
            "student": digest(self.student.bert.state_dict()),
            "pads": self.pads,
        }

    def shard_pairs(self, number: int) -> list[Pair]:
        """The captions of a shard."""
        return self.pairs[number * self.shard_rows : (number + 1) * self.shard_rows]

    @torch.inference_mode()
    def shard(self, number: int, on_batch: OnBatch = None) -> tuple[Tensors, Tensors, Tensors]:
        """Columns of the captions of a shard, sums over them, and their frozen hidden states.

        Raises ModelError for an output that is not finite.
        """
        pairs = self.shard_pairs(number)
        zh = torch.tensor([self.student.tokens.windows(pair.zh)[0] for pair in pairs])  # (N, W)
        en, en_length = self.teacher.tokenize([pair.en for pair in pairs])  # (N, W), (N,)
        length = torch.maximum(self.student.tokens.key_mask(zh).sum(dim=1), en_length)
        stored, computed = self._draw(length, number)
        target: list[torch.Tensor] = [torch.empty(0)] * len(pairs)
        frozen, columns, sums = list(target), Tensors(), Tensors()

        tokens = {"zh": zh, "en": en, "en_length": en_length, "length": length}

        def outputs(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, Tensors, Tensors]:
            chosen = {name: tensor[rows] for name, tensor in tokens.items()}
            return self._outputs([pairs[row] for row in rows], [computed[row] for row in rows], chosen)

        # Captions of similar reach together: a causal teacher runs up to the last position that any of them needs.
        order = torch.stack([positions[-1] for positions in computed]).argsort(stable=True).tolist()
        for rows, (batch_target, batch_frozen, vectors, batch_sums) in self._in_batches(order, outputs, on_batch):
            counts = [len(computed[row]) for row in rows]
            for row, *values in zip(rows, batch_target.split(counts), batch_frozen.split(counts)):
                mask = torch.isin(computed[row], stored[row])
                target[row], frozen[row] = (value[mask] for value in values)
            for name, vector in vectors.items():
                columns.setdefault(name, vector.new_empty(len(pairs), vector.shape[1]))[rows] = vector
            sums = add_sums(sums, batch_sums)
        columns |= {
            "target": torch.cat(target),
            "position": torch.cat(stored).short(),
            "count": torch.tensor([len(positions) for positions in stored]).int(),
            "length": length.int(),
            "ids": torch.cat([ids[positions] for ids, positions in zip(zh, stored)]).int(),
            "en_length": en_length.int(),
        }
        return columns, sums, {"frozen_hidden": torch.cat(frozen)}

    @torch.inference_mode()
    def frozen_hidden(self, number: int, columns: Tensors, on_batch: OnBatch = None) -> Tensors:
        """Frozen hidden states of a shard whose columns are stored: the student's first layers alone."""
        pairs, counts = self.shard_pairs(number), columns["count"].tolist()
        ids, positions = (columns[name].long().split(counts) for name in ("ids", "position"))

        def outputs(rows: list[int]) -> torch.Tensor:
            device = self.student.bert.device
            padded_ids, mask = (x.to(device) for x in pad_rows([ids[row] for row in rows], device))
            padded_positions = pad_rows([positions[row] for row in rows], device)[0].to(device)
            keys = self.student.keys(padded_ids) & mask
            with matmul_precision("high"):
                states = self.student.bert(padded_ids, keys, padded_positions, flat_index(mask), last=self.depth or 0)
            return half_precision(states, mask, [pairs[row].zh for row in rows])

        batches = self._in_batches([*range(len(pairs))], outputs, on_batch)
        return {"frozen_hidden": torch.cat([states for _, states in batches])}

    def _draw(self, length: torch.Tensor, number: int) -> list[list[torch.Tensor]]:
        """Positions of each caption that are stored, and those that are computed, which include them."""
        chance = torch.rand(len(length), self.teacher.window, generator=torch.Generator().manual_seed(number))
        draws = (
            draw_positions(length, chance, pads)
            for pads in (self.pads, sum_pads(self.pads, self.rows or len(self.pairs)))
        )
        return [list(positions.split(counts.tolist())) for positions, counts in draws]

    def _in_batches(
        self, rows: list[int], run: Callable[[list[int]], T], on_batch: OnBatch
    ) -> Iterator[tuple[list[int], T]]:
        """`run` of at most `batch` rows at a time; a batch that does not fit in memory is halved, as all after it."""
        while rows:
            part, result = rows[: self.batch], None
            try:
                result = run(part)
            except RuntimeError as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
            if result is None:  # outside of `except`, whose traceback holds the tensors
                self.batch = len(part) // 2
                torch.cuda.empty_cache()
                logger.warning("cache: out of memory; continuing with --cache.batch %d", self.batch)
                continue
            if on_batch:
                on_batch(len(part))
            yield part, result
            rows = rows[len(part) :]

    def _outputs(
        self, pairs: list[Pair], computed: list[torch.Tensor], tokens: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor, Tensors, Tensors]:
        """Captions, the positions to compute of each, T in all, token ids (B, W) and lengths (B,) -> targets (T, D)
        and frozen hidden states (T, S) in half precision, vectors (B, ...) by name, and sums."""
        zh, en, en_length, length = tokens.values()
        device = self.student.bert.device
        positions, mask = pad_rows(computed, device)  # (B, P)
        weights = position_weights(length, mask.sum(dim=1), zh.shape[1]) * zh.shape[1]
        weights = torch.nn.functional.pad(weights, (0, mask.shape[1] - weights.shape[1]))
        tensors = (zh.gather(1, positions), en, en_length, positions, mask, weights)
        ids, en, en_length, positions, mask, weights = (tensor.to(device) for tensor in tensors)
        index, keys = flat_index(mask), self.student.keys(ids) & mask
        with teacher_precision(device):
            target, pooled = self.teacher.outputs(en, en_length, positions)  # (B, P, D), (B, G) or None
        with matmul_precision("high"):
            frozen = self.student.bert(ids, keys, positions, index, last=self.depth or 0)  # (T, S)
            last = self.student.bert(ids, keys, positions, index, frozen, self.depth or 0)
        for output in (target, pooled):
            if output is not None:
                check_finite(output.half(), [p.en for p in pairs], f"--teacher.model {self.teacher.name}")
        hidden = unpack(last, index, mask.shape)  # (B, P, S)
        check_finite(hidden, [p.zh for p in pairs], "--student.model")
        vectors = {"zh_sentence": sentence_vector(hidden, self.student.tokens.key_mask(ids) & mask)}
        sums = ridge_sums(last, target[mask], positions[mask], weights[mask], zh.shape[1], self.teacher.widths)
        english = sentence_vector(target, (positions < en_length[:, None]) & mask, self.teacher.widths)
        sums["en_sentence_sum"] = english.double().sum(dim=0)  # (D,)
        if pooled is not None:
            vectors["teacher_pooled"] = pooled
            first = torch.zeros_like(en_length)
            pooled_sums = ridge_sums(hidden[:, 0], pooled, first, torch.ones_like(first), 1, ())
            sums |= {POOLED + name: value for name, value in pooled_sums.items()}
        vectors, sums = ({name: x.cpu() for name, x in columns.items()} for columns in (vectors, sums))
        halves = {name: vector.half() for name, vector in vectors.items()}
        return target[mask].half().cpu(), half_precision(frozen, mask, [p.zh for p in pairs]), halves, sums


def pad_rows(rows: list[torch.Tensor], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths as (B, P), each filled up with its last value, and a mask (B, P) bool, False where
    filled. P is the largest length, rounded up for the device."""
    lengths = torch.tensor([len(row) for row in rows])
    offsets = torch.arange(rounded_positions(int(lengths.max()), device))
    return torch.stack([row[offsets.clamp(max=len(row) - 1)] for row in rows]), offsets < lengths[:, None]


def flat_index(mask: torch.Tensor) -> torch.Tensor:
    """(T,) indices of the True elements of a flat mask (B, P)."""
    return mask.flatten().nonzero()[:, 0]


def half_precision(hidden: torch.Tensor, mask: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Hidden states (T, S) as fp16 on the CPU. Raises ModelError for a text whose states are not finite in it."""
    half = hidden.half()
    check_finite(unpack(half, flat_index(mask), mask.shape), texts, "--student.model")
    return half.cpu()


def ridge_sums(
    x: torch.Tensor, y: torch.Tensor, positions: torch.Tensor, weights: torch.Tensor, window: int, widths: Sequence[int]
) -> Tensors:
    """Sums, float64, over the student's states x (T, S) and the unit vectors of the teacher's y (T, D), whose norms are
    summed too, at their positions (T,) with weights (T,)."""
    ridge = RidgeSums.zeros(window, x.shape[1], y.shape[1], x.device)
    ridge.add(x, unit(y, widths), positions, weights)
    norm_sum = sum_by_position(norms(y, widths) * weights[:, None], positions, window)  # (W, parts)
    return ridge.tensors() | {"norm_sum": norm_sum}


def add_sums(one: Tensors, other: Tensors) -> Tensors:
    """Sums over two batches or shards as one; the first may be empty."""
    return {name: value + one[name] for name, value in other.items()} if one else other
