"""Of a model on the hub, its text encoder alone: byte ranges, a killed download, a server that knows no ranges."""

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
from trainer.models import download as downloads
from trainer.models.load import HALF, TEXT
from trainer.models.student import load_student
from trainer.models.teacher import load_teacher
from zhclip.io import digest

# Loads a student by its id in a process of its own, since the hub's addresses are read from the environment once.
LOAD = """
import sys
from trainer.models import load_student
from zhclip.io import digest
print(digest(load_student(sys.argv[1], 32).bert.state_dict()))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A whole ChineseCLIPModel at the hub's someone/student, whose picture tower is most of its weights."""
    folder = encoders.student(tmp_path / "hub" / "someone" / "student")
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_model.more"] = torch.zeros(200_000)
    save_file(tensors, folder / "model.safetensors")
    return folder


def printed(endpoint: str, home: Path, script: str, model: str | Path) -> str:
    """What a script prints of a model, downloaded into `home`."""
    given = [sys.executable, "-c", script, str(model)]
    done = subprocess.run(given, env=environment(endpoint, home), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(endpoint: str, home: Path) -> str:
    """The digest of the student's weights."""
    return printed(endpoint, home, LOAD, "someone/student")


def command() -> list[str]:
    return [sys.executable, "-c", LOAD, "someone/student"]


def environment(endpoint: str, home: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **own}


def expected(repository: Path) -> str:
    return digest(load_student(str(repository), 32).bert.state_dict())


def test_the_text_tower_alone_is_read_and_is_the_same(repository: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    size = (repository / "model.safetensors").stat().st_size
    with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, _):
        assert loaded(endpoint, tmp_path / "home") == expected(repository)
        assert sum(sent) < size - 800_000
        before = sum(sent)
        assert loaded(endpoint, tmp_path / "home") == expected(repository)
    assert sum(sent) - before < 10_000  # what the hub says of the model, and nothing of its weights
    assert loaded("http://127.0.0.1:9", tmp_path / "home") == expected(repository)  # nobody answers there
    (file,) = (tmp_path / "home").rglob("*.safetensors")
    wanted = {name: t for name, t in load_file(repository / "model.safetensors").items() if "text_model" in name}
    found = load_file(file)
    assert file.name == TEXT and set(found) == set(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_server_without_ranges_gives_the_whole_file(repository: Path, tmp_path: Path) -> None:
    with hub.serve(tmp_path / "hub", ranges=False) as (endpoint, _):
        assert loaded(endpoint, tmp_path / "home") == expected(repository)
    (file,) = (tmp_path / "home").rglob("*.safetensors")
    assert file.name == "model.safetensors"
    assert file.stat().st_size == (repository / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_old_weights_come_whole(repository: Path, tmp_path: Path) -> None:
    wanted = expected(repository)
    torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    (repository / "model.safetensors").unlink()
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        assert loaded(endpoint, tmp_path / "home") == wanted


@pytest.mark.slow
def test_a_killed_download_goes_on_behind_what_it_has(repository: Path, tmp_path: Path) -> None:
    tensors = load_file(repository / "model.safetensors")
    tensors |= {
        name: torch.cat([t, t.new_zeros(9000, t.shape[1])]) for name, t in tensors.items() if "word_emb" in name
    }
    save_file(tensors, repository / "model.safetensors")
    sent: list[int] = []
    with hub.serve(tmp_path / "hub", sent=sent, pace=0.2) as (endpoint, _):
        home, kills = tmp_path / "home", 0
        for _ in range(3):
            process = subprocess.Popen(command(), env=environment(endpoint, home), cwd=ROOT, stderr=subprocess.DEVNULL)
            had = sizes(home)
            while process.poll() is None and sizes(home) <= had + 2 * hub.PIECE:
                time.sleep(0.01)
            process.kill()
            kills += process.wait() != 0
        assert kills == 3 and sizes(home) > 6 * hub.PIECE
        had, before = sizes(home), sum(sent)
        assert loaded(endpoint, home) == expected(repository)
    (file,) = home.rglob("*.safetensors")
    assert sum(sent) - before < file.stat().st_size - had + 4 * hub.PIECE  # what was on its way at the last kill
    assert not list(home.rglob("*.part"))


def sizes(home: Path) -> int:
    return sum(file.stat().st_size for file in home.rglob("*.part"))


def test_a_pipelines_text_encoder_and_a_flat_clip_come_as_their_one_file(tmp_path: Path) -> None:
    folder = encoders.clip_teacher(tmp_path / "hub" / "someone" / "clip")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        found = downloads.look(f"{endpoint}/someone/clip/resolve/main/model.safetensors")
        assert found and not found.table  # all of it is the text encoder: the hub's own download, which others share
        assert found.size == found.whole == (folder / "model.safetensors").stat().st_size
        assert downloads.look(f"{endpoint}/someone/clip/resolve/main/nothing.safetensors") is None


def test_of_clip_l_half_a_gigabyte_is_read(tmp_path: Path) -> None:
    """The arithmetic at CLIP-L's true shapes, over the file's table alone: 1.7 GB are not written for it."""
    table, text = clip_l()
    head, ranges = downloads.chosen(table, 1000)
    assert sum(end - begin for begin, end in ranges) == text == 492_242_536
    assert len(ranges) == 2  # the positions' ids are integers and stand first
    assert max(end for _, end in ranges) < 1_710_000_000
    kept = json.loads(head[8:])
    assert struct.unpack("<Q", head[:8])[0] == len(head) - 8 and len(head) % 8 == 0
    del kept["__metadata__"]
    assert all(name.startswith("text_model.") for name in kept)
    spans = sorted(entry["data_offsets"] for entry in kept.values())
    assert spans[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(spans))  # without a hole, as the format asks


def clip_l() -> tuple[dict[str, dict], int]:
    """The table of a CLIPModel's file at CLIP-L's shapes, and the bytes of its text tower."""
    from transformers import CLIPConfig, CLIPModel

    text = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    tensors = {name: (tensor.shape, 4, "F32") for name, tensor in model.state_dict().items()}
    tensors |= {f"{side}_model.embeddings.position_ids": (torch.Size([1, n]), 8, "I64") for side, n in SIDES.items()}
    table: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    at = wanted = 0
    for name, (shape, size, dtype) in sorted(tensors.items(), key=lambda pair: (-pair[1][1], pair[0])):
        end = at + size * shape.numel()
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        wanted += (end - at) * name.startswith("text_model.")
        at = end
    return table, wanted


SIDES = {"text": 77, "vision": 257}


def test_a_checkpoints_tokenizer_needs_no_weights(tmp_path: Path) -> None:
    wide = encoders.clip_teacher(tmp_path / "hub" / "openai" / "clip-vit-large-patch14", width=128)
    tensors = {k.removeprefix("text_model."): v for k, v in load_file(wide / "model.safetensors").items()}
    save_file(
        {f"cond_stage_model.transformer.text_model.{k}": v for k, v in tensors.items()}, tmp_path / "sd.safetensors"
    )
    script = "import sys; from trainer.models import load_teacher; print(load_teacher(sys.argv[1], 77).sha256)"
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        found = printed(endpoint, tmp_path / "home", script, tmp_path / "sd.safetensors")
        assert not any(path.endswith("model.safetensors") for path in asked)
    assert found == load_teacher(str(wide), 77).sha256


PIPELINE = """
import sys
from trainer.models import load_teacher, missing_weights
print({folder: weights.size for folder, weights in missing_weights(sys.argv[1], "teacher.model").items()})
print(load_teacher(sys.argv[1], 77, weights=False).width)
print(load_teacher(sys.argv[1], 77).sha256)
"""


@pytest.mark.slow
def test_of_an_sdxl_pipeline_both_text_encoders_come_and_nothing_else(tmp_path: Path) -> None:
    pipeline = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "sdxl")
    for name in ("sd_xl_base_1.0", "unet/diffusion_pytorch_model", "text_encoder_2/model.fp16"):
        (pipeline / name).parent.mkdir(exist_ok=True)
        (pipeline / f"{name}.safetensors").write_bytes(b"many gigabytes")
    files = {part: pipeline / part / "model.safetensors" for part in ("text_encoder", "text_encoder_2")}
    sizes = {part: file.stat().st_size for part, file in files.items()}
    wanted = load_teacher(str(pipeline), 77).sha256
    home, sent = tmp_path / "home", list[int]()

    def said() -> list[str]:
        with hub.serve(tmp_path / "hub", sent=sent) as (endpoint, asked):
            found = printed(endpoint, home, PIPELINE, "someone/sdxl")
        assert not [path for path in asked if path.endswith((".fp16.safetensors", "1.0.safetensors")) or "unet" in path]
        return found.splitlines()

    assert said() == [str(sizes), "192", wanted]
    assert sum(sizes.values()) < sum(sent) < sum(sizes.values()) + 300_000
    (second,) = home.rglob("text_encoder_2/model.safetensors")
    second.resolve().unlink()
    second.unlink()
    before = sum(sent)
    assert said() == [str({"text_encoder_2": sizes["text_encoder_2"]}), "192", wanted]
    assert sum(sent) - before < sizes["text_encoder_2"] + 300_000
    assert said() == ["{}", "192", wanted]


HALVES = "import sys, huggingface_hub as hub; hub.snapshot_download(sys.argv[1], allow_patterns='*.fp16.safetensors')"


@pytest.mark.slow
def test_a_half_is_read_where_there_is_no_whole(tmp_path: Path) -> None:
    """With both halves in the hub's cache already, as diffusers leaves them."""
    pipeline, home = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "sdxl"), tmp_path / "home"
    wanted = load_teacher(str(pipeline), 77).sha256
    whole, other = (pipeline / part / "model.safetensors" for part in ("text_encoder", "text_encoder_2"))
    whole.with_name(HALF).write_bytes(b"not to be read")
    half = other.with_name(HALF)
    save_file({name: tensor.half() for name, tensor in load_file(other).items()}, half)
    other.unlink()
    assert load_teacher(str(pipeline), 77).sha256 == wanted
    sizes = {"text_encoder": whole.stat().st_size, "text_encoder_2": half.stat().st_size}
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        printed(endpoint, home, HALVES, "someone/sdxl")
        assert printed(endpoint, home, PIPELINE, "someone/sdxl").splitlines() == [str(sizes), "192", wanted]
    nobody = "http://127.0.0.1:9"
    assert printed(nobody, home, PIPELINE, "someone/sdxl").splitlines() == ["{}", "192", wanted]


def test_of_another_kinds_pipeline_no_weights_are_downloaded(tmp_path: Path) -> None:
    flux = encoders.sdxl_teacher(tmp_path / "hub" / "someone" / "flux")
    (flux / "text_encoder_2" / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        done = subprocess.run(
            [sys.executable, "-c", PIPELINE.replace(", weights=False", ""), "someone/flux"],
            env=environment(endpoint, tmp_path / "home"),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert "text_encoder_2: model_type is 't5'; a teacher is clip, clip_text_model" in done.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors")) and asked
