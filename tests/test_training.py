"""What can be asked of training: each option through the real stages, on small encoders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import ChineseCLIPModel

from tests import encoders
from trainer.artifact import export
from trainer.base.recipe import LORA, Recipe, SettingsError
from trainer.base.settings import parse_recipe
from trainer.cache import stage as cache
from trainer.cache.shards import part_names
from trainer.corpus import stage as corpus
from trainer.models.student import Student
from trainer.report import stage as evaluate
from trainer.training import checkpoint
from trainer.training import stage as train
from trainer.training.dev import Dev
from trainer.training.loss import Loss
from trainer.training.objective import contrast_loss, cosine_loss
from trainer.training.opening import accelerator_of, ahead, fits_on, trained_student
from zhclip.artifact import Artifact, load
from zhclip.device import best_precision, nvidia_precision

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "recipes" / "tiny.yaml"
STAGES = (corpus.run, cache.run, train.run, evaluate.evaluate_run, export.export_run)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny recipe with its encoders and corpus, whose runs share one cache."""
    folder = tmp_path_factory.mktemp("base")
    recipe = parse_recipe(TINY)
    pairs, dev = encoders.corpora(folder)
    recipe.window = 32
    recipe.train.precision = "no"  # bf16 rounds another way when a batch is cut another way
    recipe.student.model = str(encoders.student(folder / "student"))
    recipe.teacher.model = str(encoders.clip_teacher(folder / "teacher"))
    recipe.corpus.train, recipe.corpus.dev = str(pairs), str(dev)
    recipe.cache.dir = str(folder / "cache")
    return recipe


def changed(base: Recipe, run: Path, **settings: Any) -> Recipe:
    """The recipe with another folder and other training settings."""
    return replace(base, run=str(run), train=replace(base.train, **settings))


def ran(recipe: Recipe, *stages: Any) -> Recipe:
    for stage in [some.run for some in stages] or STAGES:
        stage(recipe)
    return recipe


def final(recipe: Recipe) -> dict[str, Tensor]:
    return load_file(checkpoint.final(recipe.folder / "checkpoints"))


def artifact(recipe: Recipe) -> Artifact:
    return load(recipe.folder / "encoder.safetensors")


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def logged(recipe: Recipe, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted((recipe.folder / "logs").rglob("events.out.tfevents.*"))
    values: dict[int, float] = {}
    for file in files:
        events = EventAccumulator(str(file)).Reload()
        if name in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars(name)}
    return [values[step] for step in sorted(values)]


# Several processes and passes


@pytest.fixture(scope="module")
def alone(base: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run in one process and one pass a step, with a contrast, which sees the whole step's captions."""
    settings = {"contrast": 0.1}
    return ran(changed(base, tmp_path_factory.mktemp("alone") / "run", **settings), corpus, cache, train)


@pytest.mark.slow
def test_two_processes_train_as_one(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = {"cache.dir": tmp_path / "cache", "train.contrast": 0.1, "train.accumulate": 2}
    said = by_two("trainer run", base, run=run, **more)
    assert said.count("# ridge+unfreeze") == 1
    two = replace(base, run=str(run))
    assert furthest(final(two), final(alone)) < 1e-5
    assert logged(two, "train/loss") == pytest.approx(logged(alone, "train/loss"), abs=1e-5)
    assert logged(two, "train/contrast") == pytest.approx(logged(alone, "train/contrast"), abs=1e-5)
    for file in sorted((tmp_path / "cache").rglob("*.safetensors")):  # shared out, shard by shard
        other = base.cache_folder / file.relative_to(tmp_path / "cache")
        assert file.read_bytes() == other.read_bytes(), file
    assert (run / "encoder.safetensors").is_file()


def by_two(module: str, base: Recipe, **more: Any) -> str:
    """What two processes of a launcher print, of a recipe's encoders and corpus and these flags."""
    flags: dict[str, Any] = {"window": 32, "student.model": base.student.model, "teacher.model": base.teacher.model}
    flags |= {"corpus.train": base.corpus.train, "corpus.dev": base.corpus.dev, "train.precision": "no", **more}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    done = subprocess.run(
        [*launcher, *module.split(), "--config", str(TINY), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_first_processs_skill_decides_for_all(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    """Unlike GPUs round unlike. By the first process's figures step 6 is the best and 10 the last, by the other's own 2
    and 6, where it would leave the first one waiting for its gradients."""
    settings = {"train.patience": 2, "train.dev_every": 2, "train.steps": 20, "train.save_every": 1}
    run = tmp_path / "run"
    (run / "corpus").parent.mkdir()
    shutil.copytree(alone.folder / "corpus", run / "corpus")
    by_two("tests.unlike_ranks", base, run=run, **{"cache.dir": alone.cache_folder}, **settings)
    assert checkpoint.read(checkpoint.final(run / "checkpoints")).step == 6
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None and newest.stem == "step-000010"


def test_passes_of_a_step_add_up(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    halves = ran(changed(base, tmp_path / "run", contrast=0.1, accumulate=4), corpus, train)
    assert furthest(final(halves), final(alone)) < 1e-5
    with pytest.raises(SettingsError, match=r"--train.batch 8 is not a multiple of 3 \(--train.accumulate 3 times 1"):
        train.run(changed(base, tmp_path / "odd", accumulate=3))


# What learns


def parts(recipe: Recipe, base: Recipe) -> set[str]:
    """Which tensors of the file's BERT differ from the student's, without their layer's number."""
    before = ChineseCLIPModel.from_pretrained(base.student.model).text_model.state_dict()
    return {
        name for name, tensor in artifact(recipe).bert.items() if not torch.equal(tensor, before[name][: len(tensor)])
    }


EVERY = ["value", "query", "key", "dense"]


@pytest.mark.parametrize(
    "lora, layers",
    [
        ({"use_rslora": True}, None),
        ({"use_dora": True}, None),
        ({"lora_dropout": 0.2}, None),
        ({"target_modules": EVERY}, None),
        ({}, 1),
    ],
)
def test_lora_as_peft_gives_it(base: Recipe, tmp_path: Path, lora: dict[str, Any], layers: int | None) -> None:
    lora = {**LORA, "r": 4, **lora}
    settings: dict[str, Any] = {"strategy": "lora", "lr": 5e-3, "lora": lora, "layers": layers}
    recipe = ran(changed(base, tmp_path / "run", **settings))
    names = parts(recipe, base)
    targets: list[str] = lora["target_modules"]
    assert names and all(name.split(".")[-2] in targets for name in names)
    stored = {path.name for path in (recipe.cache_folder / "train").glob("frozen-*")}
    if layers:
        assert {name.split(".")[2] for name in names} == {"2"} and part_names(2, recipe.train.pad_positions)[
            1
        ] in stored
    # PEFT keeps them as a set, whose order is another in every process.
    config = json.loads((recipe.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(targets)
    student = ChineseCLIPModel.from_pretrained(str(base.student.model)).text_model
    merged = PeftModel.from_pretrained(student, str(recipe.folder / "adapter")).merge_and_unload().state_dict()
    written = artifact(recipe).bert
    assert all(torch.allclose(written[name], merged[name], atol=1e-6) for name in names)
    again = ran(changed(base, tmp_path / "again", **settings), corpus, train)
    assert furthest(final(recipe), final(again)) == 0  # dropout is a function of the step, too


# The objective


def test_contrast_asks_for_the_captions_own_english() -> None:
    en = torch.eye(4)
    centre = torch.zeros(4)
    own = torch.eye(4, dtype=torch.bool)
    assert contrast_loss(en, en, centre, own).max() < 1e-6
    assert contrast_loss(en.roll(1, 0), en, centre, own).min() > 19  # 1 / the temperature of 0.05
    half = contrast_loss(en[2:], en, centre, own[2:])
    assert torch.equal(half, contrast_loss(en, en, centre, own)[2:])
    twice = contrast_loss(en, torch.cat([en, en]), centre, torch.cat([own, own], dim=1))
    assert twice.max() < 1e-6  # the same caption again is no wrong answer


# What is kept


def test_training_stops_when_the_dev_skill_no_longer_rises(base: Recipe, tmp_path: Path) -> None:
    settings = {
        "lr": 2e-3,
        "warmup": 0,
        "steps": 60,
        "schedule": "constant",
        "dev_every": 2,
        "patience": 3,
        "save_every": 2,
    }
    recipe = ran(changed(base, tmp_path / "run", **settings), corpus, cache, train)
    skills = logged(recipe, "dev/skill")
    assert len(skills) < 30
    best = max(range(len(skills)), key=skills.__getitem__)
    assert len(skills) == best + 1 + 3
    found = checkpoint.read(checkpoint.final(recipe.folder / "checkpoints"))
    assert found.step == 2 * (best + 1)
    student, _, pairs = trained_student(recipe)
    assert Dev.of(recipe, pairs, student, 2).score(student)[0] == pytest.approx(max(skills), abs=1e-6)
    kept = final(recipe)
    checkpoint.final(recipe.folder / "checkpoints").unlink()  # killed between the last checkpoint and this
    train.run(recipe)
    assert furthest(final(recipe), kept) == 0
    with pytest.raises(SettingsError, match=r"--train.patience 3 needs --train.dev_every"):
        train.run(changed(base, tmp_path / "none", patience=3, dev_every=None))


# The file's numbers


def test_half_the_size_says_the_same(base: Recipe, tmp_path: Path) -> None:
    recipe = replace(ran(changed(base, tmp_path / "run")), export=replace(base.export, dtype="float16"))
    whole = artifact(recipe)
    export.export_run(recipe)
    half = artifact(recipe)
    assert {tensor.dtype for tensor in half.bert.values()} == {torch.float16}
    assert half.meta.dimensions.positions == 32  # the student has 80
    texts = [pair.zh for pair in corpus.read_pairs(recipe.folder / "corpus" / "dev.tsv")]
    a, b = (Student.from_artifact(some).encode(texts) for some in (whole, half))
    assert 0 < float(cosine_loss(a, b).max()) < 1e-5
    assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), rtol=1e-3)


def test_a_step_that_does_not_fit_is_made_in_more_passes(
    base: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ran(changed(base, tmp_path / "whole"), corpus, cache, train)
    loss = Loss.__call__

    def tight(
        self: Loss, z: torch.Tensor, pooled: torch.Tensor | None, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if len(batch["ids"]) > 2:
            torch.empty(10**15)  # the allocator's own error, as on a card that is too small
        return loss(self, z, pooled, batch)

    monkeypatch.setattr(Loss, "__call__", tight)
    parts = ran(changed(base, tmp_path / "parts"), corpus, train)
    assert "--train.accumulate 4" in capsys.readouterr().err
    assert furthest(final(whole), final(parts)) < 1e-4


def test_what_torch_keeps_for_itself_is_free_when_room_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 10 bytes by its two figures: a CPU has no such memory, and a card no other way to tell."""
    kept = [6]
    monkeypatch.setattr("torch.cuda.empty_cache", kept.clear)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10 - sum(kept), 10))
    assert fits_on(torch.device("cuda"), 4)
    assert not fits_on(torch.device("cuda"), 5)
    assert not fits_on(torch.device("cpu"), 0)  # which maps the files


def test_fp16_scales_the_gradient_and_a_resumed_run_knows_the_scale(
    base: Recipe, alone: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate makes the scaler for a GPU alone; here the CPU gets it."""

    def with_scaler(recipe: Recipe) -> Accelerator:
        accelerator = accelerator_of(recipe)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        return accelerator

    monkeypatch.setattr("trainer.training.opening.accelerator_of", with_scaler)
    recipe = changed(base, tmp_path / "run", contrast=0.1)
    shutil.copytree(alone.folder / "corpus", recipe.folder / "corpus")
    whole = final(ran(recipe, train))
    assert 0 < furthest(whole, final(alone)) < 2e-3
    last = checkpoint.newest(recipe.folder / "checkpoints")
    assert last is not None
    scaler = checkpoint.read(last).scaler
    assert scaler["scale"] == 2.0**14  # doubled after each three of the twelve steps
    checkpoint.final(recipe.folder / "checkpoints").unlink()
    last.unlink()  # killed behind step 8
    assert furthest(final(ran(recipe, train)), whole) == 0
    assert checkpoint.read(last).scaler == scaler


CARDS = {
    ((6, 1), "NVIDIA GeForce GTX 1080"): "no",
    ((7, 0), "Tesla V100-SXM2-16GB"): "fp16",
    ((7, 5), "Tesla T4"): "fp16",
    ((7, 5), "NVIDIA GeForce RTX 2060 SUPER"): "fp16",
    ((7, 5), "NVIDIA GeForce GTX 1660 Ti"): "no",
    ((7, 5), "NVIDIA GeForce MX450"): "no",
    ((7, 5), "NVIDIA T1200 Laptop GPU"): "no",
    ((8, 6), "NVIDIA GeForce RTX 3060"): "bf16",
    ((9, 0), "NVIDIA H100 80GB HBM3"): "bf16",
}


@pytest.mark.parametrize("card", CARDS, ids=str)
def test_precision_follows_what_a_card_computes_in_itself(card: tuple[tuple[int, int], str]) -> None:
    assert nvidia_precision(*card) == CARDS[card]


def test_the_precision_that_was_chosen_is_written_down(base: Recipe, tmp_path: Path) -> None:
    recipe = ran(changed(base, tmp_path / "run", precision="auto"), corpus, cache, train)
    settings = recipe.folder / "checkpoints" / "settings.json"
    chosen = json.loads(settings.read_text(encoding="utf-8"))["precision"]
    assert chosen == best_precision()
    other = {"no": "bf16", "bf16": "no"}[chosen]
    with pytest.raises(SettingsError, match=f"precision was '{chosen}' and is now '{other}'"):
        train.run(changed(base, tmp_path / "run", precision=other))


def test_batches_read_ahead_are_the_batches() -> None:
    assert list(ahead({"x": torch.tensor(i)} for i in range(5))) == [{"x": torch.tensor(i)} for i in range(5)]
    assert list(ahead([])) == []

    def broken() -> Iterator[dict[str, torch.Tensor]]:
        yield {}
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(ahead(broken()))


# What is stored


def test_a_budget_leaves_the_frozen_layers_output_out(
    base: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def within(name: str, budget: float | None) -> Recipe:
        recipe = changed(base, tmp_path / name)
        return replace(recipe, cache=replace(recipe.cache, dir=str(tmp_path / name / "cache"), budget=budget))

    def size(recipe: Recipe) -> float:
        return sum(path.stat().st_size for path in (recipe.cache_folder / "train").rglob("*.safetensors")) / 1e9

    stored = ran(within("stored", None), corpus, cache, train)
    line, both = next(r.getMessage() for r in caplog.records if r.name == "trainer.cache.budget"), size(stored)
    assert sum(map(float, re.findall(r"([\d.e-]+) GB of", line))) == pytest.approx(both, rel=0.2)
    few = ran(within("few", 0.7 * both), corpus, cache, train)
    assert list(few.cache_folder.rglob("*.left-out.txt"))
    assert not list(few.cache_folder.rglob("frozen-2*/*")) and size(few) <= 0.7 * both
    assert 0 < furthest(final(stored), final(few)) < 1e-3  # half precision once, and not
    with pytest.raises(SettingsError, match=r"--cache\.budget"):
        ran(within("none", 0.01 * both), corpus, cache)
    with pytest.raises(SettingsError, match=r"--train\.pad_positions 0"):
        ran(changed(few, tmp_path / "few", pad_positions=0), cache)
    for settings in ({"layers": 5}, {"strategy": "lora", "layers": 0}):
        with pytest.raises(SettingsError, match=r"--train\.layers"):
            ran(changed(few, tmp_path / "few", **settings), cache)
    # With room again, the stage stores it after all.
    again = ran(within("few", None), cache)
    assert size(again) == both
