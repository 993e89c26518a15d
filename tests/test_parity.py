"""Trainer, shared arithmetic and node encode a prompt alike: 200 prompts, within 1e-4 in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from tests import small
from tests.host import ROOT, in_host
from trainer.student import Student
from zhclip import artifact as fmt
from zhclip.structure import Structure
from zhclip.tokens import PromptTokenizer

TOLERANCE = 1e-4


def by_arithmetic(artifact: fmt.Artifact, prompts: list[str]) -> list[torch.Tensor]:
    """transformers' own BertModel between zhclip's tokens and zhclip's structure: [(windows * W, D)]."""
    d, meta = artifact.meta.dimensions, artifact.meta
    config = BertConfig(
        vocab_size=d.vocabulary,
        hidden_size=d.width,
        num_hidden_layers=d.layers,
        num_attention_heads=d.heads,
        intermediate_size=d.intermediate,
        max_position_embeddings=d.positions,
        type_vocab_size=d.types,
        layer_norm_eps=d.layer_norm_eps,
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    missing, unexpected = bert.load_state_dict({k: v.float() for k, v in artifact.bert.items()}, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    tokens = PromptTokenizer.from_json(artifact.tokenizer_json, meta.special_ids, meta.window)
    structure = Structure.of(artifact)
    out = []
    for text in prompts:
        ids = torch.tensor(tokens.windows(text))
        mask = tokens.key_mask(ids) if meta.mask_padding else torch.ones_like(ids)
        with torch.inference_mode():
            hidden = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            out.append(structure.apply(hidden, tokens.is_empty(ids)).flatten(0, 1))
    return out


def by_node(folder: Path, *jobs: tuple[Path, str], prompts: list[str]) -> list[list[torch.Tensor]]:
    """The node's CLIP, for (artifact, way) pairs, all in one process: [[(windows * W, D)]]."""
    folder.mkdir(exist_ok=True)
    todo: list[dict[str, Any]] = [
        {"artifact": str(artifact), "way": way, "prompts": prompts, "out": str(folder / f"{i}.safetensors")}
        for i, (artifact, way) in enumerate(jobs)
    ]
    (folder / "jobs.json").write_text(json.dumps(todo), encoding="utf-8")
    in_host(ROOT / "tests" / "encode_in_host.py", folder / "jobs.json", timeout=600)
    found = [load_file(job["out"]) for job in todo]
    return [[tensors[f"cond.{i}"] for i in range(len(prompts))] for tensors in found]


def worst(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Largest difference anywhere."""
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("pair", ["clip_pair", "bert_pair"])
def test_trainer_arithmetic_and_node_agree(
    pair: str, request: pytest.FixtureRequest, tmp_path: Path, record_property
) -> None:
    path = request.getfixturevalue(pair)
    artifact, prompts = fmt.load(path), small.prompts()
    assert len(set(prompts)) == 200 and "" in prompts and max(map(len, prompts)) == 300
    student = Student.from_artifact(artifact)
    trained = [student.encode_prompt(text) for text in prompts]
    plain = by_arithmetic(artifact, prompts)
    (node,) = by_node(tmp_path, (path, "loaded"), prompts=prompts)
    figures = {"trainer": worst(trained, plain), "node": worst(node, plain)}
    print(f"{pair}: largest difference from zhclip's arithmetic: {figures}")
    assert max(figures.values()) < TOLERANCE, figures
    assert max(len(z) for z in node) >= 3 * artifact.meta.window
    assert worst(trained[:1], trained[1:2]) > 0.01  # prompts differ at all


def test_every_form_of_artifact_and_an_offloaded_model_agree_too(tmp_path: Path) -> None:
    forms = {
        "plain": small.artifact(width=48, teacher_width=48, structured=False, window=20),
        "unmasked": small.artifact(mask_padding=False, window=52),
        "whole": small.artifact(),
    }
    for name, artifact in forms.items():
        fmt.save(artifact, tmp_path / f"{name}.safetensors")
    prompts = small.prompts()[::8]
    jobs = [(tmp_path / f"{name}.safetensors", way) for name in forms for way in ("loaded", "offloaded")]
    for (path, way), node in zip(jobs, by_node(tmp_path / "out", *jobs, prompts=prompts)):
        assert worst(node, by_arithmetic(forms[path.stem], prompts)) < TOLERANCE, (path.stem, way)
