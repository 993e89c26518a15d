"""Ridge regression with one bias for each position of a window, from sums over batches.

    argmin over M and b of  sum w |y - M x - b[position]|^2 + lambda |M|^2

The biases take no penalty: x and y are centred at each position. lambda is `penalty` times the mean of the diagonal of
the centred sum of x x^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .device import matmul_precision

PENALTIES = tuple(10.0 ** (n / 2) for n in range(-8, 5))  # 1e-4 to 100


@dataclass
class RidgeSums:
    """The weighted sums that the solution depends on, all float64, for a window of W positions, x (S,) and y (D,)."""

    weight: torch.Tensor  # (W,)
    x: torch.Tensor  # (W, S)
    y: torch.Tensor  # (W, D)
    xx: torch.Tensor  # (S, S)
    xy: torch.Tensor  # (S, D)

    @classmethod
    def zeros(cls, window: int, width: int, target_width: int, device: torch.device | str = "cpu") -> RidgeSums:
        """Sums over nothing."""
        shapes = (window,), (window, width), (window, target_width), (width, width), (width, target_width)
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, x: torch.Tensor, y: torch.Tensor, positions: torch.Tensor, weights: torch.Tensor) -> None:
        """Add x (..., S) and y (..., D), which stand at `positions` (...) and count `weights` (...). Products are
        computed in x's dtype, since GPUs are slow in float64, and added up in float64."""
        x, y, weights = x.flatten(0, -2), y.flatten(0, -2), weights.flatten()[:, None].to(x.dtype)
        positions, window = positions.flatten(), len(self.weight)
        weighted = x * weights
        self.weight += sum_by_position(weights, positions, window)[:, 0]
        self.x += sum_by_position(weighted, positions, window)
        self.y += sum_by_position(y * weights, positions, window)
        self.xx += full_precision_product(weighted.T, x)
        self.xy += full_precision_product(weighted.T, y.to(x.dtype))

    def merge(self, other: RidgeSums) -> RidgeSums:
        """The sums over both."""
        return RidgeSums(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean x (W, S) and mean y (W, D) of each position; zeros where a position has no weight."""
        weight = self.weight.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        return self.x / weight, self.y / weight

    def centred(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of x x^T (S, S) and x y^T (S, D) with x and y measured from x (W, S) and y (W, D)."""
        weight = self.weight[:, None]
        cross = self.x.T @ x
        xx = self.xx - cross - cross.T + (x * weight).T @ x
        xy = self.xy - self.x.T @ y - x.T @ self.y + (x * weight).T @ y
        return xx, xy

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """The sums by name, for a file."""
        return {prefix + name: tensor for name, tensor in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], prefix: str = "") -> RidgeSums:
        """The sums that `tensors` gave."""
        return cls(*(tensors[prefix + name] for name in cls.__dataclass_fields__))


def sum_by_position(values: torch.Tensor, positions: torch.Tensor, window: int) -> torch.Tensor:
    """Sum the rows of values (T, N) at each of the `positions` (T,) -> (window, N) float64."""
    sums = torch.zeros(window, values.shape[1], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, positions, values.double())


def full_precision_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b without TF32, whose rounding is above the smallest eigenvalues of the centred sum of x x^T."""
    with matmul_precision("highest"):
        return a @ b


def solve(sums: RidgeSums, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The map (D, S) and the biases (W, D), float64."""
    x, y = sums.means()
    xx, xy = sums.centred(x, y)
    scale = penalty * xx.diagonal().mean()
    solution = torch.linalg.solve(xx + scale * torch.eye(len(xx), dtype=xx.dtype, device=xx.device), xy)  # (S, D)
    return solution.T.contiguous(), y - x @ solution


def choose_penalty(fitted: RidgeSums, held_out: RidgeSums) -> float:
    """The penalty, of PENALTIES, whose solution on `fitted` has the smallest squared error on `held_out`."""
    xx, xy = held_out.centred(*fitted.means())

    def error(penalty: float) -> float:
        """The squared error, less its part that is the same for all penalties."""
        solution = solve(fitted, penalty)[0].T  # (S, D)
        return float((solution * (xx @ solution - 2 * xy)).sum())

    return min(PENALTIES, key=error)
