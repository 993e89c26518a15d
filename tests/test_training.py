"""The train stage: each option through the real stages, on small encoders."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import ChineseCLIPModel

from tests import encoders
from trainer.artifact import export
from trainer.base.recipe import LORA, Recipe, SettingsError, TrainSettings
from trainer.base.settings import parse_recipe
from trainer.cache import stage as cache
from trainer.cache.shards import part_names
from trainer.corpus import stage as corpus
from trainer.corpus.pairs import read_pairs
from trainer.models.student import Student
from trainer.progress import Cancelled, Listener, Progress
from trainer.report.evaluate import evaluate_run
from trainer.training import checkpoint, metrics, setup
from trainer.training import loop as train
from trainer.training.dev import DevMetrics
from trainer.training.losses import Loss, cosine_loss
from trainer.training.setup import TrainedRun
from zhclip.artifact import Artifact, load
from zhclip.device import best_precision, usable_gpu

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "recipes" / "tiny.yaml"
STAGES = (corpus.run, cache.run, train.run, evaluate_run, export.export_run)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny recipe with its encoders and corpus, whose runs share one cache."""
    folder = tmp_path_factory.mktemp("base")
    recipe = parse_recipe(TINY)
    pairs, dev = encoders.corpora(folder)
    recipe.window = 32
    recipe.train.precision = "no"  # bf16 rounds differently when a batch is split differently
    recipe.student.model = str(encoders.student(folder / "student"))
    recipe.teacher.model = str(encoders.clip_teacher(folder / "teacher"))
    recipe.corpus.train, recipe.corpus.dev = str(pairs), str(dev)
    recipe.cache.dir = str(folder / "cache")
    return recipe


def changed(base: Recipe, run: Path, **settings: Any) -> Recipe:
    """The recipe with another folder and other training settings."""
    return replace(base, run=str(run), train=replace(base.train, **settings))


def beside(alone: Recipe, run: Path, **settings: Any) -> Recipe:
    """The recipe of `alone` in another folder, with the corpus and the cache."""
    shutil.copytree(alone.folder / "corpus", run / "corpus")
    return changed(alone, run, **settings)


def run_stages(recipe: Recipe, *modules: Any) -> Recipe:
    for stage in [module.run for module in modules] or STAGES:
        stage(recipe)
    return recipe


def final(recipe: Recipe) -> dict[str, Tensor]:
    return load_file(checkpoint.final(recipe.folder / "checkpoints"))


def artifact(recipe: Recipe) -> Artifact:
    return load(recipe.folder / "encoder.safetensors")


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def logged(recipe: Recipe, name: str) -> list[float]:
    return [row[name] for row in metrics.read(recipe.folder / metrics.FILE) if name in row]


@pytest.fixture(scope="module")
def alone(base: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run in one process and one pass a step, with a contrast, which sees the whole step's captions."""
    return run_stages(changed(base, tmp_path_factory.mktemp("alone") / "run", contrast=0.1), corpus, cache, train)


@pytest.mark.slow
def test_two_processes_train_as_one(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags: dict[str, Any] = {"run": run, "cache.dir": tmp_path / "cache", "window": 32, "train.precision": "no"}
    flags |= {"student.model": base.student.model, "teacher.model": base.teacher.model, "train.contrast": 0.1}
    flags |= {"corpus.train": base.corpus.train, "corpus.dev": base.corpus.dev, "train.accumulate": 2}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    command = [*launcher, "trainer", "run", "--config", str(TINY), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("# ridge+unfreeze") == 1
    two = replace(base, run=str(run))
    assert largest_difference(final(two), final(alone)) < 1e-5
    for name in ("loss", "contrast"):
        assert logged(two, name) == pytest.approx(logged(alone, name), abs=1e-5)
    for file in sorted((tmp_path / "cache").rglob("*.safetensors")):  # each process computes some of the shards
        other = base.cache_folder / file.relative_to(tmp_path / "cache")
        assert file.read_bytes() == other.read_bytes(), file
    assert (run / "encoder.safetensors").is_file()


@pytest.mark.parametrize(
    ("flag", "settings"),
    [("accumulate", {"accumulate": 3}), ("layers", {"layers": 5}), ("layers", {"strategy": "lora", "layers": 0})],
)
def test_settings_that_do_not_fit_are_refused(
    alone: Recipe, tmp_path: Path, flag: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=rf"--train\.{flag}"):
        train.run(changed(alone, tmp_path / "run", **settings))


def test_a_cancelled_run_resumes_to_the_same_bytes(alone: Recipe, tmp_path: Path) -> None:
    recipe = beside(alone, tmp_path / "run")
    events: list[Progress] = []

    def cancel_at(step: int) -> Any:
        def listener(event: Progress) -> None:
            events.append(event)
            if event.done == step:
                raise Cancelled

        return listener

    for step in (2, 6, 11):  # before the first checkpoint, between two, and before the last step
        with pytest.raises(Cancelled):
            train.run(recipe, cancel_at(step))
    train.run(recipe, cancel_at(-1))
    assert [event.done for event in events] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 10, 11, *range(8, 13)]
    assert all(event.stage == "train" and event.total == 12 for event in events)
    assert {"loss", "constant_loss"} <= events[-1].metrics.keys()  # never one without the other
    files = ["metrics.jsonl", "checkpoints/final.safetensors", "checkpoints/step-000012.safetensors"]
    for name in files:
        assert (recipe.folder / name).read_bytes() == (alone.folder / name).read_bytes(), name
    assert [row["step"] for row in metrics.read(recipe.folder / metrics.FILE)] == [4, 8, 10, 12]
    checkpoint.final(recipe.folder / "checkpoints").unlink()  # killed between the last checkpoint and the final weights
    train.run(recipe)
    assert (recipe.folder / files[1]).read_bytes() == (alone.folder / files[1]).read_bytes()


def test_training_leaves_no_memory_behind(alone: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = beside(alone, tmp_path / "run", precision="bf16")
    references: list[weakref.ref[Any]] = []
    opened = setup.Training.open

    def watched(recipe: Recipe, progress: Listener | None) -> setup.Training | None:
        assert not any(reference() for reference in references)  # a retry does not hold the previous training
        training = opened(recipe, progress)
        assert training is not None
        references.extend(map(weakref.ref, (training.student, training.optimiser, training.cache)))
        return training

    monkeypatch.setattr(setup.Training, "open", watched)
    too_large(monkeypatch, 4)
    gc.disable()
    try:
        train.run(recipe)
        assert len(references) == 6 and not any(reference() for reference in references)
    finally:
        gc.enable()


def too_large(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """More than so many captions in a pass do not fit: the allocator's own error, as on a small GPU."""
    loss = Loss.__call__

    def limited(self: Loss, z: Tensor, pooled: Tensor | None, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(batch["ids"]) > most:
            torch.empty(10**15)
        return loss(self, z, pooled, batch)

    monkeypatch.setattr(Loss, "__call__", limited)


def test_a_step_that_does_not_fit_is_computed_in_more_passes(
    alone: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large(monkeypatch, 2)
    parts = run_stages(beside(alone, tmp_path / "parts"), train)
    assert "--train.accumulate 4" in caplog.text
    assert largest_difference(final(alone), final(parts)) < 1e-4


@pytest.mark.parametrize(
    ("lora", "layers"),
    [
        ({"use_dora": True, "use_rslora": True}, None),
        ({"lora_dropout": 0.2, "target_modules": ["value", "query", "key", "dense"]}, None),
        ({}, 1),
    ],
)
def test_lora_has_pefts_options(base: Recipe, tmp_path: Path, lora: dict[str, Any], layers: int | None) -> None:
    lora = {**LORA, "r": 4, **lora}
    settings: dict[str, Any] = {"strategy": "lora", "lr": 5e-3, "lora": lora, "layers": layers}
    recipe = run_stages(changed(base, tmp_path / "run", **settings))
    before = ChineseCLIPModel.from_pretrained(base.student.model).text_model.state_dict()
    after, targets = artifact(recipe).bert, lora["target_modules"]
    names = {name for name, tensor in after.items() if not torch.equal(tensor, before[name][: len(tensor)])}
    assert names and all(name.split(".")[-2] in targets for name in names)
    if layers:
        assert {name.split(".")[2] for name in names} == {"2"}
        assert (recipe.cache_folder / "train" / part_names(2, recipe.train.pad_positions)[1]).is_dir()
    # PEFT has them as a set, whose order changes from process to process.
    config = json.loads((recipe.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(targets)
    student = ChineseCLIPModel.from_pretrained(str(base.student.model)).text_model
    merged = PeftModel.from_pretrained(student, str(recipe.folder / "adapter")).merge_and_unload().state_dict()
    assert all(torch.allclose(after[name], merged[name], atol=1e-6) for name in names)
    if "lora_dropout" in lora:  # which is a function of the step, too
        again = run_stages(changed(base, tmp_path / "again", **settings), corpus, train)
        assert largest_difference(final(recipe), final(again)) == 0


def test_dev_metrics_are_logged_beside_their_baselines(
    base: Recipe, alone: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = beside(alone, tmp_path / "run", dev_every=6)
    with caplog.at_level("INFO", logger="trainer"):
        train.run(recipe)
    rows = [row for row in metrics.read(recipe.folder / metrics.FILE) if "dev_skill" in row]
    assert [row["step"] for row in rows] == [6, 12]
    assert [text for text in caplog.messages if "constant" in text and "start" in text]
    assert largest_difference(final(recipe), final(alone)) == 0  # scoring changes nothing
    dev = DevMetrics(recipe, *reversed(setup.open_student(recipe, "cpu")[::2]))
    score = dev.score(TrainedRun.open(recipe, "cpu").student, 12)
    assert score == pytest.approx({name: rows[1][name] for name in score}, abs=1e-6)
    assert 0 < dev.constant_loss < 1 and dev.constant_recall < dev.start_recall < 1


def test_half_the_size_says_the_same(base: Recipe, tmp_path: Path) -> None:
    recipe = replace(run_stages(changed(base, tmp_path / "run")), export=replace(base.export, dtype="float16"))
    whole = artifact(recipe)
    export.export_run(recipe)
    half = artifact(recipe)
    assert {tensor.dtype for tensor in half.bert.values()} == {torch.float16}
    assert half.meta.dimensions.positions == 32  # the student has 80
    texts = [pair.zh for pair in read_pairs(recipe.folder / "corpus" / "dev.tsv")]
    a, b = (Student.from_artifact(some).encode(texts) for some in (whole, half))
    assert 0 < float(cosine_loss(a, b).max()) < 1e-5
    assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), rtol=1e-3)


def test_a_run_is_not_continued_at_another_precision(alone: Recipe) -> None:
    assert setup.precision(TrainSettings()) == best_precision(usable_gpu())
    with pytest.raises(SettingsError, match="precision"):
        train.run(changed(alone, alone.folder, precision="bf16"))
