"""What a step minimises."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from zhclip.calibration import sentence

from ..base import TrainSettings
from ..cache import Cache, shares
from ..encoders import Student
from .kv import Layer, kv_loss, load_layers
from .objective import contrast_loss, cosine_loss

POOLED = 0.5  # weight of the pooled vector's loss beside that of all positions
BANK = 64  # captions whose contents ask, and whose encodings tell the scale


@dataclass(frozen=True)
class Loss:
    """The terms of a recipe, with the constants that they need."""

    train: TrainSettings
    student: Student
    centre: torch.Tensor | None = None  # (D,) mean English sentence vector
    widths: tuple[int, ...] = ()  # of the targets' parts
    norms: torch.Tensor | None = None  # (W,)
    position0: bool = False
    layers: list[Layer] = field(default_factory=list)

    @classmethod
    def of(cls, cache: Cache, train: TrainSettings, student: Student, device: torch.device) -> Loss:
        """Read the constants from the cache and, for kv, the UNet."""
        centre = (cache.sums["en_pooled_sum"] / len(cache)).float().to(device) if train.contrast else None
        if not train.kv or not train.unet:
            return cls(train, student, centre, cache.widths)
        generator = torch.Generator().manual_seed(train.seed)
        bank = torch.randperm(len(cache), generator=generator)[:BANK].tolist()
        captions, lengths = cache.rows("target", bank).float().to(device), cache.rows("en_length", bank)
        drawn = shares(cache.rows("length", bank), cache.rows("count", bank), cache.window).to(device)
        layers = load_layers(train.unet, captions, drawn, lengths)
        return cls(train, student, centre, (), cache.norms().to(device), cache.position0(), layers)

    def __call__(
        self, z: torch.Tensor, pooled: torch.Tensor | None, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The model's output (B, P, D), with (B, G) or None, and a batch -> scalars by name.

        `loss` is the plain cosine loss over all positions, the one to hold beside the floors; `objective` is what is
        minimised; the others are its parts before their weights.
        """
        train = self.train
        cosine = cosine_loss(z, batch["target"], self.widths)  # (B, P)
        terms = {"loss": (cosine.detach() * batch["drawn"]).sum(dim=1).mean()}
        objective = (cosine * batch["drawn"]).sum(dim=1).mean()
        if pooled is not None:
            terms["pooled"] = cosine_loss(pooled, batch["projected"]).mean()
            objective = objective + POOLED * terms["pooled"]
        if train.contrast and self.centre is not None:
            text = self.student.tokens.key_mask(batch["ids"])
            zh = sentence(z, text, self.widths)
            terms["contrast"] = contrast_loss(zh, batch["en"], self.centre, batch["own"], self.widths).mean()
            objective = objective + train.contrast * terms["contrast"]
        if self.layers:
            out = self._as_the_node_gives(z, batch)
            terms["kv"] = kv_loss(out, batch["target"], batch["drawn"], self.layers).mean()
            objective = objective + train.kv * terms["kv"]
        return terms | {"objective": objective}

    def _as_the_node_gives(self, z: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, P, D) with the norms and the first position that the file's structure will give."""
        if self.norms is not None:
            z = torch.nn.functional.normalize(z, dim=-1) * self.norms[batch["positions"]][:, :, None]
        return torch.cat([batch["target"][:, :1].float(), z[:, 1:]], dim=1) if self.position0 else z
