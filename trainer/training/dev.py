"""Dev metrics during training: skill and retrieval of up to 512 dev captions, on the positions that a step computes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from zhclip.positions import draw_positions
from zhclip.vectors import centred_similarity, recall, sentence_vector

from ..base.recipe import Recipe
from ..cache.shards import Cache
from ..models.student import Student
from .data import Batch, caption_batch
from .losses import cosine_loss

ROWS = 512
BATCH = 64
logger = logging.getLogger(__name__)


class DevMetrics:
    """The first cached dev captions, and as baselines the training cache's constant and the student before training."""

    def __init__(self, recipe: Recipe, cache: Cache, student: Student) -> None:
        dev = Cache.open(recipe.cache_folder / "dev", student.depth, None)
        self.cache = with_pads(dev, min(len(dev), ROWS), recipe.train.pad_positions)
        # Position 0 is a stored constant for a causal teacher, and not in the loss.
        self.first = int(cache.has_constant_start())
        vectors = cache.constant().to(student.bert.device)
        self.constant_loss, self.constant_recall = self.evaluate(student, lambda batch: vectors[batch["positions"]])
        # The cache has the output of all the student's layers, so that its start needs no forward pass.
        _, self.start_recall = self.evaluate(student, lambda batch: _output(student, batch, batch["frozen_hidden"]))

    def score(self, student: Student, step: int) -> dict[str, float]:
        """dev_skill, 1 - loss / the constant's loss, and dev_recall, R@1 from Chinese to English; also logged."""
        student.train(False)
        loss, found = self.evaluate(student, lambda batch: _output(student, batch, None))
        skill, baselines = 1 - loss / self.constant_loss, (self.constant_recall, self.start_recall)
        logger.info("step %d: dev skill %.3f, R@1 %.3f (constant %.3f, start %.3f)", step, skill, found, *baselines)
        return {"dev_skill": skill, "dev_recall": found}

    @torch.no_grad()
    def evaluate(self, student: Student, predict: Callable[[Batch], torch.Tensor]) -> tuple[float, float]:
        """Mean loss and R@1 of a predictor, which returns vectors (B, P, D) for a batch."""
        total, zh, en = 0.0, [], []
        cache, widths = self.cache, self.cache.widths
        for rows in (part.tolist() for part in torch.arange(len(cache)).split(BATCH)):
            batch = {name: tensor.to(student.bert.device) for name, tensor in caption_batch(cache, rows, rows).items()}
            z = predict(batch)
            weights = batch["weights"].masked_fill(batch["positions"] < self.first, 0)
            loss = (cosine_loss(z, batch["target"], widths) * weights).sum(dim=1) / weights.sum(dim=1)
            total += float(loss.sum())
            zh.append(sentence_vector(z.float(), student.tokens.key_mask(batch["ids"]), widths))
            en.append(batch["english"])
        return total / len(self.cache), recall(centred_similarity(torch.cat(zh), torch.cat(en)))


def _output(student: Student, batch: Batch, hidden: torch.Tensor | None) -> torch.Tensor:
    return student(batch["ids"], hidden, student.depth, batch["positions"], batch["flat_index"])[0]


def with_pads(cache: Cache, rows: int, pads: int | None, seed: int = 0) -> Cache:
    """The first rows of a cache of all positions, as a cache with `pads` random padded positions a caption has them."""
    chosen = list(range(rows))
    length = cache.rows("length", chosen).long()
    chance = torch.rand(rows, cache.window, generator=torch.Generator().manual_seed(seed))
    position, count = draw_positions(length, chance, pads)
    at = (torch.arange(rows).repeat_interleave(count), position)
    shard = {name: cache.rows(name, chosen)[at] for name in ("target", "frozen_hidden", "ids")}
    shard |= {name: cache.rows(name, chosen) for name in ("length", "en_length")}
    shard |= {"position": position.short(), "count": count.int()}
    return Cache([shard], rows, cache.sums, cache.widths)
