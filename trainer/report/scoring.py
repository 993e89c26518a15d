"""The figures of an encoder over cached captions, beside those of the floors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from zhclip.vectors import centred_similarity, ranks, sentence_vector

from ..cache.shards import Cache
from ..corpus.pairs import Pair
from ..models.student import Student
from ..training.objective import cosine_loss, zone_masks
from .captions import Caption
from .evaluation import Evaluation
from .floors import ORDINARY, Floors
from .retrieval import neighbours, retrieval

BATCH = 64
MAPPED = 20  # captions in the page's heat map
Columns = dict[str, torch.Tensor]


def score(student: Student, parts: Sequence[tuple[Cache, Floors]], pairs: Sequence[Pair]) -> Evaluation:
    """A student over cached pairs, all positions and all layers' states stored, each part beside floors of its own."""
    cache = parts[0][0]
    columns, lengths = measured(student, parts)
    zones = zone_masks(lengths, cache.window)
    english, aligned = columns.pop("english"), columns["aligned"]
    losses = {name: zone_means(own["loss"], zones) for name, own in columns.items()}
    skills = {zone: 1 - losses["aligned"][zone] / loss for zone, loss in losses["constant"].items() if loss > 1e-6}
    whole = {name: retrieval(own["sentence"], english["sentence"]) for name, own in columns.items()}
    content = {name: retrieval(own["content"], english["content"]) for name, own in columns.items()}
    ratios = zone_ratios(aligned["norm"], english["norm"], zones)
    report = {
        "rows": len(lengths),
        "window": cache.window,
        "loss": losses["aligned"],
        "baselines": {name: losses.get(name) for name in ORDINARY},
        "skill": skills["all"],
        "skill_zones": skills,
        "retrieval": whole["aligned"],
        "baselines_retrieval": {name: whole.get(name) for name in ORDINARY},
        "retrieval_content": content["aligned"],
        "baselines_retrieval_content": {name: content.get(name) for name in ORDINARY},
        "norm_ratio": ratios["all"],
        "norm_ratio_zones": ratios,
    }
    if cache.widths:
        report["parts"] = by_part(columns, english, zones, cache.widths)
    loss, within = aligned["loss"].double(), zones["content"]
    loss_content = (loss * within).sum(dim=1) / within.sum(dim=1).clamp_min(1)
    alike, alike_content = (centred_similarity(aligned[of], english[of]) for of in ("sentence", "content"))
    figures = (loss.mean(dim=1), loss_content, ranks(alike), ranks(alike_content))
    nearest = [pairs[row].en for row in neighbours(alike).tolist()]
    rows = zip(pairs, *(column.tolist() for column in figures), nearest, strict=True)
    captions = [Caption(pair.zh, pair.en, *row) for pair, *row in rows]
    mapped = torch.linspace(0, len(loss) - 1, min(MAPPED, len(loss))).long()  # from all over the table
    return Evaluation(report, captions, mapped.tolist(), alike[mapped][:, mapped].tolist())


def by_part(
    columns: dict[str, Columns], english: Columns, zones: dict[str, torch.Tensor], widths: Sequence[int]
) -> dict[str, dict]:
    """Of each of the teacher's encoders, and last of the pooled vector where there is one, the loss and retrieval of
    every predictor: {"loss": {predictor: {zone: mean}}, "retrieval": {predictor: recalls}}."""
    split = {name: own["sentence"].split(tuple(widths), dim=-1) for name, own in columns.items()}
    figures: dict[str, dict] = {}
    for part, goal in enumerate(english["sentence"].split(tuple(widths), dim=-1)):
        losses = {name: zone_means(own["part_loss"][..., part], zones) for name, own in columns.items()}
        recall = {name: retrieval(own[part], goal) for name, own in split.items()}
        figures[f"part {part + 1}, {widths[part]} wide"] = {"loss": losses, "retrieval": recall}
    if "pooled" in english:
        goal, own = english["pooled"], {name: some["pooled"] for name, some in columns.items() if "pooled" in some}
        losses = {name: {"all": float(cosine_loss(z, goal).double().mean())} for name, z in own.items()}
        figures["pooled"] = {"loss": losses, "retrieval": {name: retrieval(z, goal) for name, z in own.items()}}
    return figures


@torch.inference_mode()
def measured(student: Student, parts: Sequence[tuple[Cache, Floors]]) -> tuple[dict[str, Columns], torch.Tensor]:
    """The `measure` of every predictor, and of the `english` targets themselves, over all captions; and the teacher's
    lengths (N,)."""
    batches: dict[str, list[Columns]] = defaultdict(list)
    lengths = torch.cat([part.column("en_length") for part, _ in parts])
    for part, floor in parts:
        nearest = floor.nearest(part.column("pooled"))
        for some in torch.arange(len(part)).split(BATCH):
            chosen = some.tolist()
            ids, target = part.rows("ids", chosen).long(), part.rows("target", chosen).float()
            mask = student.tokens.key_mask(ids)
            predictions = floor.predict(part.rows("frozen_hidden", chosen).float(), [nearest[i] for i in chosen])
            aligned, pooled = student.encode_both(ids)
            for name, z in {"aligned": aligned.cpu(), **predictions}.items():
                batches[name].append(measure(z, target, mask, part.widths))
            ends = part.rows("en_length", chosen)[:, None]
            batches["english"].append(measure(target, target, torch.arange(part.window) < ends, part.widths))
            if pooled is not None:
                known = floor.predict_pooled(
                    part.rows("frozen_hidden", chosen)[:, 0].float(), [nearest[i] for i in chosen]
                )
                known |= {"aligned": pooled.cpu(), "english": part.rows("projected", chosen).float()}
                for name, vectors in known.items():
                    batches[name][-1]["pooled"] = vectors
    joined = {name: {of: torch.cat([one[of] for one in some]) for of in some[0]} for name, some in batches.items()}
    return joined, lengths


def measure(z: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, widths: Sequence[int] = ()) -> Columns:
    """(B, W, D) twice, and the (B, W) positions of the text that z is of, start and end included -> `loss` and `norm`
    (B, W), `sentence` and `content` (B, D): the vectors of all these positions, and of those between start and end.
    With `widths` of several parts `part_loss` (B, W, parts) too."""
    content = zone_masks(mask.sum(dim=1), z.shape[1])["content"]
    own = {"loss": cosine_loss(z, target, widths), "norm": z.norm(dim=-1)}
    if widths:
        sides = zip(z.split(tuple(widths), dim=-1), target.split(tuple(widths), dim=-1))
        own["part_loss"] = torch.stack([cosine_loss(*part) for part in sides], dim=-1)
    return own | {"sentence": sentence_vector(z, mask, widths), "content": sentence_vector(z, content, widths)}


def zone_means(values: torch.Tensor, zones: dict[str, torch.Tensor]) -> dict[str, float]:
    """Mean of values (N, W) in each zone that occurs."""
    return {zone: float(values[where].double().mean()) for zone, where in zones.items() if where.any()}


def zone_ratios(own: torch.Tensor, target: torch.Tensor, zones: dict[str, torch.Tensor]) -> dict[str, float]:
    """Mean norm over the teacher's mean norm, (N, W) both, in each zone that occurs."""
    goals, means = zone_means(target, zones), zone_means(own, zones)
    return {zone: means[zone] / goal for zone, goal in goals.items() if goal}
