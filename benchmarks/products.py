"""python benchmarks/products.py [--quick] [--json F]

Products of a training step on the CPU, forwards and backwards through the maps 768 -> 3,072 -> 768, over as many rows
as batches have positions: each batch's own number beside that number rounded up, as the trainer does (computed() in
trainer/batches.py). In bf16 each number of rows not seen before is compiled first; a batch's own is mostly new.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator

import rounds
import torch
from train_step import LENGTHS

sys.path.insert(0, str(rounds.ROOT))

from trainer.training import ROWS

PADS = 2  # padded positions of a caption that are computed


def numbers(batch: int) -> Iterator[int]:
    """Positions of batch after batch, without end."""
    source = random.Random(0)
    while True:
        yield sum(source.choices(LENGTHS, k=batch)) + PADS * batch


def stepper(counts: Iterator[int], width: int, dtype: torch.dtype) -> Callable[[], None]:
    """What computes the next batch's products."""
    maps = [torch.randn(a, b, dtype=dtype, requires_grad=True) for a, b in ((width, 4 * width), (4 * width, width))]

    def step() -> None:
        x = torch.randn(next(counts), width).to(dtype).requires_grad_()
        (x @ maps[0] @ maps[1]).sum().backward()

    return step


def case(batch: int, dtype: torch.dtype, quick: bool) -> rounds.Race:
    """Both ways over the same batches."""
    own, rounded = itertools.tee(numbers(batch))
    width = 64 if quick else 768
    plain = stepper(own, width, dtype)
    ours = stepper((-(-count // ROWS) * ROWS for count in rounded), width, dtype)
    return rounds.race(plain, ours, 1 if quick else 20, 1 if quick else rounds.ROUNDS, not quick)


def main() -> None:
    """Two sizes of batch at both precisions."""
    given = rounds.options(__doc__).parse_args()
    races = {
        f"{batch} captions, {str(dtype).removeprefix('torch.')}": case(batch, dtype, given.quick)
        for batch in (32, 128)
        for dtype in (torch.bfloat16, torch.float32)
    }
    rounds.tell(races, "own number", given.json)


if __name__ == "__main__":
    main()
