"""The README's training commands, run as written, in a clone below a ComfyUI and with a stand-in of the hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests import encoders, hub
from tests.test_convert import taiyi
from zhclip.artifact import read_meta

ROOT = Path(__file__).resolve().parent.parent


def commands(page: str) -> list[str]:
    """The page's shell blocks that call the trainer."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if "python -m trainer" in block]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tracked files in ComfyUI/custom_nodes/zhclip, with captions there and a checkpoint where ComfyUI has them."""
    clone = tmp_path / "ComfyUI" / "custom_nodes" / "zhclip"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clone / name)
    encoders.corpora(clone)
    shutil.copyfile(clone / "dev.tsv", clone / "test.tsv")
    teacher = encoders.clip_teacher(tmp_path / "hub" / "openai" / "clip-vit-large-patch14", width=128)
    encoders.student(tmp_path / "hub" / "OFA-Sys" / "chinese-clip-vit-base-patch16")
    checkpoints = tmp_path / "ComfyUI" / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    tensors = load_file(teacher / "model.safetensors")
    prefix = "cond_stage_model.transformer.text_model."
    save_file({prefix + k.removeprefix("text_model."): v for k, v in tensors.items()}, checkpoints / "mine.safetensors")
    return clone


def publish_taiyi(at: Path) -> None:
    """A pipeline of Taiyi's layout there, of random weights."""
    student = encoders.student(at.parent / "parts", size=300)
    tensors = load_file(student / "model.safetensors")
    bert = {name.removeprefix("text_model."): t for name, t in tensors.items() if name.startswith("text_model.")}
    taiyi(student, bert, json.loads((student / "config.json").read_text(encoding="utf-8"))["text_config"])
    (student / "taiyi").rename(at)


def test_every_training_command_does_what_it_says(clone: Path, tmp_path: Path) -> None:
    """An encoder trained and one converted, both where ComfyUI finds them."""
    assert commands("README.md") == commands("README.zh.md")
    assert len(commands("README.md")) == 2
    publish_taiyi(tmp_path / "hub" / "IDEA-CCNL" / "Taiyi-Stable-Diffusion-1B-Chinese-v0.1")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        own["HF_HUB_DISABLE_XET"] = "1"  # the stand-in speaks LFS alone
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        for block in commands("README.md"):
            done = subprocess.run(
                ["bash", "-ec", block],
                cwd=clone,
                env={**os.environ, **own, "PATH": path},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, block + done.stderr[-3000:]
    encoders_of_comfyui = clone.parent.parent / "models" / "text_encoders"
    trained = read_meta(encoders_of_comfyui / "zhclip-sd15.safetensors")
    assert (trained.window, trained.teacher.id) == (77, "openai/clip-vit-large-patch14")
    assert read_meta(encoders_of_comfyui / "taiyi.safetensors").licence == "creativeml-openrail-m"
