"""The cache stage beside the bare forward passes that it needs: python -m benchmarks.cache [--captions 256]

Further options: [--sdxl] [--device cpu|cuda] [--quick] [--json F]. The plain way is the teacher's and the student's
passes, all layers at all 77 positions, in batches of the same size, with nothing kept. Ours also tokenises, adds up the
normal equations, picks positions and writes shards, at the kept positions alone. At full shape with random weights:
12 x 768, and with --sdxl a teacher of 12 x 768 and 32 x 1280.
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

import torch

from benchmarks.encoders import encoders, sdxl_teacher
from benchmarks.rounds import options, race, tell
from benchmarks.texts import captions
from trainer.base.recipe import TrainSettings
from trainer.cache import standardise
from trainer.cache.builder import CacheBuilder
from trainer.cache.shards import Cache
from trainer.cache.stage import build
from trainer.corpus.stage import read_pairs
from trainer.models.student import Student, load_student
from trainer.models.teacher import Teacher, load_teacher

ROWS_300K = 300_000


@torch.inference_mode()
def bare(teacher: Teacher, student: Student, words: torch.Tensor, ids: torch.Tensor, batch: int) -> None:
    """Both encoders over ready tokens (N, W)."""
    for english, chinese in zip(words.split(batch), ids.split(batch)):
        for model in teacher.models:
            model(input_ids=english)
        student.bert(chinese, student.keys(chinese))
    if ids.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Make encoders and captions, then time both."""
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--sdxl", action="store_true", help="SDXL's two text encoders as the teacher")
    given = parser.parse_args()
    rows, pads = 32 if given.quick else given.captions, TrainSettings().pad_positions
    with tempfile.TemporaryDirectory() as temporary:
        folder, numbers = Path(temporary), count()
        models = encoders(folder, *((4, 64) if given.quick else ()))
        english = sdxl_teacher(folder / "sdxl", given.quick) if given.sdxl else models[1]
        captions(folder / "pairs.tsv", rows)
        pairs = read_pairs(folder / "pairs.tsv")
        student = load_student(models[0], 77, given.device)
        teacher = standardise.measure(folder, load_teacher(english, 77, device=given.device), pairs)
        whole = dict(padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        words = teacher.tokenizer([pair.en for pair in pairs], **whole)["input_ids"].to(given.device)
        ids = torch.tensor([student.tokens.windows(pair.zh)[0] for pair in pairs], device=given.device)
        depth = student.depth - 3
        builder = CacheBuilder(teacher, student, pairs, depth, pads, rows=ROWS_300K)

        def ours() -> None:
            build(folder / f"cache{next(numbers)}", builder)

        measured = race(lambda: bare(teacher, student, words, ids, builder.batch), ours, given.quick)
        kept = Cache.open(folder / "cache0", depth, pads)
        columns = {column: kept.column(column).nbytes / rows for column in kept.shards[0]}
    size, trunk = sum(columns.values()), columns["frozen_hidden"]
    what, sizes = f"{given.device}, fp32", {"bytes_with_trunk": size, "bytes_without": size - trunk}
    tell({f"{rows} captions": measured}, "bare forwards", what, given.json, **sizes)
    print(f"{rows / measured.summary()['ours_s']:.1f} captions a second")
    print(f"a caption takes {size / 1e3:.1f} kB with the trunk, {(size - trunk) / 1e3:.1f} kB without: ", end="")
    print(f"{size * ROWS_300K / 1e9:.1f} and {(size - trunk) * ROWS_300K / 1e9:.1f} GB for {ROWS_300K:,}")


if __name__ == "__main__":
    main()
