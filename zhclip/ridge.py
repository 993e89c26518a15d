"""Ridge regression with a bias at each position, from sums over batches. Pure tensors.

    argmin over D and d of  sum w |r - D x - d|^2 + lambda |D|^2

d, one vector a position, takes no penalty: x and r are centred at each position.
"""

from __future__ import annotations

import torch

PENALTIES = tuple(10.0 ** (n / 2) for n in range(-8, 5))  # times the mean of the diagonal of Sxx: 1e-4 to 100


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
    """The penalty, of PENALTIES, whose solution on `fitted` has the smallest squared error on `left`."""
    sxx, sxr = left.about(*fitted.means())

    def error(penalty: float) -> float:
        """Without its part that no penalty changes."""
        weight = solve(fitted, penalty)[0].T  # (S, D)
        return float((weight * (sxx @ weight - 2 * sxr)).sum())

    return min(PENALTIES, key=error)
