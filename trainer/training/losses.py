"""The training objective and the losses it consists of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from zhclip.vectors import sentence_vector, unit

from ..base.recipe import TrainSettings
from ..cache.shards import Cache
from ..models.student import Student
from .data import Batch

POOLED_WEIGHT = 0.5  # of the pooled vector's loss beside that of all positions
TEMPERATURE = 0.05  # of the contrastive loss


def cosine_loss(z: torch.Tensor, target: torch.Tensor, widths: Sequence[int] = ()) -> torch.Tensor:
    """1 - cos(z, target) along the last dimension: (..., D), (..., D) -> (...), from 0 to 2. The paper's loss.

    With the `widths` of several parts, the mean of the parts' losses.
    """
    return 1 - (unit(z.float(), widths) * unit(target.float(), widths)).sum(dim=-1)


def contrast_loss(
    zh: torch.Tensor, en: torch.Tensor, centre: torch.Tensor, own: torch.Tensor, widths: Sequence[int] = ()
) -> torch.Tensor:
    """InfoNCE from Chinese to English: sentence vectors (B, D) against a step's (N, D), all minus centre (D,) -> (B,).

    own (B, N) bool marks the English of the same caption; more than one where a small corpus repeats it in a step. With
    the `widths` of several parts, the mean of the parts' losses: in a joint one, the part with most variance decides.
    The English side is constant, so a step split over passes or processes has the same gradient as a whole one.
    """
    parts = tuple(widths) or (zh.shape[-1],)
    losses = []
    for zh_part, en_part in zip((zh - centre).split(parts, dim=-1), (en.float() - centre).split(parts, dim=-1)):
        similarity = normalize(zh_part, dim=-1) @ normalize(en_part, dim=-1).T / TEMPERATURE
        losses.append(similarity.logsumexp(dim=1) - similarity.masked_fill(~own, -torch.inf).logsumexp(dim=1))
    return torch.stack(losses).mean(dim=0)


class Loss:
    """The objective of a recipe, with constants from the cache's sums on `device`."""

    def __init__(self, cache: Cache, train: TrainSettings, student: Student, device: torch.device) -> None:
        self.train, self.student, self.widths = train, student, cache.widths
        # (D,) mean English sentence vector, for the contrastive loss
        self.centre = (cache.sums["en_sentence_sum"] / len(cache)).float().to(device)

    def __call__(self, z: torch.Tensor, pooled: torch.Tensor | None, batch: Batch) -> dict[str, torch.Tensor]:
        """Scalars by name, from the student's output (B, P, D), pooled output (B, G) or None, and the batch.

        `loss` is the mean cosine loss over all positions, the one to compare with the baselines; `objective` is what is
        minimised; `pooled` and `contrast` are its other terms before their weights.
        """
        cosine = (cosine_loss(z, batch["target"], self.widths) * batch["weights"]).sum(dim=1).mean()
        terms, objective = {"loss": cosine.detach()}, cosine
        if pooled is not None:
            terms["pooled"] = cosine_loss(pooled, batch["pooled_target"]).mean()
            objective = objective + POOLED_WEIGHT * terms["pooled"]
        if self.train.contrast:
            zh = sentence_vector(z, self.student.tokens.key_mask(batch["ids"]), self.widths)
            terms["contrast"] = contrast_loss(zh, batch["english"], self.centre, batch["own"], self.widths).mean()
            objective = objective + self.train.contrast * terms["contrast"]
        return terms | {"objective": objective}
