"""Models that cannot be used are refused by name: flag, path, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import encoders
from tests.encoders import WINDOW
from trainer.models.clip import PREFIXES
from trainer.models.load import ModelError, read_tensors
from trainer.models.student import load_student
from trainer.models.teacher import load_teacher

Change = Callable[[dict[str, torch.Tensor]], object]
MAKE: dict[str, Callable[[Path], Path]] = {"clip": encoders.clip_teacher, "chinese_clip": encoders.student}


@pytest.mark.parametrize(
    ("side", "source", "window", "names"),
    [
        ("student", "./nowhere", WINDOW, "./nowhere"),
        ("student", "chinese_clip", 99, "99"),
        ("teacher", "clip", 78, "78"),
        ("student", "clip", WINDOW, "'clip_text_model'"),
        ("teacher", "chinese_clip", WINDOW, "'chinese_clip'"),
    ],
)
def test_unusable_models_are_refused_by_name(side: str, source: str, window: int, names: str, tmp_path: Path) -> None:
    given = source if "/" in source else str(MAKE[source](tmp_path / source))
    with pytest.raises(ModelError, match=f"^--{side}.model .*{names}"):
        (load_student if side == "student" else load_teacher)(given, window)


def rewrite(file: Path, change: Change) -> None:
    """Change a file's tensors."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


DENSE = "encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "config", "names"),
    [
        (lambda t: t.pop(DENSE), {}, DENSE),
        (lambda t: t.update({DENSE: t[DENSE][:1]}), {}, DENSE),
        (lambda t: t.update(other=torch.ones(1)), {}, "other"),
        (lambda t: t.pop("embeddings.word_embeddings.weight"), {}, "word_embeddings"),
        (None, {"hidden_act": "relu"}, "relu"),
        (None, {"num_attention_heads": 5}, "5"),
        (None, {"num_hidden_layers": 9}, r"encoder\.layer\.2"),
        (b"cut short", {}, r"model\.safetensors"),
        (None, b"{", r"config\.json"),
        (None, b"[]", r"config\.json"),
    ],
)
def test_a_damaged_bert_is_refused_by_name(
    change: Change | bytes | None, config: Any, names: str, tmp_path: Path
) -> None:
    source = encoders.bert_teacher(tmp_path / "bert")
    if isinstance(change, bytes):
        (source / "model.safetensors").write_bytes(change)
    elif change:
        rewrite(source / "model.safetensors", change)
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_bytes(
        config if isinstance(config, bytes) else json.dumps(settings | config).encode()
    )
    for side, load in (("student", load_student), ("teacher", load_teacher)):
        with pytest.raises(ModelError, match=f"^--{side}.model {source}.*{names}"):
            load(str(source), WINDOW)


L, G = encoders.SDXL_L, encoders.SDXL_G
BLOCK = f"{G}transformer.resblocks.1."


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda t: t.pop(f"{BLOCK}attn.in_proj_bias"), r"encoder\.layers\.1\.self_attn\.k_proj\.bias"),
        (lambda t: t.update({f"{BLOCK}attn.in_proj_weight": torch.zeros(383, 128)}), r"_proj\.weight"),
        (lambda t: t.update({f"{BLOCK}attn.in_proj_weight": torch.tensor(1.0)}), r"_proj\.weight"),
        (lambda t: t.update({f"{G}text_projection": torch.zeros(128)}), r"text_projection\.weight"),
        (lambda t: t.update({f"{G}text_projection": torch.zeros(64, 99)}), r"text_projection\.weight"),
        (lambda t: t.pop(f"{G}text_projection"), r"text_projection\.weight"),
        (lambda t: t.pop(f"{G}positional_embedding"), r"position_embedding\.weight"),
        (lambda t: t.pop(f"{L}text_model.final_layer_norm.bias"), r"final_layer_norm\.bias"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith(L)], L),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith(G)], G),
    ],
)
def test_a_damaged_sdxl_file_is_refused_by_name(tmp_path: Path, change: Change, names: str) -> None:
    sdxl = encoders.sdxl_teacher(tmp_path / "sdxl")
    file = encoders.sdxl_checkpoint(sdxl, tmp_path / "sdxl.safetensors")
    assert {name.split(".")[0] for name in read_tensors(file, "teacher.model", PREFIXES)} == {"conditioner"}
    rewrite(file, change)
    with pytest.raises(ModelError, match=f"{file}.*{names}"):
        load_teacher(str(file), 77, tokenizer=str(sdxl))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            lambda folder: (folder / "text_encoder_2" / "config.json").write_text('{"model_type": "t5"}'),
            "text_encoder_2: .*'t5'",
        ),
        (lambda folder: (folder / "text_encoder_3").mkdir(), "text_encoder_3"),
        (lambda folder: (folder / "text_encoder_2" / "model.safetensors").unlink(), "text_encoder_2"),
    ],
)
def test_other_and_incomplete_pipelines_are_refused(change: Callable[[Path], None], names: str, tmp_path: Path) -> None:
    pipeline = encoders.sdxl_teacher(tmp_path / "pipeline")
    change(pipeline)
    with pytest.raises(ModelError, match=names):
        load_teacher(str(pipeline), 77)
