"""The output structure of an aligned encoder: what turns the student's hidden states into conditioning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from .artifact import Artifact
from .vectors import scaled, standardise


@dataclass(frozen=True)
class Structure:
    """Tensors of an artifact (docs/format.md), each of which may be absent, and the widths of a vector's parts."""

    proj_weight: torch.Tensor | None = None  # (D, S)
    proj_bias: torch.Tensor | None = None  # (W, D)
    position0: torch.Tensor | None = None  # (D,)
    empty: torch.Tensor | None = None  # (W, D)
    norms: torch.Tensor | None = None  # (W, P)
    mean: torch.Tensor | None = None  # (D,)
    std: torch.Tensor | None = None  # (D,)
    widths: tuple[int, ...] = ()

    def tensors(self) -> dict[str, Any]:
        """The tensors that are present, by name."""
        return {name: tensor for name, tensor in vars(self).items() if isinstance(tensor, torch.Tensor)}

    def apply(self, hidden: torch.Tensor, is_empty: torch.Tensor | None = None) -> torch.Tensor:
        """The student's hidden states -> conditioning.

        hidden: (B, W, S), any float dtype, or the first positions where there are neither norms nor an empty prompt;
        is_empty: (B,) bool, by default none is. Returns (B, W, D) in hidden's dtype, computed in fp32.
        """
        bias = None if self.proj_bias is None else self.proj_bias[: hidden.shape[1]]
        z = project(hidden.float(), self.proj_weight, bias)
        if self.norms is not None:
            # The teacher's mean norm at each position: the cosine loss leaves the norm free.
            z = scaled(z, self.norms.to(z)[None], self.widths)
        if self.mean is not None and self.std is not None:
            z = z * self.std.to(z) + self.mean.to(z)
        if self.position0 is not None:
            # After the norms, and so exact: the stored vector has its own norm.
            z = torch.cat([self.position0.to(z).expand(len(z), 1, -1), z[:, 1:]], dim=1)
        if self.empty is not None and is_empty is not None:
            z = torch.where(is_empty.to(z.device)[:, None, None], self.empty.to(z)[None], z)
        return z.to(hidden.dtype)

    def standardised(self) -> Structure:
        """The structure whose output is standardised, as losses are measured."""
        stored = {name: standardise(tensor, self.mean, self.std) for name, tensor in self._stored().items()}
        return replace(self, **stored, mean=None, std=None)  # type: ignore[arg-type]

    def restored(self, mean: torch.Tensor | None, std: torch.Tensor | None) -> Structure:
        """The inverse of `standardised`: the structure whose output has this mean and std (D,); itself without them."""
        if mean is None or std is None:
            return self
        return replace(self, **{n: t * std + mean for n, t in self._stored().items()}, mean=mean, std=std)

    def _stored(self) -> dict[str, Any]:
        """The teacher's own vectors."""
        return {name: tensor for name, tensor in self.tensors().items() if name in ("position0", "empty")}


def structures(artifact: Artifact) -> dict[str, Structure]:
    """The structures of an artifact: "structure"; and where it has them "skip", for the layer before the last (clip
    skip), and "pooled", from the student's first position to the pooled vector."""
    groups: dict[str, Any] = {name: getattr(artifact, name) for name in ("structure", "skip", "pooled")}
    widths = {"pooled": (artifact.meta.pooled,)}
    return {
        name: Structure(**tensors, widths=widths.get(name, artifact.meta.widths))
        for name, tensors in groups.items()
        if tensors or name == "structure"
    }


def project(hidden: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """hidden (B, W, S) times weight (D, S) plus bias (W, D); either may be absent."""
    if weight is not None:
        hidden = hidden @ weight.to(hidden).T
    if bias is not None:
        hidden = hidden + bias.to(hidden)
    return hidden
