"""docs/train.md, followed from its top to its end: its shell blocks as written, beside a stand-in of the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import encoders, hub, small, translators
from tests.test_readme import BASH, clone, commands, follow, set_default  # noqa: F401 - clone is a fixture
from tests.tree import ROOT
from zhclip.artifact import read_meta


@pytest.mark.slow
@BASH
def test_the_page_can_be_followed(clone: Path, tmp_path: Path) -> None:  # noqa: F811
    # As wide as the teacher, like the real two, for the paper's recipes have no map between widths.
    encoders.student(tmp_path / "hub" / "OFA-Sys" / "chinese-clip-vit-base-patch16", width=128)
    encoders.sdxl_teacher(tmp_path / "hub" / "stabilityai" / "stable-diffusion-xl-base-1.0")
    translators.marian(tmp_path / "hub" / "Helsinki-NLP" / "opus-mt-en-zh", steps=80)
    english = [en for _, en in small.captions()[: translators.LEARNT]]
    (clone / "captions.tsv").write_text("\n".join(["en", *english]) + "\n", encoding="utf-8")
    # 20,000 steps of 1,024 captions are no test's, and encoders of random numbers bear no fp16: the clone's settings
    # say so, the commands are as written.
    set_default(clone, "dtype", '"float32"')
    set_default(clone, "ROWS", "400", "corpus/starter/__init__.py")
    for recipe in (clone / "recipes" / f"{name}.yaml" for name in ("paper-unfreeze", "paper-lora")):
        text = recipe.read_text(encoding="utf-8").replace("steps: 20000", "steps: 4").replace("batch: 1024", "batch: 8")
        recipe.write_text(text, encoding="utf-8")
    grid = re.search(
        r"```yaml\n# grid.yaml\n(.*?)```", (ROOT / "docs" / "train.md").read_text(encoding="utf-8"), re.DOTALL
    )
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
    assert read_meta(tmp_path / "hub" / "OWNER" / "NAME" / "NAME.safetensors").window == 77
    table = (clone / "runs" / "sweep" / "sweep-grid.md").read_text(encoding="utf-8")
    assert all(f"| {row} | 2 |" in table for row in ("recommended", "hotter", "lora"))
    assert "constant per position" in (clone / "runs" / "paper.md").read_text(encoding="utf-8")
    runs = [json.loads((clone / "runs" / f"paper-{name}" / "report.json").read_text()) for name in ("unfreeze", "lora")]
    assert [report["strategy"] for report in runs] == ["unfreeze", "lora"]
