"""python benchmarks/allocator.py [--captions 256] [--steps 30] [--quick] [--json F]

What keeping freed memory (trainer/allocator.py) is worth: the cache stage and both strategies' training as processes of
their own, beside the same commands with the C library left as it is; seconds from start to end, and the peak of their
own memory. At full shape, 12 x 768 with random weights. Linux only.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import rounds
from memory import watched
from train_step import generate

from tests import encoders

# `python -m trainer` but for the one call.
LEFT = """
import sys
from trainer import stages
from trainer.__main__ import main
stages.keep_freed_memory = lambda: None
sys.exit(main())
"""
SIDES: Mapping[str, tuple[str, str]] = {"plain": ("-c", LEFT), "ours": ("-m", "trainer")}


def main() -> None:
    """Measure in a folder that goes away."""
    parser = rounds.options(__doc__)
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), given)


def measure(folder: Path, given: argparse.Namespace) -> None:
    """Make encoders and captions, then time the stages in turns."""
    layers, width, heads = (4, 64, 4) if given.quick else (12, 768, 12)
    captions, steps = 64 if given.quick else given.captions, given.steps
    student = encoders.student(folder / "student", width, layers=layers, heads=heads, size=rounds.VOCABULARY)
    teacher = encoders.clip_teacher(folder / "teacher", width, layers=layers, size=49408)
    generate(folder / "pairs.tsv", captions)
    flags: dict[str, object] = {"run": folder / "run", "student.model": student, "teacher.model": teacher}
    flags |= {"corpus.train": folder / "pairs.tsv", "corpus.dev_share": 8 / captions, "train.layers": 3}
    training: dict[str, object] = {"train.batch": 32, "train.steps": steps}
    cases: dict[str, tuple[str, str, dict[str, object]]] = {f"cache, {captions} captions": ("cache", "cache", {})}
    if not given.quick:
        cases[f"unfreeze, {steps} steps of 32"] = ("train", "checkpoints", training)
        cases[f"lora, {steps} steps of 32"] = ("train", "checkpoints", training | {"train.strategy": "lora"})
    watched("corpus", flags)
    races = {name: rounds.Race() for name in cases}
    peaks = {name: {"plain": 0.0, "ours": 0.0} for name in cases}
    for at in range(1 if given.quick else rounds.ROUNDS):
        for name, (stage, made, more) in cases.items():
            for side in sorted(SIDES, reverse=at % 2 == 0):
                shutil.rmtree(folder / "run" / made, ignore_errors=True)
                seconds, own, _ = watched(stage, flags | more, SIDES[side])
                getattr(races[name], side).append(seconds)
                peaks[name][side] = max(peaks[name][side], own)
    rounds.tell(races, "as it is", given.json)
    for name, peak in peaks.items():
        print(f"{name}: {peak['plain']:.2f} GB of its own, ours {peak['ours']:.2f}")


if __name__ == "__main__":
    main()
