"""python benchmarks/cache.py [--device cpu|cuda] [--captions 256] [--quick] [--json F]

The cache stage beside the bare forward passes that it cannot do without: the teacher's and the student's, all layers at
all 77 positions, in batches of the same size, with nothing kept. Ours also tokenises, adds up the normal equations,
picks positions and writes shards. At full shape, 12 x 768 with random weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import rounds
import torch
from train_step import generate

sys.path.insert(0, str(rounds.ROOT))

from tests import encoders
from trainer import cache
from trainer.base import CacheSettings, TrainSettings
from trainer.cache import Cache
from trainer.corpus import Pair, read
from trainer.encoders import Student, Teacher, load_student, load_teacher

ROWS_300K = 300_000


@torch.inference_mode()
def bare(teacher: Teacher, student: Student, words: dict[str, torch.Tensor], ids: torch.Tensor, batch: int) -> None:
    """Both encoders over ready tokens."""
    for first in range(0, len(ids), batch):
        some = slice(first, first + batch)
        teacher.model(input_ids=words["input_ids"][some])
        student.hidden(ids[some], student.depth)
    if ids.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Make encoders and captions, then time both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: whether it runs, no figures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    layers, width, heads = (4, 64, 4) if given.quick else (12, 768, 12)
    captions, settings, pads = 32 if given.quick else given.captions, CacheSettings(), TrainSettings().pad_positions
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoders.student(folder / "student", width, layers=layers, heads=heads, size=rounds.VOCABULARY)
        encoders.clip_teacher(folder / "teacher", width, layers=layers, size=49408)
        generate(folder / "pairs.tsv", captions)
        pairs = [Pair(row.zh, row.en) for row in read(str(folder / "pairs.tsv"))]
        student = load_student(str(folder / "student"), 77, given.device)
        teacher = load_teacher(str(folder / "teacher"), 77, device=given.device)
        whole = dict(padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        words = teacher.tokenizer([pair.en for pair in pairs], **whole).to(given.device)
        ids = torch.tensor([student.tokens.windows(pair.zh)[0] for pair in pairs], device=given.device)
        depth, made = layers - 3, iter(range(10**6))

        def ours() -> None:
            out = folder / f"cache{next(made)}"
            cache.build(out, pairs, cache.Making(teacher, student, depth, pads, settings.shard_rows, settings.batch))

        race = rounds.race(
            lambda: bare(teacher, student, words, ids, settings.batch),
            ours,
            repeat=1,
            number=1 if given.quick else rounds.ROUNDS,
            warm=True,
        )
        kept = Cache.open(folder / "cache0", depth, pads)
        columns = [(column, kept.column(column).nbytes) for column in kept.shards[0]]
    size = sum(size for _, size in columns) / captions
    without = size - dict(columns)["trunk"] / captions
    figures = race.summary()
    print(f"{given.device}, fp32, {torch.get_num_threads()} threads, {captions} captions")
    print(rounds.table({f"{captions} captions": race}, "bare forwards"))
    print(f"{captions / figures['ours_s']:.1f} captions a second, {100 / figures['ratio']:.0f} % of the bare forwards")
    print(f"a caption takes {size / 1e3:.1f} kB with the trunk, {without / 1e3:.1f} kB without: ", end="")
    print(f"{size * ROWS_300K / 1e9:.1f} and {without * ROWS_300K / 1e9:.1f} GB for {ROWS_300K:,}")
    extra = {"captions": captions, "bytes_with_trunk": size, "bytes_without": without, "device": given.device}
    rounds.write(given.json, figures | extra)


if __name__ == "__main__":
    main()
