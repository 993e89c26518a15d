"""Calibration: a closed-form correction of an encoder's projection towards another CLIP than its teacher. Pure tensors.

A fine-tuned checkpoint's CLIP answers a little differently from the CLIP that the encoder was aligned to. Let x be the
student's hidden state at a position, z = W x + b its vector by the projection as it stands, y the checkpoint's vector.
The loss, 1 - cos, leaves the norm of z free, so the goal at that position is y scaled to the norm of z, and what is
missing is r = |z| y / |y| - z. The correction is a ridge regression of r on x, the one that trainer/cache.py solves for
its start, with the penalty on the correction and not on the map: pairs that say nothing leave the encoder as it was.

    D = argmin sum w |r - D x - d|^2 + lambda |D|^2,   W' = W + D,   b' = b + d

d, one vector a position, takes no penalty: x and r are centred at each position. With a projection of zeros it is the
trainer's ridge to unit targets.

The pairs are of one style and prompts are not, so a penalty chosen on more of the same pairs is too small. It is to be
chosen, and the result judged, on pairs that were written otherwise than those that are fitted (docs/calibrate.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.functional import normalize

from .sampling import Batch
from .structure import project

PENALTIES = tuple(10.0 ** (n / 2) for n in range(-8, 5))  # times the mean of the diagonal of Sxx: 1e-4 to 100


@dataclass(frozen=True)
class Projection:
    """What turns hidden states into vectors: weight (D, S) and bias (W, D), either absent."""

    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def apply(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, P, S) states of the first P positions -> (B, P, D)."""
        return project(hidden.float(), self.weight, None if self.bias is None else self.bias[: hidden.shape[1]])


class Sums:
    """The normal equations of the regression, summed in float64 over batches of the first P positions."""

    def __init__(self, window: int, width: int, goal_width: int) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.weight = zeros(window)
        self.x, self.xx = zeros(window, width), zeros(width, width)
        self.r, self.xr = zeros(window, goal_width), zeros(width, goal_width)

    def add(self, x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor) -> None:
        """States (B, P, S), goals (B, P, D), weights (B, P); a weight of 0 leaves a position out."""
        p = x.shape[1]
        x, r, weights = x.double(), r.double(), weights.double()[:, :, None]
        weighted = x * weights
        self.weight[:p] += weights.sum(dim=(0, 2))
        self.x[:p] += weighted.sum(dim=0)
        self.r[:p] += (r * weights).sum(dim=0)
        flat = weighted.flatten(0, 1).T
        self.xx += flat @ x.flatten(0, 1)
        self.xr += flat @ r.flatten(0, 1)

    def plus(self, other: Sums) -> Sums:
        """The sums over both sets of pairs."""
        total = Sums(len(self.weight), self.x.shape[1], self.r.shape[1])
        for name in ("weight", "x", "xx", "r", "xr"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean x (W, S) and mean r (W, D) of each position; 0 where a position has no weight."""
        weight = self.weight.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        return self.x / weight, self.r / weight

    def about(self, x: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sxx and Sxr with x and r measured from a centre at each position, (W, S) and (W, D)."""
        weight = self.weight[:, None]
        cross = self.x.T @ x
        sxx = self.xx - cross - cross.T + (x * weight).T @ x
        sxr = self.xr - self.x.T @ r - x.T @ self.r + (x * weight).T @ r
        return sxx, sxr


def solve(sums: Sums, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The correction: weight (D, S) and bias (W, D), float64. lambda is `penalty` times the mean of Sxx's diagonal."""
    x, r = sums.means()
    sxx, sxr = sums.about(x, r)
    scale = penalty * sxx.diagonal().mean()
    weight = torch.linalg.solve(sxx + scale * torch.eye(len(sxx), dtype=sxx.dtype), sxr)  # (S, D)
    return weight.T.contiguous(), r - x @ weight


def choose(fitted: Sums, left: Sums) -> float:
    """The penalty, of PENALTIES, whose solution on `fitted` has the smallest squared error on `left`.

    Both sides are needed as sums alone: in the eigenvectors of Sxx each penalty costs one product.
    """
    x, r = fitted.means()
    sxx, sxr = fitted.about(x, r)
    values, vectors = torch.linalg.eigh(sxx)
    goal = vectors.T @ sxr  # (S, D)
    left_xx, left_xr = left.about(x, r)
    left_xx, left_xr = vectors.T @ left_xx @ vectors, vectors.T @ left_xr
    scale = sxx.diagonal().mean()
    errors = {}
    for penalty in PENALTIES:
        weight = goal / (values + penalty * scale)[:, None]
        # The squared error without its part that no penalty changes.
        errors[penalty] = float((weight * (left_xx @ weight - 2 * left_xr)).sum())
    return min(errors, key=lambda penalty: errors[penalty])


class Calibration:
    """One layer's calibration: the projection as it stands, and what batches of pairs say of it.

    `causal`: the CLIP's first position sees itself alone, so that its vector is stored and takes no part.
    """

    def __init__(self, start: Projection, window: int, width: int, goal_width: int, causal: bool) -> None:
        self.start, self.causal = start, causal
        self.fitted = Sums(window, width, goal_width)
        self.chooser = Sums(window, width, goal_width)
        self.count, self.norm = torch.zeros(window, dtype=torch.float64), torch.zeros(window, dtype=torch.float64)
        self.unit = torch.zeros(window, goal_width, dtype=torch.float64)
        self.penalty = 0.0

    def add(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, choosing: bool) -> None:
        """States (B, P, S) and the CLIP's vectors (B, P, D) of the first P positions, weights (B, P).

        `choosing`: these pairs choose the penalty, and join the others when it is chosen.
        """
        x, y, p = x.float(), y.float(), x.shape[1]
        each = weights[:, :, None]
        self.count[:p] += weights.double().sum(dim=0)
        self.norm[:p] += (y.norm(dim=-1) * weights).double().sum(dim=0)
        self.unit[:p] += (normalize(y, dim=-1) * each).double().sum(dim=0)
        if self.causal:
            weights = weights.clone()
            weights[:, 0] = 0
        (self.chooser if choosing else self.fitted).add(x, missing(self.start, x, y), weights)

    def solve(self) -> Projection:
        """The corrected projection; `penalty` is then the one that was chosen."""
        self.penalty = choose(self.fitted, self.chooser)
        weight, bias = solve(self.fitted.plus(self.chooser), self.penalty)
        old = torch.eye(*weight.shape) if self.start.weight is None else self.start.weight
        return Projection(
            (old.double() + weight).float(), (bias if self.start.bias is None else self.start.bias + bias).float()
        )

    def norms(self) -> torch.Tensor:
        """(W,) the CLIP's mean norm of each position."""
        return (self.norm / self.count).float()

    def constant(self) -> torch.Tensor:
        """(W, D) the CLIP's mean unit vector of each position: the best constant predictor's direction."""
        return (self.unit / self.count[:, None]).float()


def missing(projection: Projection, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """r of the module's text: states (B, P, S) and the CLIP's vectors (B, P, D) -> (B, P, D)."""
    z = projection.apply(x)
    return z.norm(dim=-1, keepdim=True) * normalize(y.float(), dim=-1) - z


@dataclass
class Score:
    """How near vectors come to the CLIP's: mean of 1 - cos over all positions, and retrieval, by trainer/evaluate.py's
    rules."""

    total: float = 0.0
    count: float = 0.0
    zh: list[torch.Tensor] = field(default_factory=list)
    en: list[torch.Tensor] = field(default_factory=list)

    def add(self, z: torch.Tensor, y: torch.Tensor, batch: Batch) -> None:
        """Vectors (B, P, D) and the CLIP's (B, P, D) of a batch of the held-out pairs."""
        cosine = (normalize(z, dim=-1) * normalize(y.float(), dim=-1)).sum(dim=-1)
        self.total += float(((1 - cosine) * batch.weights).sum())
        self.count += float(batch.weights.sum())
        self.zh.append(sentence(z, batch.texts("zh")))
        self.en.append(sentence(y.float(), batch.texts("en")))

    def loss(self) -> float:
        """The loss, 0 to 2."""
        return self.total / self.count

    def recall(self) -> float:
        """Share of the Chinese texts whose own English one is the nearest, both sides centred; ties count against."""
        zh, en = torch.cat(self.zh), torch.cat(self.en)
        near = normalize(zh - zh.mean(dim=0), dim=-1) @ normalize(en - en.mean(dim=0), dim=-1).T
        return float(((near >= near.diagonal()[:, None]).sum(dim=1) == 1).double().mean())


def sentence(z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(B, P, D) and (B, P) bool -> (B, D): the mean of the unit vectors where the text stands, 0 without any text."""
    return (normalize(z, dim=-1) * text[:, :, None]).sum(dim=1) / text.sum(dim=1, keepdim=True).clamp_min(1)
