"""What a scoring during training says, on up to 512 dev captions and the positions that a step would see of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from zhclip.positions import draw_positions
from zhclip.vectors import centred_similarity, ranks, sentence_vector

from ..base.recipe import Recipe
from ..cache.shards import Cache
from ..models.student import Student
from .batches import Captions, Piece
from .objective import cosine_loss

ROWS = 512
BATCH = 64
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Dev:
    """The captions; the constant's loss on them; how many of them the constant and the untrained start find."""

    captions: Captions
    learnt: int  # the first position that is
    constant: float
    constant_finds: int
    start_finds: int
    every: int

    @classmethod
    def of(cls, recipe: Recipe, cache: Cache, student: Student, every: int) -> Dev:
        """The first rows of the dev cache. `student` is as training starts it: its frozen output is there, so that the
        start costs no forward pass."""
        whole = Cache.open(recipe.cache_folder / "dev", student.depth, None)
        some = thinned(whole, min(len(whole), ROWS), recipe.train.pad_positions)
        trunkless = [{name: column for name, column in some.shards[0].items() if name != "frozen_hidden"}]
        dev = cls(Captions(replace(some, shards=trunkless), True), int(cache.has_constant_start()), 0.0, 0, 0, every)
        constant = cache.constant()
        loss, found = dev.scored(student, lambda batch: constant.to(batch["positions"].device)[batch["positions"]])
        start = replace(dev, captions=Captions(some, True)).scored(student, lambda batch: output(student, batch))[1]
        return replace(dev, constant=loss, constant_finds=found, start_finds=start)

    def score(self, student: Student) -> tuple[float, int]:
        """1 - loss / constant, and how many Chinese captions are nearest to their own English one among all of these.

        What a causal teacher's file stores, position 0, is left out of the loss on both sides.
        """
        student.train(False)
        loss, found = self.scored(student, lambda batch: output(student, batch))
        return 1 - loss / self.constant, found

    @torch.no_grad()
    def scored(self, student: Student, predict: Callable[[Batch], torch.Tensor]) -> tuple[float, int]:
        """The loss of a predictor of (B, P, D), and how many captions it finds."""
        total, zh, en = 0.0, [], []
        widths = self.captions.cache.widths
        for rows in torch.arange(len(self.captions)).split(BATCH):
            piece = Piece(rows.tolist(), 0, len(rows))
            batch = {k: tensor.to(student.bert.device) for k, tensor in self.captions.__getitems__(piece).items()}
            z = predict(batch)
            counts = batch["drawn"].masked_fill(batch["positions"] < self.learnt, 0)
            loss = (cosine_loss(z, batch["target"], widths) * counts).sum(dim=1) / counts.sum(dim=1)
            total += float(loss.sum())
            zh.append(sentence_vector(z.float(), student.tokens.key_mask(batch["ids"]), widths))
            en.append(batch["en"])
        found = ranks(centred_similarity(torch.cat(zh), torch.cat(en))) == 0
        return total / len(self.captions), int(found.sum())

    def said(self, found: int) -> str:
        """One sentence about a scoring."""
        floors = f"constant {self.constant_finds}, start {self.start_finds}"
        return f"finds {found} of {len(self.captions)} captions ({floors})"


def output(student: Student, batch: Batch) -> torch.Tensor:
    """(B, P, D) of a batch: all layers, or what a trunk behind the last of them becomes."""
    return student(batch["ids"], batch.get("trunk"), student.depth, batch["positions"], batch["kept"])[0]


def thinned(cache: Cache, rows: int, pads: int | None) -> Cache:
    """The first rows of a cache that has all positions of each, with those alone that training would keep."""
    chosen = list(range(rows))
    length = cache.rows("length", chosen).long()
    chance = torch.rand(rows, cache.window, generator=torch.Generator().manual_seed(0))
    position, count = draw_positions(length, chance, pads)
    at = (torch.arange(rows).repeat_interleave(count), position)
    shard = {name: cache.rows(name, chosen)[at] for name in ("target", "frozen_hidden", "ids")}
    shard |= {name: cache.rows(name, chosen) for name in ("length", "en_length")}
    shard |= {"position": position.short(), "count": count.int()}
    return replace(cache, shards=[shard], shard_rows=rows)
