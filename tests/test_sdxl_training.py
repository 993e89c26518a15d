"""The trainer for a checkpoint of two text encoders: targets of two parts and a pooled vector, to the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import encoders, runs
from trainer.__main__ import main
from trainer.base.settings import parse_recipe
from trainer.models.student import Student
from trainer.training.setup import TrainedRun
from zhclip.artifact import load


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sdxl")
    return runs.inputs(folder) | {"--teacher.model": str(encoders.sdxl_teacher(folder / "sdxl"))}


OTHERS = [pytest.param(strategy, marks=pytest.mark.slow) for strategy in ("lora", "ridge")]


@pytest.fixture(scope="module", params=["unfreeze", *OTHERS])
def finished(request: pytest.FixtureRequest, inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each strategy. A random student's first position hardly differs between captions: by the usual penalty
    the pooled vector's map would be of numbers so large that rounding shows."""
    more = ["--train.strategy", request.param, "--train.ridge_lambda", "0.1"]
    return runs.run(tmp_path_factory.mktemp("run") / "r", inputs, *more)


def test_the_file_has_two_parts_and_answers_as_the_trained_student(finished: Path) -> None:
    artifact = load(finished / "encoder.safetensors")
    meta = artifact.meta
    assert (meta.keys, meta.teacher.layer, meta.position0) == (("l", "g"), -2, "stored")
    assert (sum(meta.widths), meta.pooled) == (meta.teacher.width, len(artifact.pooled["proj_weight"]))
    run = TrainedRun.open(parse_recipe(finished / "recipe.yaml"), "cpu")
    if run.adapter is not None:
        run.adapter.merge_and_unload()
    made = Student.from_artifact(artifact)
    ids = torch.tensor([made.tokens.windows(text)[0] for text in ("", "\u732b", "\u7ea2\u8272\u7684\u732b")])
    (own, pooled), (z, projected) = run.student.encode_ids(ids), made.encode_ids(ids)
    teacher: Any = run.teacher
    assert pooled is not None and projected is not None
    assert torch.allclose((z - teacher.mean) / teacher.std, own, atol=1e-4)
    assert torch.allclose((projected - teacher.pooled_mean) / teacher.pooled_std, pooled, atol=1e-4)
    # Position 0, and the empty prompt whole, are the teacher's own vectors.
    plain = replace(teacher, mean=None, std=None, pooled_mean=None, pooled_std=None)
    targets, pooled_empty = plain.encode([""])
    empty = targets[0]
    assert torch.allclose(z[0], empty, atol=1e-4) and torch.allclose(z[:, 0], empty[0].expand(3, -1), atol=1e-4)
    assert torch.allclose(projected[:1], pooled_empty, atol=1e-4)


def test_the_report_has_each_part_and_the_pooled_vector_beside_their_baselines(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    parts = report["parts"]
    assert [name.split(",")[0] for name in parts] == ["part 1", "part 2", "pooled"]
    assert all({"aligned", "constant", "nearest", "ridge"} <= set(part["loss"]) for part in parts.values())
    both = [part["loss"]["aligned"]["all"] for name, part in parts.items() if name != "pooled"]
    assert report["loss"]["all"] == pytest.approx(sum(both) / 2, abs=1e-6)
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}</th>" in page for name in parts)


def test_a_killed_run_of_two_parts_ends_in_the_same_file(inputs: dict[str, str], tmp_path: Path) -> None:
    whole = runs.run(tmp_path / "whole", inputs)
    part = tmp_path / "part"
    for name in ("corpus", "cache"):
        assert main([name, "--config", runs.TINY, "--run", str(part), "--window", "32", *runs.flags(inputs)]) == 0
    (part / "cache" / "train" / "captions-pad2" / "00000.safetensors").unlink()
    runs.run(part, inputs)
    one, other = (load_file(run / "encoder.safetensors") for run in (whole, part))
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
