"""Losses by zone, norm ratios and retrieval of an encoder over cached captions, beside its baselines.

A baseline is a predictor without gradient descent, with which every loss is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.functional import normalize

from zhclip.structure import project
from zhclip.vectors import centred_similarity, ranks, recall, sentence_vector

from ..cache.shards import POOLED, Cache
from ..corpus.pairs import Pair
from ..models.student import Student
from ..models.teacher import Teacher
from ..progress import Counter, Listener
from ..training.losses import cosine_loss
from .captions import Caption
from .tables import RANKS

Targets = Callable[[list[int]], torch.Tensor]
BASELINES = ("constant", "nearest", "untrained", "ridge")
BATCH = 32  # captions at once: less than the cache stage computes, so that they fit into memory
Columns = dict[str, torch.Tensor]


def teacher_targets(teacher: Teacher, pairs: list[Pair]) -> Targets:
    """A function from indices of the pairs to the teacher's output (N, W, D) for their English, computed per call."""
    return lambda rows: teacher.encode([pairs[row].en for row in rows])[0].cpu()


class Translations(NamedTuple):
    """A translator's English of each scored pair's Chinese, and the teacher that encodes it."""

    english: list[str]
    teacher: Teacher


class Baselines:
    """Predictors from a cache of other captions than the scored ones, solved from its sums.

    penalty: of the ridge regression. targets: indices of the cache's captions -> targets (N, W, D), needed if the cache
    does not have all positions.
    """

    def __init__(self, cache: Cache, penalty: float, targets: Targets | None = None) -> None:
        self.cache, self.targets = cache, targets or partial(cache.rows, "target")
        self.constant = cache.constant()  # (W, D)
        self.ridge = cache.ridge(penalty)
        self.pooled_ridge = cache.ridge(penalty, POOLED) if cache.pooled_width else None
        total = torch.stack([shard["zh_sentence"].double().sum(dim=0) for shard in cache.shards]).sum(dim=0)
        self.centre = (total / len(cache)).float()  # (S,) mean sentence vector of the untrained student

    def nearest(self, vectors: torch.Tensor) -> list[int]:
        """For each sentence vector (N, S) of the untrained student, the row of the cache with the largest cosine.

        Shard by shard, so that memory does not grow with the corpus.
        """
        centred = normalize(vectors - self.centre, dim=-1)
        columns = (normalize(shard["zh_sentence"] - self.centre, dim=-1) for shard in self.cache.shards)
        cosines, rows = map(torch.stack, zip(*[(centred @ column.T).max(dim=1) for column in columns]))
        shard = cosines.argmax(dim=0)  # (N,)
        return (shard * self.cache.shard_rows + rows.gather(0, shard[None])[0]).tolist()

    def predict(self, untrained: torch.Tensor, nearest: list[int]) -> dict[str, torch.Tensor]:
        """Predictions (B, W, D) by name, from the untrained student's output (B, W, S) and `nearest` of each caption.

        `untrained` itself is one only if it is as wide as the teacher's output.
        """
        predictions = {
            "constant": self.constant.expand(len(untrained), -1, -1),
            "nearest": self.targets(nearest).float(),
            "ridge": project(untrained, self.ridge.weight, self.ridge.bias),
        }
        if untrained.shape[-1] == self.constant.shape[-1]:
            predictions["untrained"] = untrained
        return predictions

    def predict_pooled(self, first: torch.Tensor, nearest: list[int]) -> dict[str, torch.Tensor]:
        """Predictions of pooled vectors (B, G), from the untrained student's output (B, S) at the first position."""
        predictions = {
            "constant": self.cache.constant(POOLED).expand(len(first), -1),
            "nearest": self.cache.rows("teacher_pooled", nearest).float(),
        }
        if self.pooled_ridge is not None:
            predictions["ridge"] = project(first, self.pooled_ridge.weight, self.pooled_ridge.bias)
        return predictions


def score(
    student: Student,
    parts: Sequence[tuple[Cache, Baselines]],
    pairs: Sequence[Pair],
    progress: Listener | None = None,
    translations: Translations | None = None,
) -> tuple[dict[str, Any], list[Caption]]:
    """The report of a student as JSON values, and each pair's own figures.

    parts: caches of the pairs with all positions and all layers' output, each with its own baselines.
    """
    cache = parts[0][0]
    columns, lengths = measure_all(student, parts, progress)
    if translations:
        columns["translator"] = measure_translations(translations, [cache for cache, _ in parts])
    zones = zone_masks(lengths, cache.window)
    english, aligned = columns.pop("english"), columns["aligned"]
    losses = {name: zone_means(own["loss"], zones) for name, own in columns.items()}
    skills = {zone: 1 - losses["aligned"][zone] / loss for zone, loss in losses["constant"].items() if loss > 1e-6}
    whole = {name: retrieval(own["sentence"], english["sentence"]) for name, own in columns.items()}
    content = {name: retrieval(own["content"], english["content"]) for name, own in columns.items()}
    norms, ratios = zone_means(aligned["norm"], zones), zone_means(english["norm"], zones)
    ratios = {zone: norms[zone] / norm for zone, norm in ratios.items() if norm}
    others = (*BASELINES, "translator") if translations else BASELINES
    report = {
        "rows": len(lengths),
        "window": cache.window,
        "loss": losses["aligned"],
        "baselines": {name: losses.get(name) for name in others},
        "skill": skills["all"],
        "skill_zones": skills,
        "retrieval": whole["aligned"],
        "baselines_retrieval": {name: whole.get(name) for name in others},
        "retrieval_content": content["aligned"],
        "baselines_retrieval_content": {name: content.get(name) for name in others},
        "norm_ratio": ratios["all"],
        "norm_ratio_zones": ratios,
    }
    if cache.widths:
        report["parts"] = by_part(columns, english, zones, cache.widths)
    return report, caption_table(aligned, english, zones["content"], pairs)


def caption_table(aligned: Columns, english: Columns, content: torch.Tensor, pairs: Sequence[Pair]) -> list[Caption]:
    """Each caption's figures, in the order of the pairs. content: (N, W) bool."""
    loss = aligned["loss"].double()
    loss_content = (loss * content).sum(dim=1) / content.sum(dim=1).clamp_min(1)
    similarity, by_content = (centred_similarity(aligned[key], english[key]) for key in ("sentence", "content"))
    nearest = similarity.clone().fill_diagonal_(-torch.inf).argmax(dim=1)
    columns = (loss.mean(dim=1), loss_content, ranks(similarity), ranks(by_content), nearest)
    rows = zip(pairs, *(column.tolist() for column in columns), strict=True)
    return [
        Caption(pair.zh, pair.en, loss, loss_content, rank, rank_content, pairs[nearest].en)
        for pair, loss, loss_content, rank, rank_content, nearest in rows
    ]


def by_part(
    columns: dict[str, Columns], english: Columns, zones: dict[str, torch.Tensor], widths: Sequence[int]
) -> dict[str, dict]:
    """Loss and retrieval of every predictor for each of the teacher's encoders, and for the pooled vector if it has
    one: {"loss": {predictor: {zone: mean}}, "retrieval": {predictor: recalls}}."""
    split = {name: own["sentence"].split(tuple(widths), dim=-1) for name, own in columns.items()}
    figures: dict[str, dict] = {}
    for part, target in enumerate(english["sentence"].split(tuple(widths), dim=-1)):
        losses = {name: zone_means(own["part_loss"][..., part], zones) for name, own in columns.items()}
        recalls = {name: retrieval(own[part], target) for name, own in split.items()}
        figures[f"part {part + 1}, {widths[part]} wide"] = {"loss": losses, "retrieval": recalls}
    if "pooled" in english:
        target, pooled = english["pooled"], {name: own["pooled"] for name, own in columns.items() if "pooled" in own}
        losses = {name: {"all": float(cosine_loss(z, target).double().mean())} for name, z in pooled.items()}
        figures["pooled"] = {"loss": losses, "retrieval": {name: retrieval(z, target) for name, z in pooled.items()}}
    return figures


@torch.inference_mode()
def measure_all(
    student: Student, parts: Sequence[tuple[Cache, Baselines]], progress: Listener | None = None
) -> tuple[dict[str, Columns], torch.Tensor]:
    """`measure` of every predictor and of the `english` targets themselves, and the teacher's lengths (N,)."""
    batches: dict[str, list[Columns]] = defaultdict(list)
    lengths = torch.cat([cache.column("en_length") for cache, _ in parts])
    counter = Counter("evaluate", len(lengths), progress)
    for cache, baselines in parts:
        nearest = baselines.nearest(cache.column("zh_sentence"))
        for rows in (part.tolist() for part in torch.arange(len(cache)).split(BATCH)):
            ids, target = cache.rows("ids", rows).long(), cache.rows("target", rows).float()
            untrained, nearest_rows = cache.rows("frozen_hidden", rows).float(), [nearest[row] for row in rows]
            aligned, pooled = student.encode_ids(ids)
            predictions = {"aligned": aligned.cpu(), **baselines.predict(untrained, nearest_rows)}
            mask = student.tokens.key_mask(ids)
            for name, z in predictions.items():
                batches[name].append(measure(z, target, mask, cache.widths))
            ends = cache.rows("en_length", rows)[:, None]
            batches["english"].append(measure(target, target, torch.arange(cache.window) < ends, cache.widths))
            if pooled is not None:
                vectors = baselines.predict_pooled(untrained[:, 0], nearest_rows)
                vectors |= {"aligned": pooled.cpu(), "english": cache.rows("teacher_pooled", rows).float()}
                for name, vector in vectors.items():
                    batches[name][-1]["pooled"] = vector
            counter.add(len(rows))
    return {name: concatenated(own) for name, own in batches.items()}, lengths


def concatenated(batches: list[Columns]) -> Columns:
    """Columns of all batches' rows."""
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


@torch.inference_mode()
def measure_translations(translations: Translations, parts: Sequence[Cache]) -> Columns:
    """`measure` of the teacher's output for the translator's English."""
    english, teacher = translations
    batches, start = [], 0
    for cache in parts:
        for rows in (part.tolist() for part in torch.arange(len(cache)).split(BATCH)):
            texts, start = english[start : start + len(rows)], start + len(rows)
            z, pooled = teacher.encode(texts)
            mask = torch.arange(cache.window) < teacher.tokenize(texts)[1][:, None]
            batches.append(measure(z.cpu(), cache.rows("target", rows).float(), mask, cache.widths))
            if pooled is not None:
                batches[-1]["pooled"] = pooled.cpu()
    return concatenated(batches)


def measure(z: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, widths: Sequence[int] = ()) -> Columns:
    """Figures of vectors z (B, W, D) against the target (B, W, D); mask (B, W) is z's text with start and end token.

    loss, norm (B, W); sentence, content (B, D), the sentence vectors of all text and of that between start and end;
    with the `widths` of several parts also part_loss (B, W, parts).
    """
    content = zone_masks(mask.sum(dim=1), z.shape[1])["content"]
    own = {"loss": cosine_loss(z, target, widths), "norm": z.norm(dim=-1)}
    if widths:
        sides = zip(z.split(tuple(widths), dim=-1), target.split(tuple(widths), dim=-1))
        own["part_loss"] = torch.stack([cosine_loss(*part) for part in sides], dim=-1)
    return own | {"sentence": sentence_vector(z, mask, widths), "content": sentence_vector(z, content, widths)}


def zone_masks(lengths: torch.Tensor, window: int) -> dict[str, torch.Tensor]:
    """The positions (B, window) bool of each zone, from lengths (B,) that count start and end token.

    position0: the start token; content: between start and end; end: the end token; pad: after it; all: every position.
    """
    position = torch.arange(window)[None, :]
    end = (lengths.long() - 1)[:, None]
    return {
        "all": torch.ones_like(position < end),
        "position0": (position == 0).expand(len(lengths), -1),
        "content": (position > 0) & (position < end),
        "end": position == end,
        "pad": position > end,
    }


def zone_means(values: torch.Tensor, zones: dict[str, torch.Tensor]) -> dict[str, float]:
    """Mean of values (N, W) in each zone that has positions."""
    return {zone: float(values[mask].double().mean()) for zone, mask in zones.items() if mask.any()}


def retrieval(zh: torch.Tensor, en: torch.Tensor) -> dict[str, dict[str, float]]:
    """R@k in both directions of sentence vectors (N, D)."""
    similarity = centred_similarity(zh, en)
    directions = {"zh_to_en": similarity, "en_to_zh": similarity.T}
    return {name: {f"R@{k}": recall(matrix, k) for k in RANKS} for name, matrix in directions.items()}
