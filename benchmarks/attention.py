"""python benchmarks/attention.py [--quick] [--json F]

Attention of a training step on the CPU, forwards and backwards: by its parts (trainer/ragged.py) beside torch's fused
kernel, at the shapes of a full-size step of 32 and of the real pair's step of 128. The trainer takes the parts in bf16.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import rounds
import torch
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(rounds.ROOT))

from trainer.encoders import attention

SHAPES = {"32 of 40 x 64": (32, 12, 40, 64), "128 of 28 x 32": (128, 12, 28, 32)}
"""Captions, heads, positions and width of a head, as `captions of positions x width`."""


def step(attend: Callable[..., torch.Tensor], inputs: list[torch.Tensor], keys: torch.Tensor) -> None:
    """Once forwards and backwards."""
    attend(*inputs, keys).sum().backward()


def case(shape: tuple[int, ...], dtype: torch.dtype, quick: bool) -> rounds.Race:
    """Both ways on the same queries, keys and values (B, H, P, S / H), three quarters of the keys seen."""
    generator = torch.Generator().manual_seed(0)
    batch, heads, positions, width = shape
    # As a linear map leaves them: heads side by side.
    made = [torch.randn(batch, positions, heads, width, generator=generator, dtype=torch.float32) for _ in range(3)]
    inputs = [tensor.to(dtype).transpose(1, 2).requires_grad_() for tensor in made]
    keys = torch.rand(batch, 1, 1, positions, generator=generator) < 0.75
    keys[..., 0] = True
    fused, parts = partial(step, scaled_dot_product_attention), partial(step, attention)
    number = 1 if quick else rounds.ROUNDS
    return rounds.race(lambda: fused(inputs, keys), lambda: parts(inputs, keys), 1 if quick else 8, number, not quick)


def main() -> None:
    """Every shape at both precisions."""
    given = rounds.options(__doc__).parse_args()
    races = {
        f"{name}, {str(dtype).removeprefix('torch.')}": case(shape, dtype, given.quick)
        for name, shape in SHAPES.items()
        for dtype in (torch.float32, torch.bfloat16)
    }
    rounds.tell(races, "fused", given.json)


if __name__ == "__main__":
    main()
