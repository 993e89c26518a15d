"""Each stage's cost as the corpus grows, beside growth in proportion: python -m benchmarks.growth FOLDER [--plot FILE]

Further options: [--rows 1000 10000 100000 300000] [--quick] [--json F]. Prints seconds, and the memory that was the
stage's own. Encoders are small (2 layers, 64 wide), so that what grows besides their work can be seen; training is 100
steps of 128 at any size. Linux only.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.encoders import encoders
from benchmarks.rounds import options, watched, write
from benchmarks.texts import captions

STAGES = ("corpus", "cache", "train", "evaluate", "export")


def measure(folder: Path, rows: int, models: dict[str, object], steps: int) -> dict[str, tuple[float, float]]:
    """All stages on a corpus of so many pairs: seconds and own memory in GB, by stage."""
    here = folder / str(rows)
    here.mkdir(parents=True, exist_ok=True)
    flags = {"run": here / "run", "corpus.train": captions(here / "pairs.tsv", rows), **models}
    flags |= {"corpus.dev_share": min(0.2, 200 / rows), "train.steps": steps, "train.layers": 1}
    return {stage: watched(stage, {"run": flags["run"]} if stage == "evaluate" else flags)[:2] for stage in STAGES}


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
    parser = options(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 300_000])
    parser.add_argument("--plot", type=Path, help="also draw the figures into this file")
    given = parser.parse_args()
    student, teacher = encoders(given.folder, 2, 64)
    models: dict[str, object] = {"student.model": student, "teacher.model": teacher}
    figures: dict[int, dict[str, tuple[float, float]]] = {}
    print(
        f"| captions | {' | '.join(f'{stage}: s, GB' for stage in STAGES)} |\n|---{'|---' * len(STAGES)}|", flush=True
    )
    for rows in [200, 400] if given.quick else given.rows:
        figures[rows] = measure(given.folder, rows, models, 2 if given.quick else 100)
        cells = " | ".join(f"{seconds:.0f}, {own:.2f}" for seconds, own in figures[rows].values())
        print(f"| {rows:,} | {cells} |", flush=True)
    (less, before), (more, after) = ([*figures.items()] * 2)[-2:]
    ratios = {stage: after[stage][0] / before[stage][0] / (more / less) for stage in STAGES}
    told = ", ".join(f"{stage} {ratio:.2f}" for stage, ratio in ratios.items())
    print(f"\nA caption's time with {more:,}, by that with {less:,}: {told}")
    write(given.json, {"stages": figures, "ratios": ratios})
    if given.plot:
        draw(figures, given.plot)


if __name__ == "__main__":
    main()
