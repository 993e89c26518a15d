"""A step of training beside the plain loop's: python -m benchmarks.train_step [--strategy unfreeze|lora] [--batch 32]

Further options: [--sdxl] [--captions 512] [--device auto|cpu|cuda] [--quick]. At full shape, 12 x 768 with random
weights and 77 positions: stored frozen hidden states and compact positions against every layer at every position
(plain_loop.py). With --sdxl the recommended recipe's step to SDXL's two text encoders and pooled vector beside its step
to CLIP-L. Both train in turns, in one process, the same strategy at the same precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import plain_loop
from benchmarks.inputs import captions, encoders, sdxl_teacher
from benchmarks.rounds import Race, options, print_table, race
from trainer.base.device import default_device, use_device
from trainer.base.recipe import CacheSettings, CorpusSettings, Recipe, StudentSettings, TeacherSettings, TrainSettings
from trainer.cache import stage as cache
from trainer.corpus import stage as corpus
from trainer.corpus.pairs import read_pairs
from trainer.models.freezing import frozen_depth
from trainer.models.teacher import teacher_from_recipe
from trainer.models.tokenizer import student_tokenizer
from trainer.report.score import teacher_targets
from trainer.training import checkpoint, setup
from trainer.training.loop import clip_gradient


def write_inputs(folder: Path, rows: int, train: TrainSettings, quick: bool = False, sdxl: bool = False) -> Recipe:
    """Write encoders and so many captions to train on. Returns their recipe."""
    student, teacher = encoders(folder, *((4, 64) if quick else ()))
    teacher = sdxl_teacher(folder / "sdxl", quick) if sdxl else teacher
    dev = captions(folder / "dev.tsv", 32, rows)
    return Recipe(
        str(folder / "run"),
        student=StudentSettings(student),
        teacher=TeacherSettings(teacher),
        corpus=CorpusSettings(train=captions(folder / "train.tsv", rows), dev=dev, near=None),
        cache=CacheSettings(dir=str(folder / "cache"), shard_rows=rows),
        train=train,
        install=None,
    )


def cached(recipe: Recipe) -> Recipe:
    """The recipe, with its corpus and cache stages done."""
    corpus.run(recipe)
    cache.run(recipe)
    return recipe


def ours(recipe: Recipe) -> Iterator[None]:
    """The trainer's loop without its logs and checkpoints. Yields after each step."""
    training = setup.Training.open(recipe)
    assert training is not None
    accelerator, student, limit = training.accelerator, training.student, recipe.train.clip or 1.0
    learning, depth = checkpoint.trainable(student), frozen_depth(recipe.train, student.depth) or 0
    model, optimiser = accelerator.prepare(student, training.optimiser)
    model.train()
    for batch in training.batches():
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        z, pooled = model(batch["ids"], batch.get("frozen_hidden"), depth, batch["positions"], batch["flat_index"])
        accelerator.backward(training.loss(z, pooled, batch)["objective"])
        clip_gradient(accelerator, list(learning.values()), limit)
        optimiser.step()
        optimiser.zero_grad()
        yield


def plain(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """The plain loop on the same captions, the teacher's outputs in memory."""
    pairs, batch = read_pairs(recipe.folder / "corpus" / "train.tsv"), recipe.train.batch
    targets, rows = teacher_targets(teacher_from_recipe(recipe, device), pairs), range(len(pairs))
    target = torch.cat([targets(list(rows[at : at + 64])).half() for at in rows[::64]]).to(device)
    tokens = student_tokenizer(str(recipe.student.model), recipe.window)
    ids = torch.tensor([tokens.windows(pair.zh)[0] for pair in pairs], device=device)
    model = plain_loop.load(Path(str(recipe.student.model)), recipe.train.strategy).to(device)
    return plain_loop.steps(model, ids, (ids != 0).long(), target, batch, setup.precision(recipe.train))


def run_step(steps: Iterator[None], device: torch.device) -> None:
    """One step, and wait until it is done: a GPU computes after the call returns."""
    next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()


def race_steps(first: Iterator[None], second: Iterator[None], device: torch.device, quick: bool) -> Race:
    """Steps of both in turns."""
    return race(lambda: run_step(first, device), lambda: run_step(second, device), quick, repeat=4)


def main() -> None:
    """Make encoders, captions and cache, then time both."""
    parser = options(__doc__)
    parser.add_argument("--strategy", choices=("unfreeze", "lora"), default="unfreeze")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--captions", type=int, default=512, help="at least a batch of them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--sdxl", action="store_true", help="SDXL's step beside SD1.5's")
    given = parser.parse_args()
    use_device(given.device)
    device, batch = torch.device(default_device()), 8 if given.quick else given.batch
    rows = 64 if given.quick else max(given.captions, batch)
    settings = TrainSettings(strategy=given.strategy, batch=batch, steps=10**6)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.sdxl:
            kinds = ("sd15", "sdxl")
            first, second = (
                ours(cached(write_inputs(folder / kind, rows, settings, given.quick, kind == "sdxl"))) for kind in kinds
            )
        else:
            settings.layers, settings.start, settings.contrast = plain_loop.LAYERS, "student", 0.0
            recipe = cached(write_inputs(folder, rows, settings, given.quick))
            first, second = plain(recipe, device), ours(recipe)
        measured = race_steps(first, second, device, given.quick)
    conditions = f"{device.type}, precision {setup.precision(settings)}, {rows} captions"
    plain_name = "SD1.5's" if given.sdxl else "plain loop"
    print_table({f"{given.strategy}, a step of {batch}": measured}, plain_name, conditions)


if __name__ == "__main__":
    main()
