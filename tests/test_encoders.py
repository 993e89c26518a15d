"""Teacher and student in every published layout: the same outputs as transformers', and refusals by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, ChineseCLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from tests import encoders
from tests.encoders import WINDOW
from tests.small import artifact, captions
from trainer.base.recipe import TrainSettings
from trainer.models.freezing import set_trainable
from trainer.models.load import ModelError
from trainer.models.student import Ridge, load_student
from trainer.models.teacher import load_teacher
from zhclip.artifact import save
from zhclip.models import SD15, SDXL, absolute_layer, relative_layer
from zhclip.tokens import PromptTokenizer

EN = [en for _, en in captions()[:6]]
ZH = [zh for zh, _ in captions()[:6]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return encoders.clip_teacher(folder / "clip", width=128)


@pytest.fixture(scope="module")
def sdxl(folder: Path) -> Path:
    return encoders.sdxl_teacher(folder / "sdxl")


@pytest.fixture(scope="module")
def chinese_clip(folder: Path) -> Path:
    return encoders.student(folder / "chinese-clip")


@pytest.mark.parametrize("layer", [-1, -2])
def test_clip_runs_without_mask_and_padded_with_its_end_token(clip: Path, layer: int) -> None:
    teacher, texts = load_teacher(str(clip), 77, layer=layer), [*EN, ""]
    hidden, pooled = teacher.encode(texts)
    lengths, end = teacher.tokenize(texts)[1], teacher.tokenizer.eos_token_id
    model = CLIPTextModel.from_pretrained(clip).eval()
    for i, text in enumerate(texts):
        ids = teacher.tokenizer(text).input_ids
        assert len(ids) == lengths[i] == teacher.length(text)
        padded = torch.tensor([ids + [end] * (77 - len(ids))])
        with torch.no_grad():
            states = model(input_ids=padded, output_hidden_states=True).hidden_states[layer]
            expected = getattr(model, "text_model", model).final_layer_norm(states)  # clip skip: a layer before, normed
        assert torch.allclose(hidden[i], expected[0], atol=1e-5)
    assert torch.allclose(hidden[:, 0], hidden[0, 0].expand(len(hidden), -1), atol=1e-5)  # why it can be stored
    assert pooled is None and (teacher.kind, teacher.final_norm, teacher.teacher_layer) == (SD15, True, layer)
    assert (teacher.width, teacher.widths, teacher.pooled_width) == (128, (), 0)


def test_every_container_of_clip_gives_the_same_teacher(clip: Path, tmp_path: Path) -> None:
    sha256 = load_teacher(str(clip), 77).sha256
    bare = {name.removeprefix("text_model."): t for name, t in load_file(clip / "model.safetensors").items()}
    for prefix in ("text_model.", ""):  # transformers 4 and 5
        copy = shutil.copytree(clip, tmp_path / f"clip-{prefix}")
        save_file({prefix + name: tensor for name, tensor in bare.items()}, copy / "model.safetensors")
        assert load_teacher(str(copy), 77).sha256 == sha256
    pipeline = tmp_path / "pipeline"
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(clip, pipeline / name)
    assert load_teacher(str(pipeline), 77).sha256 == sha256
    sd15 = load_file(encoders.sd15_checkpoint(clip, tmp_path / "sd15.safetensors"))
    torch.save({"state_dict": sd15}, tmp_path / "sd15.ckpt")
    save_file(bare, tmp_path / "text-encoder.safetensors")
    for name in ("sd15.safetensors", "sd15.ckpt", "text-encoder.safetensors"):
        assert load_teacher(str(tmp_path / name), 77, tokenizer=str(clip)).sha256 == sha256
    with pytest.raises(ModelError, match=r"^--teacher\.tokenizer"):
        load_teacher(str(tmp_path / "sd15.safetensors"), 77, tokenizer=str(tmp_path / "nowhere"))


def sdxl_by_transformers(pipeline: Path, texts: list[str], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """SDXL's conditioning and pooled vector as diffusers' pipeline makes them: each encoder over all 77 positions, the
    second padded with id 0."""
    tokenizer = load_teacher(str(pipeline), 77).tokenizer
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    first = CLIPTextModel.from_pretrained(pipeline / "text_encoder").train(False)
    second = CLIPTextModelWithProjection.from_pretrained(pipeline / "text_encoder_2").train(False)
    with torch.no_grad():
        one = first(input_ids=ids.input_ids, output_hidden_states=True)
        other = second(input_ids=ids.input_ids * ids.attention_mask, output_hidden_states=True)
    return torch.cat([one.hidden_states[layer], other.hidden_states[layer]], dim=-1), other.text_embeds


def assert_close(actual: torch.Tensor | None, expected: torch.Tensor) -> None:
    """To 1e-5 of a vector's norm."""
    assert actual is not None and actual.shape == expected.shape and actual.dtype == torch.float32
    assert float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max()) < 1e-5


LENGTHS = [["cat"], [" ".join(EN * 9)], ["", "a red cat", " ".join(EN)]]  # one token, the window, all


@pytest.mark.parametrize(
    ("texts", "layer", "dtype"), [(LENGTHS[0], -1, torch.float16), *((t, -2, torch.float32) for t in LENGTHS[1:])]
)
def test_sdxl_is_what_transformers_own_encoders_give(
    sdxl: Path, texts: list[str], layer: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """From the folder and from a file, at all positions and at the text's alone."""
    file = encoders.sdxl_checkpoint(sdxl, tmp_path / "sdxl.safetensors", dtype)
    torch.save({"state_dict": load_file(file)}, tmp_path / "sdxl.ckpt")
    states, pooled = sdxl_by_transformers(sdxl, texts, layer - 1)
    digests = set()
    for source in (sdxl, file, tmp_path / "sdxl.ckpt"):
        teacher = load_teacher(str(source), 77, layer, str(sdxl))
        digests.add(teacher.sha256)
        assert (teacher.kind, teacher.causal, teacher.final_norm, teacher.teacher_layer) == (
            SDXL,
            True,
            False,
            layer - 1,
        )
        assert (teacher.width, teacher.widths, teacher.pooled_width) == (192, (64, 128), 128)
        ids, lengths = teacher.tokenize(texts)
        text = torch.arange(int(lengths.max())).expand(len(texts), -1)
        for hidden, vectors in (teacher.encode(texts), teacher.outputs(ids, lengths, text)):
            assert_close(hidden, states[:, : hidden.shape[1]])
            assert_close(vectors, pooled)
    assert len(digests) == 1
    assert load_teacher(str(sdxl), 77, weights=False).sha256 not in digests


def test_targets_are_standardised_by_what_was_measured(sdxl: Path) -> None:
    plain = load_teacher(str(sdxl), 77)
    states, pooled = plain.encode(EN)
    assert pooled is not None
    measured: dict[str, Any] = {"mean": states.mean(dim=(0, 1)), "std": states.std(dim=(0, 1))}
    measured |= {"pooled_mean": pooled.mean(dim=0), "pooled_std": pooled.std(dim=0)}
    standard, vectors = replace(plain, **measured).encode(EN)
    assert torch.allclose(standard * measured["std"] + measured["mean"], states, atol=1e-5)
    assert vectors is not None
    assert torch.allclose(vectors * measured["pooled_std"] + measured["pooled_mean"], pooled, atol=1e-5)


@pytest.mark.slow
def test_sdxl_at_its_full_shape(tmp_path: Path) -> None:
    """A minute of two cores, 7 GB of memory with the mapped files, 5 of disk."""
    pipeline = encoders.sdxl_teacher(tmp_path / "sdxl", (768, 1280), (12, 32), 49408)
    assert load_teacher(str(pipeline), 77, weights=False).width == 2048
    file = encoders.sdxl_checkpoint(pipeline, tmp_path / "sdxl.safetensors", torch.float16)
    texts = ["", EN[0], " ".join(EN * 9)]
    for actual, expected in zip(
        load_teacher(str(file), 77, -1, str(pipeline)).encode(texts), sdxl_by_transformers(pipeline, texts, -2)
    ):
        assert_close(actual, expected)


def test_bert_teacher_runs_with_its_own_mask(folder: Path) -> None:
    path = encoders.bert_teacher(folder / "bert")
    teacher = load_teacher(str(path), WINDOW)
    model = BertModel.from_pretrained(path).eval()
    batch = teacher.tokenizer(EN, padding="max_length", max_length=WINDOW, return_tensors="pt")
    with torch.no_grad():
        expected = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    assert torch.allclose(teacher.encode(EN)[0], expected, atol=1e-5)


def test_student_is_the_text_tower_alone_or_in_the_whole_model(chinese_clip: Path, tmp_path: Path) -> None:
    student = load_student(str(chinese_clip), WINDOW)
    ids = torch.tensor([student.tokens.windows(zh)[0] for zh in ZH])
    tower = ChineseCLIPModel.from_pretrained(chinese_clip).text_model.eval()
    with torch.no_grad():
        expected = tower(input_ids=ids, attention_mask=ids.ne(0).long()).last_hidden_state
        assert torch.allclose(student(ids)[0], expected, atol=1e-5)
        tower.save_pretrained(tmp_path / "tower")
        for file in ("vocab.txt", "tokenizer_config.json"):
            shutil.copy(chinese_clip / file, tmp_path / "tower")
        assert torch.equal(load_student(str(tmp_path / "tower"), WINDOW)(ids)[0], student(ids)[0])
        for depth in range(student.depth + 1):
            frozen = student.bert(ids, student.keys(ids), last=depth)
            assert torch.allclose(student(ids, frozen, depth)[0], expected, atol=1e-5)


def test_student_may_be_the_bert_of_an_encoder_file(tmp_path: Path) -> None:
    encoder, file = artifact(), str(tmp_path / "encoder.safetensors")
    save(encoder, file)
    student = load_student(file, encoder.meta.window)
    weights = student.bert.state_dict()
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in encoder.bert.items())
    assert student.proj_weight is None and not student.structure.tensors()
    assert student.tokens.windows(ZH[0]) == PromptTokenizer.from_artifact(encoder).windows(ZH[0])
    with pytest.raises(ModelError, match="--window"):
        load_student(file, 999)


@pytest.mark.parametrize(
    ("strategy", "start", "trained"),
    [
        ("unfreeze", "student", {"encoder.layer.1.", "encoder.layer.2."}),
        ("unfreeze", "ridge", {"encoder.layer.1.", "encoder.layer.2.", "proj_"}),
        ("lora", "student", {"query.lora_", "value.lora_"}),
        ("ridge", "ridge", {"proj_"}),
    ],
)
def test_gradients_touch_exactly_what_should_learn(
    chinese_clip: Path, strategy: str, start: str, trained: set[str]
) -> None:
    student = load_student(str(chinese_clip), WINDOW)
    width = student.bert.dimensions.width
    ridge = Ridge(torch.eye(width), torch.zeros(WINDOW, width)) if start == "ridge" else None
    set_trainable(student, TrainSettings(strategy=strategy, start=start, layers=2), ridge)  # type: ignore[arg-type]
    ids = torch.tensor([student.tokens.windows(zh)[0] for zh in ZH])
    target = torch.randn(len(ids), WINDOW, width, generator=torch.Generator().manual_seed(0))
    (student(ids)[0] - target).square().mean().backward()
    for name, parameter in student.named_parameters():
        should = any(part in name for part in trained)
        assert (parameter.requires_grad, parameter.grad is not None) == (should, should), name
    assert all(any(part in name for name, _ in student.named_parameters()) for part in trained)


@pytest.mark.parametrize("target", [-1, -2, -5])
def test_layers_counted_from_a_target_and_from_the_end(target: int) -> None:
    assert absolute_layer(-1, target) == target and relative_layer(target, target) == -1
    for layer in range(-4, 4):
        assert relative_layer(absolute_layer(layer, target), target) == layer
