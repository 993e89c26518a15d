"""The output structure of an aligned encoder: what is stored in the file and not learnt. Pure tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .artifact import Artifact


@dataclass(frozen=True)
class Structure:
    """The tensors of an artifact that shape its output; each may be absent. Shapes as in artifact.py."""

    proj_weight: torch.Tensor | None = None  # (D, S)
    proj_bias: torch.Tensor | None = None  # (W, D)
    position0: torch.Tensor | None = None  # (D,)
    empty: torch.Tensor | None = None  # (W, D)
    norms: torch.Tensor | None = None  # (W,)

    @classmethod
    def of(cls, artifact: Artifact) -> Structure:
        """The structure that a loaded artifact carries."""
        a = artifact
        return cls(a.proj_weight, a.proj_bias, a.position0, a.empty, a.norms)

    @classmethod
    def of_skip(cls, artifact: Artifact) -> Structure | None:
        """The structure behind the layer before the last, when the artifact has a target for it."""
        return cls(**artifact.skip) if artifact.skip else None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are present, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def apply(self, hidden: torch.Tensor, is_empty: torch.Tensor | None = None) -> torch.Tensor:
        """Student hidden states -> conditioning.

        hidden: (B, W, S), any float dtype, or the first P positions where there are neither norms nor an empty prompt;
        is_empty: (B,) bool, by default none is. Returns (B, W, D) in hidden's dtype, computed in fp32. Order (design):
        the projection, position 0 replaced, each vector scaled to the norm table, the empty prompt replaced whole.
        """
        bias = None if self.proj_bias is None else self.proj_bias[: hidden.shape[1]]
        z = project(hidden.float(), self.proj_weight, bias)
        if self.norms is not None:
            # The table is the teacher's mean norm of each position: cosine training leaves the norm free.
            norms = self.norms.to(z)
            z = torch.nn.functional.normalize(z, dim=-1) * norms[None, :, None]
        if self.position0 is not None:
            # Written after the norms, and so exact: the stored vector carries its own norm, which the table repeats.
            z = torch.cat([self.position0.to(z).expand(len(z), 1, -1), z[:, 1:]], dim=1)
        if self.empty is not None and is_empty is not None:
            z = torch.where(is_empty.to(z.device)[:, None, None], self.empty.to(z)[None], z)
        return z.to(hidden.dtype)


def project(hidden: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """(B, W, S) hidden states times (D, S) weight plus (W, D) bias; either may be absent."""
    if weight is not None:
        hidden = hidden @ weight.to(hidden).T
    if bias is not None:
        hidden = hidden + bias.to(hidden)
    return hidden
