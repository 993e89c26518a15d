"""Trainer, shared arithmetic and node encode a prompt alike, plain ones and such with weights, within 1e-4 in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import small
from tests.host import in_host
from trainer.models.student import Student
from zhclip import artifact as fmt

TOLERANCE = 1e-4


def by_node(folder: Path, *jobs: tuple[Path, str], prompts: list[str]) -> list[list[torch.Tensor]]:
    """The node's CLIP, for (artifact, mode) pairs, all in one process: [[(windows * W, D)]]."""
    folder.mkdir(exist_ok=True)
    todo: list[dict[str, Any]] = [
        {"artifact": str(artifact), "mode": mode, "prompts": prompts, "out": str(folder / f"{i}.safetensors")}
        for i, (artifact, mode) in enumerate(jobs)
    ]
    (folder / "jobs.json").write_text(json.dumps(todo), encoding="utf-8")
    in_host("in_host.encode", folder / "jobs.json")
    found = [load_file(job["out"]) for job in todo]
    return [[tensors[f"cond.{i}"] for i in range(len(prompts))] for tensors in found]


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pair", ["clip_pair", pytest.param("bert_pair", marks=pytest.mark.slow)])
def test_trainer_arithmetic_and_node_agree(
    pair: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = request.getfixturevalue(pair)
    artifact, prompts = fmt.load(path), small.prompts()[:: 200 // count]
    assert len(set(prompts)) == count and "" in prompts and max(map(len, prompts)) == 300
    prompts = prompts + small.weighted(prompts)
    student = Student.from_artifact(artifact)
    trained = [student.encode_prompt(text) for text in prompts]
    plain = small.by_transformers(artifact, prompts)["prompt_embeds"]
    (node,) = by_node(tmp_path, (path, "loaded"), prompts=prompts)
    figures = {"trainer": small.largest_difference(trained, plain), "node": small.largest_difference(node, plain)}
    print(f"{pair}: largest difference from zhclip's arithmetic: {figures}")
    assert max(figures.values()) < TOLERANCE, figures
    assert max(len(z) for z in node) >= 3 * artifact.meta.window
    assert len({float(z.sum()) for z in trained}) > count / 2  # prompts differ at all


def test_every_form_of_artifact_and_an_offloaded_model_agree_too(tmp_path: Path) -> None:
    forms = {
        "plain": small.artifact(width=48, teacher_width=48, structured=False, window=20),
        "unmasked": small.artifact(mask_padding=False, window=52),
        "whole": small.artifact(),
        "skip": small.artifact(skip=True),
    }
    for name, artifact in forms.items():
        fmt.save(artifact, tmp_path / f"{name}.safetensors")
    prompts = small.prompts()[::16] + small.weighted(small.prompts())[::4]
    jobs = [(tmp_path / f"{name}.safetensors", mode) for name in forms for mode in ("loaded", "offloaded", "skipped")]
    for (path, mode), node in zip(jobs, by_node(tmp_path / "out", *jobs, prompts=prompts)):
        layer = -2 if mode == "skipped" else -1
        expected = small.by_transformers(forms[path.stem], prompts, layer)["prompt_embeds"]
        assert small.largest_difference(node, expected) < TOLERANCE, (path.stem, mode)
