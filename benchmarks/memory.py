"""The trainer's memory beside holding the cache in memory: python -m benchmarks.memory FOLDER [--rows 300000] [--quick]

Further options: [--captions 2000] [--copies 60] [--steps 50] [--batch 32] [--json F]. At full shape (12 x 768 both, 77
positions, random weights): the corpus stage on `rows` generated pairs, the cache stage on the first `captions` of them,
and `steps` of both strategies on a cache of `copies` times as many, made by copying its shards. Prints each stage's
seconds, the most memory that was its own, and the most with the mapped files that happened to be in memory, which the
system takes back when it needs them. Linux only. To see that it fits, run it where memory is limited:

    systemd-run --scope -p MemoryMax=4G python -m benchmarks.memory FOLDER
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.encoders import encoders
from benchmarks.rounds import options, watched, write
from benchmarks.texts import captions
from trainer.cached import CURE, SUMS
from trainer.files import read_tensors, write_tensors

SMALLEST = {"rows": 400, "captions": 200, "copies": 2, "steps": 2, "batch": 16}


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
    parser = options(__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in {"rows": 300_000, "captions": 2000, "copies": 60, "steps": 50, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if given.quick:
        vars(given).update(SMALLEST)
    folder: Path = given.folder
    student, teacher = encoders(folder, *((4, 64) if given.quick else ()))
    flags: dict[str, object] = {"student.model": student, "teacher.model": teacher, "train.layers": 3}
    flags |= {"corpus.train": captions(folder / "pairs.tsv", given.rows), "corpus.dev_share": 60 / given.rows}
    flags["cache.shard_rows"] = given.captions // 4
    figures: dict[str, tuple[float, float, float]] = {}
    print("| stage | seconds | own memory, GB | with mapped files, GB |\n|---|---|---|---|", flush=True)

    def row(name: str, stage: str, more: dict[str, object]) -> None:
        figures[name] = seconds, own, resident = watched(stage, flags | more)
        print(f"| {name} | {seconds:.0f} | {own:.2f} | {resident:.2f} |", flush=True)

    row(f"corpus, {given.rows:,} rows", "corpus", {"run": folder / "whole"})
    first = {"run": folder / "first", "cache.dir": folder / "cache", "corpus.limit": given.captions}
    row(f"corpus, its first {given.captions:,}", "corpus", first)
    row(f"cache, {given.captions:,} captions", "cache", first)
    size = copied(folder / "cache", folder / "large", given.copies)
    more = {"train.steps": given.steps, "train.batch": given.batch, "corpus.limit": given.captions}
    for strategy in ("unfreeze", "lora"):
        name, run = f"train, {strategy}, {given.steps} steps of {given.batch}", folder / strategy
        row(name, "train", {"run": run, "train.strategy": strategy, "cache.dir": folder / "large", **more})
        print(f"its own by the {size:.2f} GB of the cache, which the plain way holds: {figures[name][1] / size:.2f}")
    write(given.json, {"stages": figures, "cache_gb": size})


if __name__ == "__main__":
    main()
