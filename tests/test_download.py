"""Downloading the text encoders of a model on the hub: byte ranges, interrupted downloads, a server without ranges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import encoders, hub
from tests.tree import ROOT, trainer
from trainer.models.load import HALF_WEIGHTS, TEXT_WEIGHTS
from trainer.models.student import load_student
from trainer.models.teacher import load_teacher
from zhclip.io import digest

# Scripts run in processes of their own, since the hub's address is read from the environment once.
STUDENT = """
import sys
from trainer.models.student import load_student
from zhclip.io import digest
print(digest(load_student(sys.argv[1], 32).bert.state_dict()))
"""
TEACHER = """
import json, sys
from trainer.models.download import missing_weights
from trainer.models.load import resolve
from trainer.models.teacher import load_teacher
missing = missing_weights(sys.argv[1], resolve(sys.argv[1], "teacher.model"), "teacher.model")
print(json.dumps({weights.target.parent.name: weights.size for weights in missing}))
print(load_teacher(sys.argv[1], 77, weights=False).width)
print(load_teacher(sys.argv[1], 77).sha256)
"""
# Blocks are small, and the listener stops after argv[2] events: as a kill does, without cleaning up, or by raising.
STOPPED = """
import os, sys
from trainer.models import download
from trainer.models.student import load_student
from trainer.progress import Cancelled
download.BLOCK = 100_000
def stop(event, events=[]):
    events.append(event)
    if len(events) > int(sys.argv[2]):
        print(event.stage, event.done, flush=True)
        os._exit(9) if sys.argv[3] == "kill" else cancel()
def cancel():
    raise Cancelled
load_student(sys.argv[1], 32, progress=stop)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A whole ChineseCLIPModel at the hub's someone/student, whose vision tower is most of its weights."""
    folder = encoders.student(tmp_path / "hub" / "someone" / "student")
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_model.more"] = torch.zeros(200_000)
    name = "text_model.embeddings.word_embeddings.weight"
    tensors[name] = torch.cat([tensors[name], torch.randn(9000, tensors[name].shape[1])])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["vocab_size"] = len(tensors[name])
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def run(endpoint: str, home: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script's process, which downloads into `home`."""
    environment = {**os.environ, **hub.settings(endpoint, home)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def output(endpoint: str, home: Path, script: str, model: str) -> str:
    """The output of a script about a model."""
    done = run(endpoint, home, script, model)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def student_digest(repository: Path) -> str:
    return digest(load_student(str(repository), 32).bert.state_dict())


def test_the_text_tower_alone_is_downloaded_and_is_the_same(repository: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    home, size = tmp_path / "home", (repository / "model.safetensors").stat().st_size
    with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, _):
        assert output(endpoint, home, STUDENT, "someone/student") == student_digest(repository)
        assert sum(sent) < size - 800_000
        before = sum(sent)
        assert output(endpoint, home, STUDENT, "someone/student") == student_digest(repository)
    assert sum(sent) - before < 10_000  # what the hub says of the model, and nothing of its weights
    assert output(hub.NOBODY, home, STUDENT, "someone/student") == student_digest(repository)
    (file,) = home.rglob("*.safetensors")
    text = {n: t for n, t in load_file(repository / "model.safetensors").items() if not n.startswith("vision_model")}
    downloaded = load_file(file)
    assert file.name == TEXT_WEIGHTS and set(downloaded) == set(text)
    assert all(torch.equal(downloaded[name], tensor) for name, tensor in text.items())


def test_a_server_without_ranges_is_refused(repository: Path, tmp_path: Path) -> None:
    with hub.serve(tmp_path / "hub", ranges=False) as (endpoint, _):
        done = run(endpoint, tmp_path / "home", STUDENT, "someone/student")
    assert done.stderr.splitlines()[-1].startswith("trainer.models.load.ModelError: --student.model someone/student")


def test_weights_of_the_old_format_are_downloaded_whole(repository: Path, tmp_path: Path) -> None:
    expected, tensors = student_digest(repository), load_file(repository / "model.safetensors")
    (repository / "model.safetensors").unlink()
    torch.save(tensors, repository / "pytorch_model.bin")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        assert output(endpoint, tmp_path / "home", STUDENT, "someone/student") == expected


@pytest.mark.slow
def test_a_download_killed_at_each_block_continues(repository: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    home, blocks = tmp_path / "home", 0
    with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, _):
        while run(endpoint, home, STOPPED, "someone/student", "1", "kill").returncode == 9:
            blocks += 1
            (partial,) = home.rglob("*.part")
            assert (blocks - 1) * 100_000 < partial.stat().st_size <= blocks * 100_000 + 10_000
            if blocks == 3:
                partial.write_bytes(partial.read_bytes()[:-777])  # as if its last block was cut by a power failure
        assert output(endpoint, home, STUDENT, "someone/student") == student_digest(repository)
    (file,) = home.rglob("*.safetensors")
    assert blocks > 5 and not list(home.rglob("*.part"))
    assert sum(sent) < file.stat().st_size + blocks * 20_000  # no block is sent twice


def test_a_listener_sees_and_stops_a_download(repository: Path, tmp_path: Path) -> None:
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        done = run(endpoint, tmp_path / "home", STOPPED, "someone/student", "3", "cancel")
        assert done.stdout.startswith("download someone/student") and done.stderr.rstrip().endswith("Cancelled")
        assert output(endpoint, tmp_path / "home", STUDENT, "someone/student") == student_digest(repository)


@pytest.mark.slow
def test_of_an_sdxl_pipeline_both_text_encoders_come_and_nothing_else(tmp_path: Path) -> None:
    pipeline, home = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "sdxl"), tmp_path / "home"
    parts, sha256 = ("text_encoder", "text_encoder_2"), load_teacher(str(pipeline), 77).sha256
    sizes = {part: (pipeline / part / "model.safetensors").stat().st_size for part in parts}
    for name in ("sd_xl_base_1.0", "unet/diffusion_pytorch_model", "text_encoder_2/model.fp16"):
        (pipeline / name).parent.mkdir(exist_ok=True)
        (pipeline / f"{name}.safetensors").write_bytes(b"many gigabytes")
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        missing, width, own = output(endpoint, home, TEACHER, "someone/sdxl").splitlines()
        assert json.loads(missing) == pytest.approx(sizes, abs=5000) and (width, own) == ("192", sha256)
        next(home.rglob(f"text_encoder_2/{TEXT_WEIGHTS}")).unlink()
        assert list(json.loads(output(endpoint, home, TEACHER, "someone/sdxl").splitlines()[0])) == ["text_encoder_2"]
    assert not [path for path in asked if path.endswith((".fp16.safetensors", "1.0.safetensors")) or "unet" in path]
    assert output(hub.NOBODY, home, TEACHER, "someone/sdxl").splitlines() == ["{}", "192", sha256]


def test_a_half_is_read_where_there_is_no_whole(tmp_path: Path) -> None:
    pipeline = encoders.sdxl_teacher(tmp_path / "sdxl")
    sha256 = load_teacher(str(pipeline), 77).sha256
    whole, other = (pipeline / part / "model.safetensors" for part in ("text_encoder", "text_encoder_2"))
    whole.with_name(HALF_WEIGHTS).write_bytes(b"not to be read")
    save_file({name: tensor.half() for name, tensor in load_file(other).items()}, other.with_name(HALF_WEIGHTS))
    other.unlink()
    assert load_teacher(str(pipeline), 77).sha256 == sha256


def test_of_another_kinds_pipeline_no_weights_are_downloaded(tmp_path: Path) -> None:
    flux = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "flux")
    (flux / "text_encoder_2" / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    script = "import sys; from trainer.models.teacher import load_teacher; load_teacher(sys.argv[1], 77)"
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        done = run(endpoint, tmp_path / "home", script, "someone/flux")
    assert done.stderr.splitlines()[-1].startswith("trainer.models.load.ModelError") and "text_encoder_2" in done.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors")) and asked


def test_models_come_by_id_from_a_mirror_and_bring_no_more_than_needed(tmp_path: Path) -> None:
    repositories = tmp_path / "hub"
    encoders.student(repositories / "someone" / "chinese-clip")
    pipeline = repositories / "someone" / "sd15"
    encoders.clip_teacher(pipeline / "text_encoder")
    encoders.clip_teacher(pipeline / "tokenizer")
    (pipeline / "tokenizer" / "model.safetensors").unlink()
    (pipeline / "model_index.json").write_text("{}", encoding="utf-8")
    (pipeline / "v1-5-pruned.safetensors").write_bytes(b"many gigabytes")
    train, dev = encoders.corpora(tmp_path)
    flags = ["--config", "recipes/tiny.yaml", "--run", str(tmp_path / "run"), "--window", "32"]
    flags += ["--student.model", "someone/chinese-clip", "--teacher.model", "someone/sd15"]
    flags += ["--corpus.train", str(train), "--corpus.dev", str(dev)]
    with hub.serve(repositories) as (endpoint, asked):
        own = hub.settings(endpoint, tmp_path / "home")
        done = trainer("run", *flags, **own)
        assert done.returncode == 0, done.stderr
        assert not any("v1-5-pruned" in path for path in asked)
        unknown = trainer("corpus", *flags, "--student.model", "someone/else", "--run", str(tmp_path / "x"), **own)
    assert unknown.returncode == 1
    assert "someone/else: neither a local folder nor to be had from the hub" in unknown.stderr.splitlines()[-1]
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
