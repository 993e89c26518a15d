"""A run to a hub and back: card, dry run, push to a local stand-in, download, and the node that loads what came."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests import graphs, hub, runs
from tests.host import ROOT, running
from trainer.__main__ import main
from trainer.base.settings import parse_recipe
from trainer.models.student import Student
from zhclip.artifact import load, save

Printed = pytest.CaptureFixture[str]
REPO = "someone/zhclip-tiny"
FILE = "zhclip-tiny.safetensors"
PROMPT = "\u4e00\u53ea\u72d7\u5728\u8dd1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lora run."""
    folder = tmp_path_factory.mktemp("publish")
    # The recipe's own window: over one of 32 these few steps leave an encoder that `publish` refuses.
    flags = ["--config", runs.TINY, *runs.flags(runs.inputs(folder)), "--export.licence", "Apache-2.0"]
    flags += ["--train.strategy", "lora", "--train.lora.r", "4"]
    assert main(["run", "--run", str(folder / "tiny"), *flags]) == 0
    return folder / "tiny"


def process(command: list[str], endpoint: str, home: Path, token: str = hub.TOKEN) -> subprocess.CompletedProcess[str]:
    """A user's process with a hub of its own. An empty token is none."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_TOKEN_PATH")}
    environment |= hub.settings(endpoint, home) | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")


def test_what_was_pushed_comes_back_and_the_node_loads_it(finished: Path, tmp_path: Path) -> None:
    home, base = tmp_path / "home", tmp_path / "comfyui"
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        command = [sys.executable, "-m", "trainer", "publish", "--run", str(finished)]
        dry = process(command, endpoint, home)
        assert dry.returncode == 0, dry.stderr
        assert f"{endpoint}/{REPO}/{FILE}" in dry.stdout  # of who is logged in, named by the run
        assert asked == ["/api/whoami-v2"] and not (tmp_path / "hub").exists()
        pushed = process([*command, "--push"], endpoint, home)
        assert pushed.returncode == 0, pushed.stderr
        assert f"{endpoint}/{REPO}/commit/{hub.COMMIT}" in pushed.stdout
        # As the card says it, by the tool that the card names.
        (line,) = re.findall("hf download .*", (finished / "card/README.md").read_text("utf-8"))
        command = shlex.split(line.replace("ComfyUI/", f"{base.as_posix()}/"))
        down = process([str(Path(sys.executable).parent / command[0]), *command[1:]], endpoint, home, token="")
        assert down.returncode == 0, down.stderr
    repository = tmp_path / "hub" / REPO
    sent = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert sent == {"README.md", FILE, "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    for name in sorted(sent - {"README.md", FILE}):
        assert (repository / name).read_bytes() == (finished / name).read_bytes()
    came = base / "models" / "text_encoders" / FILE
    assert came.read_bytes() == (finished / "encoder.safetensors").read_bytes()
    with running(base, "--fp32-text-enc") as host:
        outputs = host.outputs(graphs.probe(PROMPT, "pushed", FILE))
        assert "Cosine loss to teacher" in json.dumps(outputs) and "WARNING" not in json.dumps(outputs)
        node = load_file(base / "output" / "pushed.safetensors")["cond.0"]
    own = Student.from_artifact(load(finished / "encoder.safetensors")).encode([PROMPT])
    assert torch.allclose(node, own, atol=1e-4)


def test_the_card_says_what_it_is_and_how_good(finished: Path, tmp_path: Path, capsys: Printed) -> None:
    assert main(["publish", "--run", str(finished), "--repo", REPO]) == 0
    assert "--export.licence" not in capsys.readouterr().out
    made, meta = ModelCard.load(finished / "card" / "README.md"), load(finished / "encoder.safetensors").meta
    data = made.data.to_dict()
    assert (data["license"], data["language"]) == ("apache-2.0", ["zh", "en"])
    assert {"comfyui", "zhclip", "lora"} <= set(data["tags"])
    assert "base_model" not in data and "datasets" not in data  # no hub has this student and this corpus
    for figure in (meta.report["loss"]["all"], meta.report["baselines"]["constant"]["content"], meta.report["skill"]):
        assert f"{figure:.3f}" in made.text
    for text in ("constant per position", f"{meta.corpus.rows:,} pairs", meta.corpus.sha256, meta.teacher.sha256):
        assert text in made.text
    assert "strategy: lora" in made.text and "is exact at -1 only" in made.text and "\u4e2d\u6587" in made.text
    assert "{{" not in made.text and "None" not in made.text.replace("null", "")
    assert str(finished.parent) not in made.content
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(made.text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert parse_recipe(recipe).train == parse_recipe(finished / "recipe.yaml").train


def changed(finished: Path, folder: Path, **changes: Any) -> Path:
    """A run's folder with another metadata in its encoder."""
    artifact = load(finished / "encoder.safetensors")
    meta = dataclasses.replace(artifact.meta, **changes)
    save(dataclasses.replace(artifact, meta=meta), folder / "encoder.safetensors")
    return folder


def test_models_and_datasets_of_the_hub_are_linked(finished: Path, tmp_path: Path, capsys: Printed) -> None:
    recipe = load(finished / "encoder.safetensors").meta.recipe
    recipe["student"]["model"] = "OFA-Sys/chinese-clip-vit-base-patch16"
    recipe["corpus"]["train"] = [{"path": "someone/captions", "weight": 0.5}, {"path": "mine.tsv"}]
    run = changed(finished, tmp_path, recipe=recipe, licence="unknown", strategy="ridge")
    assert main(["publish", "--run", str(run), "--repo", REPO]) == 0
    out = capsys.readouterr().out
    assert "--export.licence" in out and "adapter" not in out
    data = ModelCard.load(run / "card" / "README.md").data
    assert (data.base_model, data.datasets) == ("OFA-Sys/chinese-clip-vit-base-patch16", ["someone/captions"])
    assert "someone/captions, mine.tsv" in (run / "card" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "flags", "says"),
    [
        ({"report": {}}, [], "encoder.safetensors"),
        ({"report": {"loss": {"all": 0.5}, "baselines": {"constant": {"all": 0.5}}}}, [], "0.500"),
        ({}, ["--run", ""], "--run"),
        ({}, ["--run", "nowhere"], "nowhere"),
    ],
)
def test_what_should_not_be_published_is_refused_in_one_line(
    changes: dict[str, Any], flags: list[str], says: str, finished: Path, tmp_path: Path, capsys: Printed
) -> None:
    run = changed(finished, tmp_path, **changes)
    assert main(["publish", "--run", str(run), "--repo", REPO, "--push", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (run / "card").exists()


REFUSED = {  # licence, token, flags, and what the line names
    "no owner": ("MIT", "", [], "--repo OWNER/zhclip-run0"),
    "no token": ("MIT", "", ["--repo", REPO], "hf auth login"),
    "another's token": ("MIT", "hf_of_another", ["--repo", REPO], "401 Unauthorized"),
    "a card that the hub refuses": ("", hub.TOKEN, ["--repo", REPO], '"license" is'),
}
ONE_BY_ONE = """
import json, os, sys
from trainer.__main__ import main
for run, token, flags in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    print("\\ncode", main(["publish", "--run", run, "--push", *flags]), file=sys.stderr)
"""


def test_a_hub_that_refuses_is_quoted_in_one_line(finished: Path, tmp_path: Path) -> None:
    """In one process, for starting one takes seconds; the last two pushes are fine, and the second changes nothing."""
    jobs: list[tuple[str, str, list[str]]] = []
    for i, (licence, token, flags, _) in enumerate(REFUSED.values()):
        jobs.append((str(changed(finished, tmp_path / f"run{i}", licence=licence)), token, flags))
    jobs += [(str(finished), hub.TOKEN, [])] * 2
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        done = process([sys.executable, "-c", ONE_BY_ONE, json.dumps(jobs)], endpoint, tmp_path / "home")
    lines = [line for line in done.stderr.splitlines() if line.startswith(("publish: ", "code "))]
    assert lines[1:8:2] == ["code 1"] * 4, done.stderr
    for line, (_, _, _, says) in zip(lines[:8:2], REFUSED.values(), strict=True):
        assert says in line
    assert lines[8:] == ["code 0"] * 2
