"""python benchmarks/growth.py FOLDER [--rows 1000 10000 100000 300000] [--plot FILE] [--json F]

What each stage costs as the corpus grows: seconds, and the memory that was its own. Encoders are small (2 layers, 64
wide), so that 300,000 captions take minutes and what grows besides the encoders' work can be seen; training is 100
steps of 128 at any size. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import rounds
from corpus import generate
from memory import watched

sys.path.insert(0, str(rounds.ROOT))

from tests import encoders

STAGES = ("corpus", "cache", "train", "evaluate", "export")
SMALL = {"layers": 2, "size": 21128}


def measure(folder: Path, rows: int) -> dict[str, tuple[float, float]]:
    """All stages on a corpus of so many pairs: seconds and own memory in GB, by stage."""
    here = folder / str(rows)
    here.mkdir(parents=True, exist_ok=True)
    generate(here / "pairs.tsv", rows)
    flags: dict[str, object] = {"run": here / "run", "corpus.train": here / "pairs.tsv"}
    flags |= {"student.model": folder / "student", "teacher.model": folder / "teacher"}
    flags |= {"corpus.dev_share": 200 / rows, "train.steps": 100, "train.layers": 1}
    found = {}
    for stage in STAGES:
        seconds, own, _ = watched(stage, {"run": flags["run"]} if stage == "evaluate" else flags)
        found[stage] = (seconds, own)
    return found


def draw(figures: dict[int, dict[str, tuple[float, float]]], path: Path) -> None:
    """Two panels over the number of captions: seconds, both axes logarithmic, and memory, a line a stage."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, what, label in zip(axes, (0, 1), ("seconds", "own memory, GB")):
        for stage in STAGES:
            axis.plot(list(figures), [found[stage][what] for found in figures.values()], marker="o", label=stage)
        axis.set(xscale="log", yscale=("log", "linear")[what], xlabel="captions", ylabel=label)
        axis.grid(alpha=0.3)
    axes[1].set_ylim(bottom=0)
    axes[0].legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Make the encoders, then measure size after size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 300_000])
    parser.add_argument("--plot", type=Path, help="also draw the figures into this file")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    encoders.student(given.folder / "student", 64, heads=4, **SMALL)
    encoders.clip_teacher(given.folder / "teacher", 64, layers=2, size=49408)
    print(
        f"| captions | {' | '.join(f'{stage}: s, GB' for stage in STAGES)} |\n|---{'|---' * len(STAGES)}|", flush=True
    )
    figures = {}
    for rows in given.rows:
        figures[rows] = found = measure(given.folder, rows)
        cells = " | ".join(f"{seconds:.0f}, {own:.2f}" for seconds, own in found.values())
        print(f"| {rows:,} | {cells} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if given.plot:
        draw(figures, given.plot)


if __name__ == "__main__":
    main()
