"""One command in a clone below a ComfyUI: what it takes without flags, what it plans, and what it leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from painter.host import comfyui
from tests import encoders, hub, runs
from tests.tree import ROOT, python, tracked
from trainer.__main__ import main
from trainer.base.comfyui import comfyui_around, install_folder
from trainer.base.device import processes
from trainer.base.recipe import TrainSettings
from trainer.base.settings import parse_recipe
from trainer.plan import plan
from trainer.training.setup import train_processes
from zhclip.artifact import read_meta

SMALL = ["--window", "32", "--train.steps", "6", "--train.batch", "8", "--export.dtype", "float32"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The trainer in ComfyUI/custom_nodes/zhclip, with captions there, and the default encoders on a hub."""
    clone = tmp_path / "ComfyUI" / "custom_nodes" / "zhclip"
    for name in tracked():
        if name.startswith(("trainer/", "zhclip/")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    (tmp_path / "ComfyUI" / "models").mkdir()
    encoders.corpora(clone)
    encoders.student(tmp_path / "hub" / "OFA-Sys" / "chinese-clip-vit-base-patch16", width=128)
    teacher = encoders.clip_teacher(tmp_path / "hub" / "openai" / "clip-vit-large-patch14", width=128)
    tensors = load_file(teacher / "model.safetensors")
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
    tensors["vision_model.weight"] = tensors["text_model.embeddings.token_embedding.weight"].repeat(8, 1)
    save_file(tensors, teacher / "model.safetensors")
    return clone


def run(clone: Path, *flags: str) -> tuple[str, list[str], int]:
    """`python -m trainer run FLAGS` in the clone: what it prints, what it asked the hub for, and the bytes it got."""
    sent: list[int] = []
    with hub.serve(clone.parents[2] / "hub", sent=sent) as (endpoint, asked):
        done = subprocess.run(
            [sys.executable, "-m", "trainer", "run", "--corpus.train", "train.tsv", "--corpus.dev", "dev.tsv", *flags],
            cwd=clone,
            env={**os.environ, **hub.settings(endpoint, clone.parents[2] / "home")},
            capture_output=True,
            encoding="utf-8",
        )
    assert done.returncode == 0, done.stderr
    return done.stdout, asked, sum(sent)


def test_the_plan_alone_says_it_all_and_downloads_no_weights(clone: Path) -> None:
    said, _, received = run(clone, *SMALL, "--plan")
    lines = said.splitlines()
    assert all(line.startswith("plan: ") for line in lines) and len(lines) <= 11, said
    for pattern in (
        r"download OFA-Sys/chinese-clip-vit-base-patch16: \d+ MB from http://127",
        r"download openai/clip-vit-large-patch14: \d+ MB from",
        r"corpus   train.tsv: about \d+ pairs to learn from, \d+ to score on",
        r"device   (CPU|NVIDIA).*, (fp32|bf16|fp16)",
        r"steps    6 of 8 captions, unfreeze",
        r"memory   about \d+.* of \d+",
        r"disk     .* of .* free \(.*cache.*checkpoints.*file.*downloads",
        r"file     runs.sd15.encoder.safetensors, copied to .*zhclip-sd15.safetensors",
        r"time     about \d+ s beside the downloads \(corpus .*, cache .*, train .*, evaluate .*, export .*\)",
    ):
        assert re.search(pattern, said), (pattern, said)
    assert received < 300_000  # configurations, vocabularies, and the beginnings of two files of weights
    assert not (clone / "runs").exists()


@pytest.mark.slow
def test_the_whole_command_installs_its_file_and_plans_what_it_wrote(clone: Path) -> None:
    said, _, received = run(clone, *SMALL)
    file = clone.parents[1] / "models" / "text_encoders" / "zhclip-sd15.safetensors"
    meta = read_meta(file)
    assert meta.teacher.id == "openai/clip-vit-large-patch14" and meta.corpus.rows == 60
    assert file.read_bytes() == (clone / "runs" / "sd15" / "encoder.safetensors").read_bytes()
    order = [f"run: {stage}, about" for stage in ("corpus", "cache", "train", "evaluate", "export")]
    at = [said.index(line) for line in order]
    assert at == sorted(at) and said.startswith("plan: ")
    assert re.search(r"file \d+ MB", said)
    weights = sum(path.stat().st_size for path in (clone.parents[2] / "home").rglob("zhclip-text.safetensors"))
    assert weights < received < weights + 2_000_000
    _, asked, _ = run(clone, *SMALL)
    assert not any(path.endswith("model.safetensors") for path in asked)
    assert "it is already on this machine" in run(clone, *SMALL, "--plan")[0]


def test_a_checkpoint_takes_the_tokenizer_of_the_comfyui_around(clone: Path) -> None:
    wide = clone.parents[2] / "hub" / "openai" / "clip-vit-large-patch14"
    text = {k: t for k, t in load_file(wide / "model.safetensors").items() if k.startswith("text_model.")}
    checkpoint = clone.parents[1] / "models" / "mine.safetensors"
    save_file({f"cond_stage_model.transformer.{name}": tensor for name, tensor in text.items()}, checkpoint)
    own = clone.parents[1] / "comfy" / "sd1_tokenizer"
    own.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(wide / name, own / name)
    said, asked, _ = run(clone, *SMALL, "--plan", "--teacher.model", "../../models/mine.safetensors")
    assert "../../models/mine.safetensors: nothing, it is already on this machine" in said
    assert not any("clip-vit-large" in path for path in asked)


def test_the_real_host_ships_clips_tokenizer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(comfyui() / "comfy" / "sd1_tokenizer")
    assert tokenizer("a red cat").input_ids == [49406, 320, 736, 2368, 49407]
    assert tokenizer.pad_token == tokenizer.eos_token


def test_the_comfyui_around_a_clone_is_found(tmp_path: Path) -> None:
    clone = tmp_path / "ComfyUI" / "custom_nodes" / "zhclip"
    clone.mkdir(parents=True)
    assert comfyui_around(clone) is None  # no models there: not ComfyUI's
    (tmp_path / "ComfyUI" / "models").mkdir()
    assert comfyui_around(clone) == tmp_path / "ComfyUI"
    assert comfyui_around(tmp_path / "ComfyUI" / "elsewhere" / "zhclip") is None
    assert install_folder(None) is None
    assert install_folder(str(tmp_path)) == tmp_path


def test_what_does_not_fit_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*SMALL, "--run", str(tmp_path / "run"), *runs.flags(runs.inputs(tmp_path))]
    assert main(["run", *flags, "--install", str(tmp_path)]) == 1
    assert f"--install {tmp_path}: " in capsys.readouterr().err
    monkeypatch.setattr("trainer.plan.free_bytes", lambda path: 1000)
    assert main(["run", *flags]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'run'}" in error and "--cache.dir FOLDER" in error
    assert not (tmp_path / "run" / "corpus").exists()


@pytest.mark.parametrize("make", [encoders.clip_teacher, encoders.sdxl_teacher])
def test_what_the_plan_counts_is_what_is_written(make: Callable[[Path], Path], tmp_path: Path) -> None:
    inputs, recipe = runs.inputs(tmp_path), parse_recipe(Path(runs.TINY))
    inputs["--teacher.model"] = str(make(tmp_path / "english"))
    recipe.run, recipe.window, recipe.train.save_every = str(tmp_path / "run"), 32, 12
    recipe.student.model, recipe.teacher.model, recipe.corpus.train, recipe.corpus.dev = inputs.values()
    planned = plan(recipe).sizes
    run = runs.run(tmp_path / "run", inputs, "--train.save_every", "12")
    for what in ("cache", "checkpoints"):
        files = (run / what).rglob("*.safetensors")
        assert planned[what] == pytest.approx(sum(file.stat().st_size for file in files), rel=0.1), what


def test_below_64_captions_a_gpu_one_of_several_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, batch, trains in (("cuda", 16, 1), ("cuda", 255, 1), ("cuda", 256, 4), ("cpu", 16, 4)):
        state = SimpleNamespace(device=torch.device(device), num_processes=4)
        monkeypatch.setattr("trainer.training.setup.processes", lambda state=state: state)
        assert train_processes(TrainSettings(batch=batch)) == trains
    inputs, recipe = runs.inputs(tmp_path), parse_recipe(Path(runs.TINY))
    recipe.run, recipe.window = str(tmp_path / "run"), 32
    recipe.student.model, recipe.teacher.model, recipe.corpus.train = list(inputs.values())[:3]
    monkeypatch.setattr("trainer.training.setup.processes", processes)
    monkeypatch.setattr("trainer.plan.processes", lambda: SimpleNamespace(device=torch.device("cpu"), num_processes=4))
    assert "4 GPUs share the cache, one trains" in plan(recipe).text


@pytest.mark.slow
def test_one_of_two_processes_trains_what_one_alone_does(tmp_path: Path) -> None:
    inputs = runs.inputs(tmp_path)
    alone = runs.run(tmp_path / "alone" / "run", inputs)
    script = "import trainer.pipeline as pipeline\npipeline.train_processes = lambda train: 1\n"
    script += (
        f"from trainer.__main__ import main\nassert main({runs.arguments(tmp_path / 'two' / 'run', inputs)}) == 0\n"
    )
    (tmp_path / "two.py").write_text(script, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = python(*launcher, str(tmp_path / "two.py"), PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout[-3000:]
    assert runs.contents(tmp_path / "two" / "run") | {"recipe.yaml": b""} == runs.contents(alone) | {"recipe.yaml": b""}
