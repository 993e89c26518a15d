"""Seconds and memory as the corpus grows, beside growth in proportion: python -m benchmarks.growth FOLDER [--quick]

Further options: [--rows 1000 10000 100000 300000] [--layers 2] [--width 64] [--strategy unfreeze|lora]. Runs each stage
and prints its seconds and the memory that was its own; files that it maps are not counted, for the system takes them
back. Encoders are small, so that what grows besides their work can be seen; training is 100 steps of 128 at any size.
`--layers 12 --width 768 --rows 2000` shows the memory at full shape. Linux only. To see that it fits, limit it:

    systemd-run --scope -p MemoryMax=1G python -m benchmarks.growth FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.encoders import encoders
from benchmarks.rounds import ROOT
from benchmarks.texts import captions

STAGES = ("corpus", "cache", "train", "evaluate", "export")


def watched(stage: str, flags: dict[str, object]) -> tuple[float, float]:
    """Run one stage: seconds, and the peak of its own memory in GB."""
    arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    began, own = time.perf_counter(), 0.0
    # The table alone goes to stdout.
    process = subprocess.Popen([sys.executable, "-m", "trainer", stage, *arguments], cwd=ROOT, stdout=sys.stderr)
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon"):
                own = max(own, int(line.split()[1]) / 1e6)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{stage} ended with {process.returncode}")
    return time.perf_counter() - began, own


def main() -> None:
    """Make the encoders, then measure size after size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="few captions, two steps: whether it runs, no figures")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 300_000])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--strategy", choices=("unfreeze", "lora"), default="unfreeze")
    given = parser.parse_args()
    sizes, steps = ([200, 400], 2) if given.quick else (given.rows, 100)
    student, teacher = encoders(given.folder, given.layers, given.width)
    models = {"student.model": student, "teacher.model": teacher, "train.strategy": given.strategy}
    print(f"| captions | {' | '.join(f'{stage}: s, GB' for stage in STAGES)} | cache, GB | ratios |")
    print(f"|---{'|---' * len(STAGES)}|---|---|", flush=True)
    before: dict[str, tuple[float, float]] = {}
    for at, rows in enumerate(sizes):
        run = given.folder / str(rows)
        run.mkdir(parents=True, exist_ok=True)
        flags = {
            "run": run,
            "corpus.train": captions(run / "pairs.tsv", rows),
            "corpus.dev_share": min(0.2, 200 / rows),
        }
        flags |= {"train.steps": steps, "train.layers": max(1, given.layers // 4), **models}
        found = {stage: watched(stage, {"run": run} if stage == "evaluate" else flags) for stage in STAGES}
        cache = sum(file.stat().st_size for file in (run / "cache" / "train").rglob("*.safetensors")) / 1e9
        cells = [f"{seconds:.0f}, {own:.2f}" for seconds, own in found.values()]
        ratios = [f"training's memory {found['train'][1] / cache:.2f} of the cache"]
        more = rows / sizes[at - 1]
        ratios += [f"{stage} {found[stage][0] / before[stage][0] / more:.2f}" for stage in STAGES[:2] if before]
        print(f"| {rows:,} | {' | '.join(cells)} | {cache:.2f} | {', '.join(ratios)} |", flush=True)
        before = found
    print("\nThe plain way holds the cache in memory. A stage's ratio: a caption's time by that in the line above.")


if __name__ == "__main__":
    main()
