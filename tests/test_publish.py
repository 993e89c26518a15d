"""A run to a hub and back: card, dry run, push to a local stand-in, download, and the node that loads what came."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
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
from trainer.artifact.publish import model_card
from trainer.base.settings import parse_recipe
from trainer.models.student import Student
from zhclip.artifact import load, save

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
    assert main(["run", "--run", str(folder / "run"), *flags]) == 0
    return folder / "run"


def process(command: list[str], endpoint: str, home: Path, token: str = hub.TOKEN) -> subprocess.CompletedProcess[str]:
    """A user's process with a hub of its own. An empty token is none."""
    found = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_TOKEN_PATH")}
    found |= hub.settings(endpoint, home) | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(command, cwd=ROOT, env=found, capture_output=True, encoding="utf-8", timeout=200, check=False)


def publish(run: Path, *flags: str, repo: str = REPO) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "trainer", "publish", "--run", str(run), "--repo", repo, *flags]


def test_what_was_pushed_comes_back_and_the_node_loads_it(finished: Path, tmp_path: Path) -> None:
    home, base = tmp_path / "home", tmp_path / "comfyui"
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        dry = process(publish(finished), endpoint, home)
        assert dry.returncode == 0, dry.stderr
        assert f"{endpoint}/{REPO}/{FILE}" in dry.stdout and "nothing was sent" in dry.stdout
        assert not asked and not (tmp_path / "hub").exists()
        pushed = process(publish(finished, "--push"), endpoint, home)
        assert pushed.returncode == 0, pushed.stderr
        assert f"pushed, {endpoint}/{REPO}/commit/{hub.COMMIT}" in pushed.stdout
        # As the card says it, by the tool that the card names.
        (line,) = [
            line for line in (finished / "card/README.md").read_text("utf-8").splitlines() if "hf download" in line
        ]
        command = shlex.split(line.replace("ComfyUI/", f"{base.as_posix()}/"))
        found = shutil.which(command[0], path=str(Path(sys.executable).parent))
        assert found, "huggingface_hub's command is not beside python"
        down = process([found, *command[1:]], endpoint, home, token="")
        assert down.returncode == 0, down.stderr
        assert any(path.startswith("/lfs/") for path in asked)
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


def test_the_card_says_what_it_is_and_how_good(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    tables = made.text.split("find their own translation")[2].splitlines()  # the verdict has the words too
    ranks = next(line.split(" | ")[1:4] for line in tables if line.startswith("| **this"))
    found = meta.report["retrieval"]["zh_to_en"]  # in the file's header R@10 stands before R@5
    assert ranks == [f"{found[rank]:.3f}" for rank in ("R@1", "R@5", "R@10")]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(made.text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert parse_recipe(recipe).train == parse_recipe(finished / "recipe.yaml").train


def changed(finished: Path, folder: Path, **changes: Any) -> Path:
    """A run's folder with another metadata in its encoder."""
    artifact = load(finished / "encoder.safetensors")
    save(
        dataclasses.replace(artifact, meta=dataclasses.replace(artifact.meta, **changes)),
        folder / "encoder.safetensors",
    )
    return folder


def test_models_and_datasets_of_the_hub_are_linked(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load(finished / "encoder.safetensors").meta.recipe
    recipe["student"]["model"] = "OFA-Sys/chinese-clip-vit-base-patch16"
    recipe["corpus"]["train"] = [{"path": "someone/captions", "weight": 0.5}, {"path": "mine.tsv"}]
    run = changed(finished, tmp_path, recipe=recipe, licence="unknown", strategy="ridge")
    assert main(["publish", "--run", str(run), "--repo", "zhclip-tiny"]) == 0
    out = capsys.readouterr().out
    assert "--export.licence" in out and "adapter" not in out
    data = ModelCard.load(run / "card" / "README.md").data
    assert (data.base_model, data.datasets) == ("OFA-Sys/chinese-clip-vit-base-patch16", ["someone/captions"])
    assert "someone/captions, mine.tsv" in (run / "card" / "README.md").read_text("utf-8")


HOSTILE = "a|b <script>x</script> [y](http://z) `q` *s*\n# T"


def test_no_name_in_a_card_has_a_meaning_of_its_own(finished: Path) -> None:
    artifact = load(finished / "encoder.safetensors")
    meta, report = artifact.meta, artifact.meta.report
    recipe = meta.recipe | {"student": meta.recipe["student"] | {"model": HOSTILE}}
    recipe["corpus"] = recipe["corpus"] | {"train": [{"path": HOSTILE}]}
    report |= {"strategy": HOSTILE, "baselines_from": HOSTILE}
    report["corpus"] |= {"name": HOSTILE, "rejected": {HOSTILE: 1}}
    teacher = dataclasses.replace(meta.teacher, id=HOSTILE, sha256=HOSTILE)
    changes: dict[str, Any] = dict(recipe=recipe, report=report, teacher=teacher, licence=HOSTILE, strategy=HOSTILE)
    made = model_card(dataclasses.replace(artifact, meta=dataclasses.replace(meta, **changes)), REPO, FILE)
    assert ModelCard(made).data.to_dict()["license"] == HOSTILE.lower()  # YAML, which quotes it
    shown, _, rest = made.partition("\n---\n")[2].partition("```yaml")
    for text in (shown, rest.partition("\n```\n")[2]):
        assert "a\\|b \\<script\\>" in text
        assert not re.search(r"(?<!\\)(<script|a\||\]\(http://z|`q|\*s\*)|^# T", text, re.M), text


@pytest.mark.parametrize(
    ("changes", "flags", "says"),
    [
        ({"report": {}}, [], "encoder.safetensors"),
        (
            {"report": {"loss": {"all": 0.5}, "baselines": {"constant": {"all": 0.5}}}},
            [],
            "0.500",
        ),
        ({}, ["--repo", "a/b/c"], "--repo a/b/c"),
        ({}, ["--repo", ""], "--repo"),
        ({}, ["--run", ""], "--run"),
        ({}, ["--run", "nowhere"], "nowhere"),
    ],
)
def test_what_should_not_be_published_is_refused_in_one_line(
    changes: dict[str, Any],
    flags: list[str],
    says: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = changed(finished, tmp_path, **changes)
    assert main(["publish", "--run", str(run), "--repo", REPO, "--push", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (run / "card").exists()


REFUSED = {
    "no token": ("MIT", "", "no token for the hub; log in with `hf auth login`, or set HF_TOKEN"),
    "another's token": ("MIT", "hf_of_another", "did not take it (Client error '401 Unauthorized'"),
    "a card that the hub refuses": ("", hub.TOKEN, 'did not take it (Invalid metadata in README.md. - "license" is'),
}
ONE_BY_ONE = """
import json, os, sys
from trainer.__main__ import main
from trainer.artifact.publish import model_card
for run, token in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    print("\\ncode", main(["publish", "--run", run, "--repo", sys.argv[2], "--push"]), file=sys.stderr)
"""


def test_a_hub_that_refuses_is_quoted_in_one_line(finished: Path, tmp_path: Path) -> None:
    """In one process, for starting one takes seconds; the last two pushes are fine, and the second changes nothing."""
    jobs = []
    for i, (licence, token, _) in enumerate(REFUSED.values()):
        jobs.append((str(changed(finished, tmp_path / f"run{i}", licence=licence)), token))
    jobs += [(str(finished), hub.TOKEN)] * 2
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        done = process([sys.executable, "-c", ONE_BY_ONE, json.dumps(jobs), REPO], endpoint, tmp_path / "home")
    lines = [line for line in done.stderr.splitlines() if line.startswith(("publish: ", "code "))]
    assert lines[1:6:2] == ["code 1"] * 3, done.stderr
    for line, (_, _, says) in zip(lines[:6:2], REFUSED.values(), strict=True):
        assert says in line
    assert lines[6:] == ["code 0"] * 2
    assert sum(path.startswith("/lfs/") for path in asked) == 1  # the encoder, once


def test_a_hub_that_cannot_be_reached_is_named(finished: Path, tmp_path: Path) -> None:
    done = process(publish(finished, "--push"), "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"publish: --repo {REPO}: http://127.0.0.1:9 did not take it (")
