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
from tests.tree import ROOT, tracked
from zhclip.artifact import read_meta

BASH = pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a shell that Windows lacks")


def commands(page: str) -> list[str]:
    """The page's shell blocks that call the trainer."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if "python -m trainer" in block]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tracked files in ComfyUI/custom_nodes/zhclip, with captions there and a checkpoint where ComfyUI has them."""
    clone = tmp_path / "ComfyUI" / "custom_nodes" / "zhclip"
    for name in tracked():
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


def set_default(clone: Path, name: str, value: str, file: str = "base/recipe.py") -> None:
    """Change what a setting of the trainer is in a clone where no flag gives it."""
    settings = clone / "trainer" / file
    text = settings.read_text(encoding="utf-8")
    changed, found = re.subn(rf"^( *{name}(?:: .*)? = ).*$", rf"\g<1>{value}", text, flags=re.MULTILINE)
    assert found == 1
    settings.write_text(changed, encoding="utf-8")


def follow(block: str, clone: Path, **environment: str) -> None:
    """Run a page's block in a clone."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", block],
        cwd=clone,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, block + done.stderr[-3000:]


def publish_taiyi(at: Path) -> None:
    """A pipeline of Taiyi's layout there, of random weights."""
    student = encoders.student(at.parent / "parts", size=300)
    tensors = load_file(student / "model.safetensors")
    bert = {name.removeprefix("text_model."): t for name, t in tensors.items() if name.startswith("text_model.")}
    taiyi(student, bert, json.loads((student / "config.json").read_text(encoding="utf-8"))["text_config"])
    (student / "taiyi").rename(at)


@BASH
@pytest.mark.parametrize(("rows", "epochs"), [(400, 1), pytest.param(20_000, 0.25, marks=pytest.mark.slow)])
def test_every_training_command_does_what_it_says(clone: Path, tmp_path: Path, rows: int, epochs: float) -> None:
    """An encoder trained and one converted, both where ComfyUI finds them. Eight passes of the whole starter take long:
    the clone's own defaults are less, and the commands are as written."""
    set_default(clone, "ROWS", str(rows), "corpus/starter/__init__.py")
    set_default(clone, "epochs", str(epochs))
    assert commands("README.md") == commands("README.zh.md")
    assert len(commands("README.md")) == 2
    publish_taiyi(tmp_path / "hub" / "IDEA-CCNL" / "Taiyi-Stable-Diffusion-1B-Chinese-v0.1")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        for block in commands("README.md"):
            follow(block, clone, **hub.settings(endpoint, tmp_path / "home"))
    encoders_of_comfyui = clone.parent.parent / "models" / "text_encoders"
    trained = read_meta(encoders_of_comfyui / "zhclip-sd15.safetensors")
    assert (trained.window, trained.teacher.id) == (77, "openai/clip-vit-large-patch14")
    assert rows / 2 < trained.corpus.rows < rows  # without the dev pairs and near-duplicates
    assert read_meta(encoders_of_comfyui / "taiyi.safetensors").licence == "creativeml-openrail-m"
