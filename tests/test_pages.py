"""README.md and docs/train.md followed as written: their training commands, in a clone below a ComfyUI and with a local
stand-in of the hub."""

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
from transformers import BertConfig, BertModel

from tests import encoders, hub, small, translators
from tests.tree import ROOT, tracked
from zhclip.artifact import read_meta

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a shell that Windows lacks")


def commands(page: str) -> list[str]:
    """The page's shell blocks that call the trainer."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if "python -m trainer" in block]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tracked files in ComfyUI/custom_nodes/zhclip with captions, a checkpoint in ComfyUI, models on the hub."""
    clone = tmp_path / "ComfyUI" / "custom_nodes" / "zhclip"
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clone / name)
    encoders.corpora(clone)
    shutil.copyfile(clone / "dev.tsv", clone / "test.tsv")
    teacher = encoders.clip_teacher(tmp_path / "hub" / "openai" / "clip-vit-large-patch14", width=128)
    checkpoints = tmp_path / "ComfyUI" / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    tensors = load_file(teacher / "model.safetensors")
    prefix = "cond_stage_model.transformer.text_model."
    save_file({prefix + k.removeprefix("text_model."): v for k, v in tensors.items()}, checkpoints / "mine.safetensors")
    return clone


def set_default(file: Path, name: str, value: str) -> None:
    """Change a default in a clone's source or recipe, where a page's command gives no flag."""
    text = file.read_text(encoding="utf-8")
    changed, found = re.subn(rf"^( *{name}(?:: .*)? = | *{name}: ).*$", rf"\g<1>{value}", text, flags=re.MULTILINE)
    assert found == 1
    file.write_text(changed, encoding="utf-8")


def follow(block: str, clone: Path, **environment: str) -> None:
    """Run a page's block in a clone."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **environment, "PATH": path}
    done = subprocess.run(["bash", "-ec", block], cwd=clone, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, block + done.stderr[-3000:]


def publish_taiyi(folder: Path) -> None:
    """A pipeline of Taiyi's layout, of random weights."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    student = encoders.student(folder.parent / "parts", size=300)
    words = (student / "vocab.txt").read_text(encoding="utf-8").split()
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    shutil.copy(student / "vocab.txt", folder / "tokenizer")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model_index.json").write_text("{}", encoding="utf-8")


def test_the_readmes_training_commands(clone: Path, tmp_path: Path) -> None:
    """An encoder trained and one converted, both where ComfyUI finds them. Eight passes of the whole starter take long:
    the clone's own defaults are less, and the commands are as written."""
    rows, epochs = 400, 1
    set_default(clone / "trainer" / "corpus" / "starter" / "__init__.py", "DEFAULT_ROWS", str(rows))
    set_default(clone / "trainer" / "base" / "recipe.py", "epochs", str(epochs))
    assert commands("README.md") == commands("README.zh.md")
    assert len(commands("README.md")) == 2
    encoders.student(tmp_path / "hub" / "OFA-Sys" / "chinese-clip-vit-base-patch16")
    publish_taiyi(tmp_path / "hub" / "IDEA-CCNL" / "Taiyi-Stable-Diffusion-1B-Chinese-v0.1")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        for block in commands("README.md"):
            follow(block, clone, **hub.settings(endpoint, tmp_path / "home"))
    installed = clone.parent.parent / "models" / "text_encoders"
    trained = read_meta(installed / "zhclip-sd15.safetensors")
    assert (trained.window, trained.teacher.id) == (77, "openai/clip-vit-large-patch14")
    assert rows / 2 < trained.corpus.rows < rows  # without the dev pairs and near-duplicates
    assert read_meta(installed / "taiyi.safetensors").licence == "creativeml-openrail-m"


@pytest.mark.slow
def test_the_training_page_from_its_top_to_its_end(clone: Path, tmp_path: Path) -> None:
    # As wide as the teacher, like the real two, for the paper's recipes have no map between widths.
    encoders.student(tmp_path / "hub" / "OFA-Sys" / "chinese-clip-vit-base-patch16", width=128)
    encoders.sdxl_teacher(tmp_path / "hub" / "stabilityai" / "stable-diffusion-xl-base-1.0")
    translators.marian(tmp_path / "hub" / "Helsinki-NLP" / "opus-mt-en-zh", steps=80)
    english = [en for _, en in small.captions()[: translators.LEARNT]]
    (clone / "captions.tsv").write_text("\n".join(["en", *english]) + "\n", encoding="utf-8")
    # 20,000 steps of 1,024 captions take too long here, and encoders of random numbers bear no fp16.
    set_default(clone / "trainer" / "base" / "recipe.py", "dtype", '"float32"')
    set_default(clone / "trainer" / "corpus" / "starter" / "__init__.py", "DEFAULT_ROWS", "400")
    for recipe in (clone / "recipes" / f"{name}.yaml" for name in ("paper-unfreeze", "paper-lora")):
        set_default(recipe, "steps", "4")
        set_default(recipe, "batch", "8")
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    grid = re.search(r"```yaml\n# grid.yaml\n(.*?)```", page, re.DOTALL)
    assert grid
    (clone / "grid.yaml").write_text(grid[1].replace("300", "4").replace("seeds: 3", "seeds: 2"), encoding="utf-8")
    own_pairs = (clone / "train.tsv").read_text(encoding="utf-8")
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        for block in commands("docs/train.md"):
            follow(block, clone, HF_TOKEN=hub.TOKEN, **hub.settings(endpoint, tmp_path / "home"))
            if "translate" in block:
                assert len((clone / "train.tsv").read_text(encoding="utf-8").splitlines()) > translators.LEARNT // 2
                (clone / "train.tsv").write_text(own_pairs, encoding="utf-8")  # enough of them to train on
    assert json.loads((clone / "runs" / "sd15" / "test.json").read_text(encoding="utf-8"))["rows"] == 20
    installed = clone.parent.parent / "models" / "text_encoders"
    assert read_meta(installed / "zhclip-sdxl.safetensors").keys == ("l", "g")
    assert read_meta(tmp_path / "hub" / "someone" / "zhclip-mine" / "zhclip-mine.safetensors").window == 77
    table = (clone / "runs" / "sweep" / "sweep-grid.md").read_text(encoding="utf-8")
    assert all(f"| {row} | 2 |" in table for row in ("recommended", "hotter", "lora"))
    assert (clone / "runs" / "paper.md").is_file()
    for name in ("unfreeze", "lora"):
        assert json.loads((clone / "runs" / f"paper-{name}" / "report.json").read_text())["strategy"] == name
