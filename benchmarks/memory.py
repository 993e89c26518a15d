"""python benchmarks/memory.py FOLDER [--rows 300000] [--captions 2000] [--copies 60] [--steps 50]

What the trainer holds in memory, at full shape (12 x 768 both, 21,128 and 49,408 tokens, 77 positions, random weights):
the corpus stage on `rows` generated pairs, the cache stage on the first `captions` of them, and `steps` of both
strategies on a cache of `copies` times as many, made by copying its shards. For each stage: seconds, the most memory
that was its own, and the most with the mapped files that happened to be in memory, which the system takes back when it
needs them. Linux only. To see that it fits, run it where memory is limited:

    systemd-run --scope -p MemoryMax=4G python benchmarks/memory.py FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import rounds
from corpus import generate

sys.path.insert(0, str(rounds.ROOT))

from tests import encoders
from trainer.base import read_tensors, write_tensors
from trainer.cache import CURE, SUMS

LAYERS = 12


def watched(
    stage: str, flags: dict[str, object], entry: tuple[str, str] = ("-m", "trainer")
) -> tuple[float, float, float]:
    """Run one stage: seconds, and the peak of its own memory and of all that was resident, in GB."""
    arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    began = time.perf_counter()
    command = [sys.executable, *entry, stage, *arguments]
    process = subprocess.Popen(command, cwd=rounds.ROOT, stdout=sys.stderr)  # the table alone goes to stdout
    own = resident = 0.0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
        own = max(own, kilobytes.get("RssAnon", 0) / 1e6)
        resident = max(resident, sum(kilobytes.values()) / 1e6)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{stage} ended with {process.returncode}")
    return time.perf_counter() - began, own, resident


def copied(cache: Path, large: Path, copies: int) -> float:
    """Write the training shards of a cache `copies` times over, and its sums as often. Returns the new size in GB."""
    for part in sorted((cache / "train").iterdir()):
        to = large / "train" / part.name
        to.mkdir(parents=True, exist_ok=True)
        shards = sorted(part.glob("[0-9]*.safetensors"))
        for at in range(copies * len(shards)):
            shutil.copyfile(shards[at % len(shards)], to / f"{at:05d}.safetensors")
        for sums in part.glob(SUMS):
            added = {name: copies * value for name, value in read_tensors(sums, CURE).items()}
            write_tensors(to / SUMS, added)
        settings = json.loads((part / "settings.json").read_text(encoding="utf-8"))
        settings["rows"] *= copies
        (to / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return sum(file.stat().st_size for file in large.rglob("*.safetensors")) / 1e9


def main() -> None:
    """Make the encoders and the corpus, then run the stages one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--small", action="store_true", help="one layer of each encoder: whether it runs, no figures")
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    layers = 4 if given.small else LAYERS
    width = 64 if given.small else 768
    student = encoders.student(
        folder / "chinese-clip", width, layers=layers, heads=12 if width == 768 else 4, size=21128
    )
    teacher = encoders.clip_teacher(folder / "clip-l", width, layers=layers, size=49408)
    generate(folder / "pairs.tsv", given.rows)
    flags = {"student.model": student, "teacher.model": teacher, "corpus.train": folder / "pairs.tsv"}
    flags |= {"corpus.dev_share": 60 / given.rows, "cache.shard_rows": given.captions // 4, "train.layers": 3}
    cache, large = folder / "cache", folder / "large"
    print("| stage | seconds | own memory, GB | with mapped files, GB |\n|---|---|---|---|", flush=True)

    def row(name: str, stage: str, more: dict[str, object]) -> float:
        seconds, own, resident = watched(stage, flags | more)
        print(f"| {name} | {seconds:.0f} | {own:.2f} | {resident:.2f} |", flush=True)
        return seconds

    row(f"corpus, {given.rows:,} rows", "corpus", {"run": folder / "whole"})
    first = {"run": folder / "first", "cache.dir": cache, "corpus.limit": given.captions}
    row(f"corpus, its first {given.captions:,}", "corpus", first)
    seconds = row(f"cache, {given.captions:,} captions", "cache", first)
    size = copied(cache, large, given.copies)
    steps = {"cache.dir": large, "train.steps": given.steps, "train.batch": given.batch, "corpus.limit": given.captions}
    for strategy in ("unfreeze", "lora"):
        name = f"train, {strategy}, {given.steps} steps of {given.batch} from {size:.1f} GB of cache"
        row(name, "train", {"run": folder / strategy, "train.strategy": strategy, **steps})
    hours = seconds / given.captions * given.rows / 3600
    print(f"\nThe cache stage at this rate for {given.rows:,} captions: {hours:.1f} hours (not run).")


if __name__ == "__main__":
    main()
