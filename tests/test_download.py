"""Downloading the text encoders of a model on the hub: byte ranges, interrupted downloads, a server without ranges."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import encoders, hub
from tests.tree import ROOT
from trainer.models.download import select
from trainer.models.load import HALF, TEXT
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
from trainer.models.teacher import load_teacher
missing = missing_weights(sys.argv[1], "teacher.model")
print(json.dumps({weights.target.parent.name: weights.size for weights in missing}))
print(load_teacher(sys.argv[1], 77, weights=False).width)
print(load_teacher(sys.argv[1], 77).sha256)
"""
SMALL_BLOCKS = "from trainer.models import download\ndownload.BLOCK = 100_000\n"
# As a kill does: without cleaning up, during the download's block number argv[2].
KILLED = """
import os, sys
from trainer.models.student import load_student
def stop(event, seen=[]):
    seen.append(event)
    if len(seen) > int(sys.argv[2]):
        os._exit(9)
load_student(sys.argv[1], 32, progress=stop)
"""
CANCELLED = """
import sys
from trainer.models.student import load_student
from trainer.progress import Cancelled
def stop(event):
    print(event.stage, event.done, event.total)
    if event.done > 200_000:
        raise Cancelled
try:
    load_student(sys.argv[1], 32, progress=stop)
except Cancelled:
    print("cancelled")
"""
NOBODY = "http://127.0.0.1:9"


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


def printed(endpoint: str, home: Path, script: str, model: str) -> str:
    """The output of a script about a model."""
    done = run(endpoint, home, script, model)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def expected(repository: Path) -> str:
    return digest(load_student(str(repository), 32).bert.state_dict())


def partial_size(home: Path) -> int:
    return sum(file.stat().st_size for file in home.rglob("*.part"))


def test_the_text_tower_alone_is_downloaded_and_is_the_same(repository: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    home, size = tmp_path / "home", (repository / "model.safetensors").stat().st_size
    with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, _):
        assert printed(endpoint, home, STUDENT, "someone/student") == expected(repository)
        assert sum(sent) < size - 800_000
        before = sum(sent)
        assert printed(endpoint, home, STUDENT, "someone/student") == expected(repository)
    assert sum(sent) - before < 10_000  # what the hub says of the model, and nothing of its weights
    assert printed(NOBODY, home, STUDENT, "someone/student") == expected(repository)
    (file,) = home.rglob("*.safetensors")
    text = {name: t for name, t in load_file(repository / "model.safetensors").items() if "text_model" in name}
    downloaded = load_file(file)
    assert file.name == TEXT and set(downloaded) == set(text)
    assert all(torch.equal(downloaded[name], tensor) for name, tensor in text.items())


def test_a_server_without_ranges_is_refused(repository: Path, tmp_path: Path) -> None:
    with hub.serve(tmp_path / "hub", ranges=False) as (endpoint, _):
        done = run(endpoint, tmp_path / "home", STUDENT, "someone/student")
    assert done.stderr.splitlines()[-1].startswith("trainer.models.load.ModelError: --student.model someone/student")


def test_weights_of_the_old_format_are_downloaded_whole(repository: Path, tmp_path: Path) -> None:
    digest_of_all, tensors = expected(repository), load_file(repository / "model.safetensors")
    (repository / "model.safetensors").unlink()
    torch.save(tensors, repository / "pytorch_model.bin")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        assert printed(endpoint, tmp_path / "home", STUDENT, "someone/student") == digest_of_all


@pytest.mark.slow
def test_a_download_killed_at_each_block_continues(repository: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    home, blocks = tmp_path / "home", 0
    with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, _):
        while run(endpoint, home, SMALL_BLOCKS + KILLED, "someone/student", "1").returncode == 9:
            assert blocks * 100_000 < partial_size(home) <= (blocks + 1) * 100_000 + 10_000
            blocks += 1
        (file,) = home.rglob("*.safetensors")
        assert blocks == -(-file.stat().st_size // 100_000) - 1 or blocks == -(-file.stat().st_size // 100_000)
        assert printed(endpoint, home, STUDENT, "someone/student") == expected(repository)
    assert not list(home.rglob("*.part"))
    assert sum(sent) < file.stat().st_size + blocks * 20_000  # no block is sent twice


@pytest.mark.slow
def test_a_download_killed_within_a_block_continues(repository: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with hub.serve(tmp_path / "hub", pace=0.1) as (endpoint, _):
        command = [sys.executable, "-c", SMALL_BLOCKS + STUDENT, "someone/student"]
        environment = {**os.environ, **hub.settings(endpoint, home)}
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and partial_size(home) < 300_000:
            time.sleep(0.01)
        process.kill()
        assert process.wait() != 0
    (partial,) = home.rglob("*.part")
    partial.write_bytes(partial.read_bytes()[:-777])  # as if its last block was cut by a power failure
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        assert printed(endpoint, home, STUDENT, "someone/student") == expected(repository)


def test_a_listener_sees_and_stops_a_download(repository: Path, tmp_path: Path) -> None:
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        done = run(endpoint, tmp_path / "home", SMALL_BLOCKS + CANCELLED, "someone/student")
        *events, last = done.stdout.splitlines()
        assert last == "cancelled" and len(events) > 2, done.stderr
        assert all(event.startswith("download someone/student") for event in events)
        assert printed(endpoint, tmp_path / "home", STUDENT, "someone/student") == expected(repository)


def test_of_clip_l_half_a_gigabyte_is_selected() -> None:
    """The arithmetic at CLIP-L's true shapes, over the file's header alone: 1.7 GB are not written for it."""
    header, text = clip_l()
    start, ranges = select(header, 1000)
    assert sum(end - begin for begin, end in ranges) == text == 492_242_536
    assert len(ranges) == 2  # the positions' ids are integers and stand first
    assert max(end for _, end in ranges) < 1_710_000_000
    own = json.loads(start[8:])
    assert struct.unpack("<Q", start[:8])[0] == len(start) - 8 and len(start) % 8 == 0
    del own["__metadata__"]
    assert all(name.startswith("text_model.") for name in own)
    spans = sorted(entry["data_offsets"] for entry in own.values())
    assert spans[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(spans))  # without a gap, as the format asks


def clip_l() -> tuple[dict[str, dict], int]:
    """The header of a CLIPModel's file at CLIP-L's shapes, and the bytes of its text tower."""
    from transformers import CLIPConfig, CLIPModel

    text = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    tensors = {name: (tensor.shape, 4, "F32") for name, tensor in model.state_dict().items()}
    positions = {"text": 77, "vision": 257}
    tensors |= {
        f"{side}_model.embeddings.position_ids": (torch.Size([1, n]), 8, "I64") for side, n in positions.items()
    }
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    at = wanted = 0
    for name, (shape, size, dtype) in sorted(tensors.items(), key=lambda pair: (-pair[1][1], pair[0])):
        end = at + size * shape.numel()
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        wanted += (end - at) * name.startswith("text_model.")
        at = end
    return header, wanted


def test_a_checkpoints_tokenizer_needs_no_weights(tmp_path: Path) -> None:
    wide = encoders.clip_teacher(tmp_path / "hub" / "openai" / "clip-vit-large-patch14", width=128)
    tensors = {k.removeprefix("text_model."): v for k, v in load_file(wide / "model.safetensors").items()}
    checkpoint = tmp_path / "sd.safetensors"
    save_file({f"cond_stage_model.transformer.text_model.{k}": v for k, v in tensors.items()}, checkpoint)
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        sha256 = printed(endpoint, tmp_path / "home", TEACHER, str(checkpoint)).splitlines()[-1]
        assert not any(path.endswith("model.safetensors") for path in asked)
    assert sha256 == load_teacher(str(wide), 77).sha256


@pytest.mark.slow
def test_of_an_sdxl_pipeline_both_text_encoders_come_and_nothing_else(tmp_path: Path) -> None:
    pipeline = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "sdxl")
    for name in ("sd_xl_base_1.0", "unet/diffusion_pytorch_model", "text_encoder_2/model.fp16"):
        (pipeline / name).parent.mkdir(exist_ok=True)
        (pipeline / f"{name}.safetensors").write_bytes(b"many gigabytes")
    sizes = {
        part: (pipeline / part / "model.safetensors").stat().st_size for part in ("text_encoder", "text_encoder_2")
    }
    sha256 = load_teacher(str(pipeline), 77).sha256
    home, sent = tmp_path / "home", list[int]()

    def output() -> tuple[dict[str, int], str, str]:
        with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, asked):
            missing, width, own = printed(endpoint, home, TEACHER, "someone/sdxl").splitlines()
        assert not [path for path in asked if path.endswith((".fp16.safetensors", "1.0.safetensors")) or "unet" in path]
        return {name: round(size, -4) for name, size in json.loads(missing).items()}, width, own

    rounded = {part: round(size, -4) for part, size in sizes.items()}
    assert output() == (rounded, "192", sha256)
    assert 0.99 * sum(sizes.values()) < sum(sent) < sum(sizes.values()) + 300_000
    next(home.rglob(f"text_encoder_2/{TEXT}")).unlink()
    before = sum(sent)
    assert output() == ({"text_encoder_2": rounded["text_encoder_2"]}, "192", sha256)
    assert sum(sent) - before < sizes["text_encoder_2"] + 300_000
    assert output() == ({}, "192", sha256)


HALVES = "import sys, huggingface_hub as hub; hub.snapshot_download(sys.argv[1], allow_patterns='*.fp16.safetensors')"


@pytest.mark.slow
def test_a_half_is_read_where_there_is_no_whole(tmp_path: Path) -> None:
    """With both halves in the hub's cache already, as diffusers leaves them."""
    pipeline, home = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "sdxl"), tmp_path / "home"
    sha256 = load_teacher(str(pipeline), 77).sha256
    whole, other = (pipeline / part / "model.safetensors" for part in ("text_encoder", "text_encoder_2"))
    whole.with_name(HALF).write_bytes(b"not to be read")
    save_file({name: tensor.half() for name, tensor in load_file(other).items()}, other.with_name(HALF))
    other.unlink()
    assert load_teacher(str(pipeline), 77).sha256 == sha256
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        printed(endpoint, home, HALVES, "someone/sdxl")
        missing, _, own = printed(endpoint, home, TEACHER, "someone/sdxl").splitlines()
        assert list(json.loads(missing)) == ["text_encoder", "text_encoder_2"] and own == sha256
    assert printed(NOBODY, home, TEACHER, "someone/sdxl").splitlines() == ["{}", "192", sha256]


def test_of_another_kinds_pipeline_no_weights_are_downloaded(tmp_path: Path) -> None:
    flux = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "flux")
    (flux / "text_encoder_2" / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        done = run(endpoint, tmp_path / "home", TEACHER.replace(", weights=False", ""), "someone/flux")
    assert done.stderr.splitlines()[-1].startswith("trainer.models.load.ModelError") and "text_encoder_2" in done.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors")) and asked
