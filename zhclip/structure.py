"""The output structure of an aligned encoder: what is stored in the file and not learnt. Pure tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from .artifact import Artifact
from .vectors import scaled, standardise

STORED = ("position0", "empty")  # vectors of the teacher's own


@dataclass(frozen=True)
class Structure:
    """The tensors of an artifact that shape its output; each may be absent. Shapes as in artifact.py. `widths` are of
    the parts of a vector, where there are several."""

    proj_weight: torch.Tensor | None = None  # (D, S)
    proj_bias: torch.Tensor | None = None  # (W, D)
    position0: torch.Tensor | None = None  # (D,)
    empty: torch.Tensor | None = None  # (W, D)
    norms: torch.Tensor | None = None  # (W,), or (W, parts)
    mean: torch.Tensor | None = None  # (D,)
    std: torch.Tensor | None = None  # (D,)
    widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, artifact: Artifact) -> Structure:
        """The structure that a loaded artifact carries."""
        tensors: dict[str, Any] = dict(artifact.structure)
        return cls(**tensors, widths=artifact.meta.widths)

    @classmethod
    def of_skip(cls, artifact: Artifact) -> Structure | None:
        """The structure behind the layer before the last, when the artifact has a target for it."""
        tensors: dict[str, Any] = dict(artifact.skip)
        return cls(**tensors, widths=artifact.meta.widths) if tensors else None

    @classmethod
    def of_pooled(cls, artifact: Artifact) -> Structure | None:
        """The structure of the pooled vector, behind the student's first position, when the artifact has one."""
        tensors: dict[str, Any] = dict(artifact.pooled)
        return cls(**tensors, widths=(artifact.meta.pooled,)) if tensors else None

    def tensors(self) -> dict[str, Any]:
        """The tensors that are present, by name."""
        return {name: tensor for name, tensor in vars(self).items() if isinstance(tensor, torch.Tensor)}

    def apply(self, hidden: torch.Tensor, is_empty: torch.Tensor | None = None) -> torch.Tensor:
        """Student hidden states -> conditioning.

        hidden: (B, W, S), any float dtype, or the first P positions where there are neither norms nor an empty prompt;
        is_empty: (B,) bool, by default none is. Returns (B, W, D) in hidden's dtype, computed in fp32. In order: the
        projection, each vector scaled to the norm table, standardised ones restored, position 0 replaced, the empty
        prompt replaced whole.
        """
        bias = None if self.proj_bias is None else self.proj_bias[: hidden.shape[1]]
        z = project(hidden.float(), self.proj_weight, bias)
        if self.norms is not None:
            # The table is the teacher's mean norm of each position: cosine training leaves the norm free.
            norms = self.norms.to(z)
            z = scaled(z, norms[None] if norms.dim() == 2 else norms[None, :, None], self.widths)
        if self.mean is not None and self.std is not None:
            z = z * self.std.to(z) + self.mean.to(z)
        if self.position0 is not None:
            # Written after the norms, and so exact: the stored vector carries its own norm, which the table repeats.
            z = torch.cat([self.position0.to(z).expand(len(z), 1, -1), z[:, 1:]], dim=1)
        if self.empty is not None and is_empty is not None:
            z = torch.where(is_empty.to(z.device)[:, None, None], self.empty.to(z)[None], z)
        return z.to(hidden.dtype)

    def standardised(self) -> Structure:
        """The structure whose output is standardised, as losses are measured."""
        stored: dict[str, Any] = {
            n: standardise(t, self.mean, self.std) for n in STORED if (t := getattr(self, n)) is not None
        }
        return replace(self, **stored, mean=None, std=None)

    def restored(self, mean: torch.Tensor | None, std: torch.Tensor | None) -> Structure:
        """The structure whose output is the teacher's own vectors, of one whose output is standardised by these."""
        if mean is None or std is None:
            return self
        stored = {name: t * std + mean for name in STORED if (t := getattr(self, name)) is not None}
        return replace(self, **stored, mean=mean, std=std)


def project(hidden: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """(B, W, S) hidden states times (D, S) weight plus (W, D) bias; either may be absent."""
    if weight is not None:
        hidden = hidden @ weight.to(hidden).T
    if bias is not None:
        hidden = hidden + bias.to(hidden)
    return hidden
