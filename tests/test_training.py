"""The train stage: each option through the real stages, on small encoders."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import ChineseCLIPModel

from tests import encoders
from trainer.artifact import export
from trainer.base.device import default_device, gpu_problem, use_device
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
from trainer.training.checkpoint import Checkpoint
from trainer.training.dev import DevMetrics
from trainer.training.losses import Loss, contrast_loss, cosine_loss
from trainer.training.setup import fits_on, make_accelerator, prefetch
from trainer.training.trained import TrainedRun
from zhclip.artifact import Artifact, load
from zhclip.device import best_precision, is_covered, nvidia_precision, usable_gpu

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


# Several processes and passes


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


def test_passes_of_a_step_add_up(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    quarters = run_stages(changed(base, tmp_path / "run", contrast=0.1, accumulate=4), corpus, train)
    assert largest_difference(final(quarters), final(alone)) < 1e-5
    with pytest.raises(SettingsError, match=r"--train.batch 8 .*--train.accumulate 3"):
        train.run(changed(base, tmp_path / "odd", accumulate=3))


# In another program's process


def test_a_cancelled_run_resumes_to_the_same_bytes(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    recipe = changed(base, tmp_path / "run", contrast=0.1)
    shutil.copytree(alone.folder / "corpus", recipe.folder / "corpus")
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


def test_training_leaves_the_process_as_it_was(base: Recipe, alone: Recipe, tmp_path: Path) -> None:
    """As in ComfyUI, which runs nodes in inference mode."""
    recipe = changed(base, tmp_path / "run", strategy="lora", lora={**LORA, "lora_dropout": 0.1})
    shutil.copytree(alone.folder / "corpus", recipe.folder / "corpus")

    def state() -> list[Any]:
        shared = [dict(each._shared_state) for each in (AcceleratorState, GradientState)]
        return [torch.get_rng_state().tolist(), torch.get_float32_matmul_precision(), shared, torch.is_grad_enabled()]

    with torch.inference_mode():
        cache.run(recipe)
        torch.manual_seed(7)
        before = state()
        train.run(recipe)
        evaluate_run(recipe)
        export.export_run(recipe)
        assert state() == before


def test_training_leaves_no_memory_behind(
    base: Recipe, alone: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(base, tmp_path / "run", precision="bf16")
    shutil.copytree(alone.folder / "corpus", recipe.folder / "corpus")
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
    base: Recipe, alone: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large(monkeypatch, 2)
    parts = run_stages(changed(base, tmp_path / "parts", contrast=0.1), corpus, train)
    assert "--train.accumulate 4" in caplog.text
    assert largest_difference(final(alone), final(parts)) < 1e-4


# What learns


def changed_tensors(recipe: Recipe, base: Recipe) -> set[str]:
    """Names of the file's BERT tensors that differ from the student's."""
    before = ChineseCLIPModel.from_pretrained(base.student.model).text_model.state_dict()
    return {
        name for name, tensor in artifact(recipe).bert.items() if not torch.equal(tensor, before[name][: len(tensor)])
    }


@pytest.mark.parametrize(
    "lora, layers",
    [
        ({"use_rslora": True}, None),
        ({"use_dora": True}, None),
        ({"lora_dropout": 0.2}, None),
        ({"target_modules": ["value", "query", "key", "dense"]}, None),
        ({}, 1),
    ],
)
def test_lora_has_pefts_options(base: Recipe, tmp_path: Path, lora: dict[str, Any], layers: int | None) -> None:
    lora = {**LORA, "r": 4, **lora}
    settings: dict[str, Any] = {"strategy": "lora", "lr": 5e-3, "lora": lora, "layers": layers}
    recipe = run_stages(changed(base, tmp_path / "run", **settings))
    names = changed_tensors(recipe, base)
    targets: list[str] = lora["target_modules"]
    assert names and all(name.split(".")[-2] in targets for name in names)
    if layers:
        assert {name.split(".")[2] for name in names} == {"2"}
        assert (recipe.cache_folder / "train" / part_names(2, recipe.train.pad_positions)[1]).is_dir()
    # PEFT has them as a set, whose order changes from process to process.
    config = json.loads((recipe.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(targets)
    student = ChineseCLIPModel.from_pretrained(str(base.student.model)).text_model
    merged = PeftModel.from_pretrained(student, str(recipe.folder / "adapter")).merge_and_unload().state_dict()
    written = artifact(recipe).bert
    assert all(torch.allclose(written[name], merged[name], atol=1e-6) for name in names)
    again = run_stages(changed(base, tmp_path / "again", **settings), corpus, train)
    assert largest_difference(final(recipe), final(again)) == 0  # dropout is a function of the step, too


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


def test_dev_metrics_are_logged_beside_their_baselines(
    base: Recipe, alone: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = changed(base, tmp_path / "run", contrast=0.1, dev_every=6)
    shutil.copytree(alone.folder / "corpus", recipe.folder / "corpus")
    with caplog.at_level("INFO", logger="trainer"):
        train.run(recipe)
    rows = [row for row in metrics.read(recipe.folder / metrics.FILE) if "dev_skill" in row]
    assert [row["step"] for row in rows] == [6, 12]
    assert [text for text in caplog.messages if "constant" in text and "start" in text]
    assert largest_difference(final(recipe), final(alone)) == 0  # scoring changes nothing
    dev = DevMetrics.from_cache(recipe, *reversed(setup.open_student(recipe, "cpu")[::2]))
    score = dev.score(TrainedRun.open(recipe, "cpu").student)
    assert score == pytest.approx({name: rows[1][name] for name in score}, abs=1e-6)
    assert 0 < dev.constant_loss < 1 and dev.constant_recall < dev.start_recall < 1


# The file's numbers


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


def test_blocks_in_torchs_cache_count_as_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10 bytes, 6 of them in blocks that torch keeps."""
    blocks = [6]
    monkeypatch.setattr("torch.cuda.empty_cache", blocks.clear)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10 - sum(blocks), 10))
    assert fits_on(torch.device("cuda"), 4)
    assert not fits_on(torch.device("cuda"), 5)
    assert not fits_on(torch.device("cpu"), 0)  # which maps the files


def test_fp16_scales_the_gradient_and_a_resumed_run_knows_the_scale(
    base: Recipe, alone: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate makes the scaler for a GPU alone; here the CPU gets it."""

    def with_scaler(train_settings: TrainSettings) -> Accelerator:
        accelerator = make_accelerator(train_settings)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        return accelerator

    monkeypatch.setattr("trainer.training.setup.make_accelerator", with_scaler)
    recipe = changed(base, tmp_path / "run", contrast=0.1)
    shutil.copytree(alone.folder / "corpus", recipe.folder / "corpus")
    whole = final(run_stages(recipe, train))
    assert 0 < largest_difference(whole, final(alone)) < 2e-3
    last = checkpoint.newest(recipe.folder / "checkpoints")
    assert last is not None
    scaler = Checkpoint.load(last).scaler
    assert scaler["scale"] == 2.0**14  # doubled after each three of the twelve steps
    checkpoint.final(recipe.folder / "checkpoints").unlink()
    last.unlink()  # killed after step 8
    assert largest_difference(final(run_stages(recipe, train)), whole) == 0
    assert Checkpoint.load(last).scaler == scaler


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


@pytest.mark.parametrize(
    ("capability", "architectures", "covered"),
    [
        ((6, 1), "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120", False),  # PyPI's wheels and a GTX 1080
        ((6, 1), "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90", True),  # the CUDA 12.6 wheels
        ((8, 9), "sm_75 sm_80 sm_86 sm_90", True),
        ((8, 0), "sm_75 sm_86", False),
        ((12, 0), "sm_75 sm_80 sm_86 sm_90", False),
        ((12, 0), "sm_80 compute_90", True),
        ((9, 0), "", False),
    ],
)
def test_a_gpu_that_torch_was_not_built_for_is_not_used(
    capability: tuple[int, int], architectures: str, covered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_covered(capability, architectures.split()) == covered
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a card")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: architectures.split())
    assert usable_gpu() == covered
    assert (gpu_problem() is None) == covered


def test_a_device_that_is_asked_for_and_not_there_is_refused() -> None:
    use_device("cpu")
    assert default_device() == "cpu"
    if not usable_gpu():
        with pytest.raises(SettingsError, match="--device"):
            use_device("cuda")
    use_device("auto")


def test_a_run_is_not_continued_at_another_precision(alone: Recipe) -> None:
    assert setup.precision(TrainSettings()) == best_precision(usable_gpu())
    with pytest.raises(SettingsError, match="precision"):
        train.run(changed(alone, alone.folder, precision="bf16"))


def test_batches_read_ahead_are_the_batches() -> None:
    assert list(prefetch({"x": torch.tensor(i)} for i in range(5))) == [{"x": torch.tensor(i)} for i in range(5)]
    assert list(prefetch(iter([]))) == []

    def broken() -> Iterator[dict[str, torch.Tensor]]:
        yield {}
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(prefetch(broken()))
