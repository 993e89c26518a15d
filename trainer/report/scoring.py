"""The figures of an encoder over cached captions, beside those of the floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zhclip.calibration import sentence

from ..cache import Cache
from ..corpus import Pair
from ..encoders import Student
from ..training import ZONES, cosine_loss, zone_masks
from .captions import Caption
from .floors import ORDINARY, Floors
from .retrieval import likeness, neighbours, ranks, retrieval

BATCH = 64
MAPPED = 20  # captions in the page's heat map


class Sums:
    """Sums of losses by zone, and sentence vectors for retrieval, of one predictor."""

    def __init__(self) -> None:
        self.loss = dict.fromkeys(ZONES, 0.0)
        self.count = dict.fromkeys(ZONES, 0)
        self.vectors: list[torch.Tensor] = []
        self.content: list[torch.Tensor] = []

    def add(self, z: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One batch: (B, W, D) twice, teacher lengths (B,), and the (B, W) positions of the predictor's own text.

        Returns the (B, W) losses.
        """
        loss = cosine_loss(z, target)
        for zone, where in zone_masks(lengths, z.shape[1]).items():
            self.loss[zone] += float(loss[where].double().sum())
            self.count[zone] += int(where.sum())
        self.vectors.append(sentence(z, mask))
        self.content.append(sentence(z, content(mask.sum(dim=1), z.shape[1])))
        return loss

    def means(self) -> dict[str, float]:
        """Mean loss of each zone that occurs."""
        return {zone: self.loss[zone] / self.count[zone] for zone in ZONES if self.count[zone]}


class Norms:
    """Sums of norms by zone, the predictor's and the teacher's."""

    def __init__(self) -> None:
        self.own = dict.fromkeys(ZONES, 0.0)
        self.target = dict.fromkeys(ZONES, 0.0)

    def add(self, z: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> None:
        """One batch: (B, W, D) twice, and teacher lengths (B,)."""
        own, goal = z.norm(dim=-1), target.norm(dim=-1)
        for zone, where in zone_masks(lengths, z.shape[1]).items():
            self.own[zone] += float(own[where].double().sum())
            self.target[zone] += float(goal[where].double().sum())

    def ratios(self) -> dict[str, float]:
        """Mean norm over the teacher's mean norm, in each zone that occurs."""
        return {zone: self.own[zone] / self.target[zone] for zone in ZONES if self.target[zone]}


def content(lengths: torch.Tensor, window: int) -> torch.Tensor:
    """Lengths (B,), start and end included -> (B, window) bool: the positions between those two."""
    return zone_masks(lengths, window)["content"]


@dataclass(frozen=True)
class Scored:
    """A report as plain JSON values, and what it was made from, caption by caption."""

    report: dict
    loss: torch.Tensor  # (N,) over all positions
    loss_content: torch.Tensor  # (N,)
    likeness: torch.Tensor  # (N, N) zh by en
    likeness_content: torch.Tensor  # (N, N) by content positions alone

    def captions(self, pairs: Sequence[Pair]) -> list[Caption]:
        """The table of the scored pairs."""
        columns = (self.loss, self.loss_content, ranks(self.likeness), ranks(self.likeness_content))
        nearest = [pairs[i].en for i in neighbours(self.likeness).tolist()]
        rows = zip(pairs, *(column.tolist() for column in columns), nearest, strict=True)
        return [Caption(pair.zh, pair.en, *figures) for pair, *figures in rows]

    def map(self) -> tuple[list[int], list[list[float]]]:
        """Captions from all over the table, and how alike they are, zh by en."""
        chosen = torch.linspace(0, len(self.loss) - 1, min(MAPPED, len(self.loss))).long()
        return chosen.tolist(), self.likeness[chosen][:, chosen].tolist()


@torch.inference_mode()
def scored(student: Student, parts: Sequence[tuple[Cache, Floors]]) -> Scored:
    """A student over cached pairs, all positions and all layers' states stored, each part beside floors of its own."""
    sums: dict[str, Sums] = {}
    norms = Norms()
    en, en_content, losses, losses_content = [], [], [], []
    window = parts[0][0].window
    for part, floor in parts:
        nearest = floor.nearest(part.column("pooled"))
        for some in torch.arange(len(part)).split(BATCH):
            chosen = some.tolist()
            ids, target = part.rows("ids", chosen).long(), part.rows("target", chosen).float()
            lengths, mask = part.rows("en_length", chosen), student.tokens.key_mask(ids)
            aligned = student.encode_ids(ids).cpu()
            predictions = floor.predict(part.rows("trunk", chosen).float(), [nearest[i] for i in chosen])
            loss = sums.setdefault("aligned", Sums()).add(aligned, target, lengths, mask).double()
            norms.add(aligned, target, lengths)
            for name, z in predictions.items():
                sums.setdefault(name, Sums()).add(z, target, lengths, mask)
            within = content(lengths, window)
            losses.append(loss.mean(dim=1))
            losses_content.append((loss * within).sum(dim=1) / within.sum(dim=1).clamp_min(1))
            en.append(sentence(target, torch.arange(window)[None] < lengths[:, None]))
            en_content.append(sentence(target, within))
    found = {name: retrieval(torch.cat(s.vectors), torch.cat(en)) for name, s in sums.items()}
    found_content = {name: retrieval(torch.cat(s.content), torch.cat(en_content)) for name, s in sums.items()}
    means = {name: s.means() for name, s in sums.items()}
    ratios = norms.ratios()
    skills = {z: 1 - means["aligned"][z] / c for z, c in means["constant"].items() if c > 1e-6}
    report = {
        "rows": sum(len(cache) for cache, _ in parts),
        "window": window,
        "loss": means["aligned"],
        "floors": {name: means.get(name) for name in ORDINARY},
        "skill": skills["all"],
        "skill_zones": skills,
        "retrieval": found["aligned"],
        "floors_retrieval": {name: found.get(name) for name in ORDINARY},
        "retrieval_content": found_content["aligned"],
        "floors_retrieval_content": {name: found_content.get(name) for name in ORDINARY},
        "norm_ratio": ratios["all"],
        "norm_ratio_zones": ratios,
    }
    return Scored(
        report,
        loss=torch.cat(losses),
        loss_content=torch.cat(losses_content),
        likeness=likeness(torch.cat(sums["aligned"].vectors), torch.cat(en)),
        likeness_content=likeness(torch.cat(sums["aligned"].content), torch.cat(en_content)),
    )
