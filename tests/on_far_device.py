"""python -m tests.on_far_device PART [--planted]: a part of training with its models on a device of its own.

With --planted one tensor is left on the CPU, as a forgotten `.to(device)` would leave it, or in memory that is not
pinned; the process must then fail.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from safetensors.torch import load_file

from tests.far_device import DOUBLE, NAME, WAITS  # first: it changes torch

from tests import diffusion, encoders, runs, small  # isort: skip
from tests.small import captions
from trainer.base.recipe import TrainSettings
from trainer.base.settings import parse_recipe
from trainer.cache import stage as cache
from trainer.cache.builder import CacheBuilder
from trainer.cache.shards import Cache
from trainer.cache.stage import build
from trainer.corpus import stage as corpus
from trainer.corpus.pairs import Pair
from trainer.models.student import Student, load_student
from trainer.models.teacher import Teacher, load_teacher
from trainer.report import score as scoring
from trainer.report.score import Baselines, score, teacher_targets
from trainer.training import checkpoint, setup
from trainer.training import loop as training
from zhclip import artifact as fmt
from zhclip import ridge
from zhclip.pipelines import PromptEncoder

WINDOW, ROWS, DEPTH = 32, 24, 2
PAIRS = [Pair(zh, en) for zh, en in captions()[:ROWS]]


def far_encoders(folder: Path) -> tuple[Teacher, Student]:
    teacher = load_teacher(str(encoders.clip_teacher(folder / "t")), WINDOW)
    student = load_student(str(encoders.student(folder / "s")), WINDOW)
    teacher.models[0].to(NAME)
    return teacher, student.to(NAME)


def build_cache(folder: Path, teacher: Teacher, student: Student, pads: int | None = 2) -> Cache:
    depth = DEPTH if pads else student.depth
    build(folder / f"cache{pads}", CacheBuilder(teacher, student, PAIRS, depth, pads, 8, 8))
    return Cache.open(folder / f"cache{pads}", depth, pads)


def of_cache(folder: Path, planted: bool) -> None:
    """The cache stage's shards and sums, which come back to the CPU, without a product in double precision."""
    if planted:
        plain = ridge.sum_by_position
        ridge.sum_by_position = lambda values, positions, window: plain(values, positions.cpu(), window)
    teacher, student = far_encoders(folder)
    build(folder / "cache2", CacheBuilder(teacher, student, PAIRS, DEPTH - 1, 2, 8, 8))
    cache = build_cache(folder, teacher, student)  # the same captions with frozen hidden states of another depth
    assert {tensor.device.type for shard in [*cache.shards, cache.sums] for tensor in shard.values()} == {"cpu"}
    assert not DOUBLE, f"{DOUBLE} in double precision, at a sixty-fourth of the speed on consumer GPUs"


def of_scoring(folder: Path, planted: bool) -> None:
    """A report with its baselines."""
    teacher, student = far_encoders(folder)
    train, dev = build_cache(folder, teacher, student), build_cache(folder, teacher, student, None)
    if planted:
        scoring.Baselines.predict = lambda self, states, nearest: {"ridge": states.to(NAME), "constant": states}  # type: ignore
    baseline = Baselines(train, 1e-3, teacher_targets(teacher, PAIRS))
    report, _ = score(student, [(dev, baseline)], PAIRS)
    assert set(report["baselines"]) == {"constant", "nearest", "untrained", "ridge"}


def of_train(folder: Path, planted: bool) -> None:
    """The train stage, on the device: the CPU's weights, and no step waits for anything."""
    recipe, given = parse_recipe(Path(runs.TINY)), runs.inputs(folder)
    recipe.run, recipe.window, recipe.cache.dir = str(folder / "run"), 32, str(folder / "cache")
    recipe.student.model, recipe.teacher.model, recipe.corpus.train, recipe.corpus.dev = given.values()
    recipe.train = replace(recipe.train, steps=9, save_every=9, dev_every=None, accumulate=2, precision="no")
    make_accelerator, read_ahead, means = setup.make_accelerator, setup.read_ahead, training._means
    waited, device = [], torch.device("cpu")

    def far_accelerator(train: TrainSettings) -> Accelerator:
        accelerator = make_accelerator(train)
        # The student is there already, and torch would make its parameters anew (far_device.py).
        accelerator.device_placement = False
        accelerator.state.device = PartialState().device = device
        return accelerator

    def watched(read: Callable[..., setup.Batch], passes: Iterable[tuple]) -> Generator[setup.Batch, None, None]:
        for number, batch in enumerate(read_ahead(read, passes)):
            if number == 0:  # the student goes there once, before it
                WAITS.clear()
            yield batch

    def collect_waits(pending: list[setup.Batch], accelerator: Accelerator) -> dict[str, float]:
        waited.extend(WAITS)  # before the figures of the last steps are asked for, which torch gives of no such tensor
        return means([{name: tensor.cpu() for name, tensor in terms.items()} for terms in pending], accelerator)

    setup.make_accelerator, setup.read_ahead, training._means = far_accelerator, watched, collect_waits
    for stage in (corpus, cache, training):
        stage.run(recipe)
    waited.clear()
    device = torch.device(NAME, 0)
    if planted:
        torch.Tensor.pin_memory = torch.Tensor.clone  # type: ignore[method-assign, assignment]
    here = load_file(checkpoint.final(recipe.folder / "checkpoints"))
    recipe.run = str(folder / "far")
    training.run(recipe)
    assert not waited, f"the device is waited for: {sorted(set(waited))}"
    final = load_file(checkpoint.final(recipe.folder / "checkpoints"))
    assert all(torch.allclose(tensor, final[name], atol=1e-6) for name, tensor in here.items())


def of_prompts(folder: Path, planted: bool) -> None:
    """Embeddings for a pipeline."""
    artifact = small.sdxl_artifact()
    fmt.save(artifact, folder / "cat.safetensors")
    encoder = PromptEncoder(folder / "cat.safetensors", diffusion.pipeline_for(artifact.meta), NAME)
    if planted:
        encoder.bert = encoder.bert.to("cpu")
    embeddings = encoder(["a (red:1.3) cat", "a cat BREAK a dog"], "dog")
    assert {x.device.type for x in embeddings.values()} == {NAME} and len(embeddings) == 4


PARTS = {"cache": of_cache, "scoring": of_scoring, "train": of_train, "prompts": of_prompts}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--planted", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        PARTS[options.part](Path(temporary), options.planted)
    print("done")
