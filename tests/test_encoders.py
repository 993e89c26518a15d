"""Teacher and student as they are published: both key layouts, checkpoints, whole models, masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, ChineseCLIPModel, CLIPTextModel

from tests import encoders
from tests.encoders import WINDOW
from tests.small import captions
from trainer.base.recipe import TrainSettings
from trainer.encoders.freezing import prepare
from trainer.encoders.student import Ridge, load_student
from trainer.encoders.teacher import load_teacher
from trainer.encoders.weights import ModelError

EN = [en for _, en in captions()[:6]]
ZH = [zh for zh, _ in captions()[:6]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return encoders.clip_teacher(folder / "clip")


@pytest.fixture(scope="module")
def chinese_clip(folder: Path) -> Path:
    return encoders.student(folder / "chinese-clip")


def test_clip_runs_without_mask_and_padded_with_its_end_token(clip: Path) -> None:
    teacher = load_teacher(str(clip), 77)
    hidden, lengths = teacher.encode([*EN, ""])
    end = teacher.tokenizer.eos_token_id
    model = CLIPTextModel.from_pretrained(clip).eval()
    for i, text in enumerate([*EN, ""]):
        ids = teacher.tokenizer(text).input_ids
        assert len(ids) == lengths[i] == teacher.length(text)
        padded = torch.tensor([ids + [end] * (77 - len(ids))])
        with torch.no_grad():
            assert torch.allclose(hidden[i], model(input_ids=padded).last_hidden_state[0], atol=1e-5)
    assert torch.allclose(hidden[:, 0], hidden[0, 0].expand(len(hidden), -1), atol=1e-5)  # why it can be stored


def test_clip_skip_is_the_layer_before_through_the_final_norm(clip: Path) -> None:
    hidden, _ = load_teacher(str(clip), 77, layer=-2).encode(EN)
    model = load_teacher(str(clip), 77).model
    batch = load_teacher(str(clip), 77).tokenizer(EN, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
        expected = getattr(model, "text_model", model).final_layer_norm(states[-2])
    assert torch.allclose(hidden, expected, atol=1e-5)


def test_every_container_of_clip_gives_the_same_teacher(clip: Path, folder: Path) -> None:
    plain = load_teacher(str(clip), 77)
    expected, _ = plain.encode(EN)
    old = encoders.clip_teacher(folder / "clip-4", prefix="text_model.")
    assert load_teacher(str(old), 77).sha256() == plain.sha256()
    bare = {k.removeprefix("text_model."): v for k, v in load_file(clip / "model.safetensors").items()}
    pipeline = folder / "pipeline"
    encoders.clip_teacher(pipeline / "text_encoder")
    (pipeline / "text_encoder").rename(pipeline / "tokenizer")
    encoders.clip_teacher(pipeline / "text_encoder")
    (pipeline / "model_index.json").write_text("{}", encoding="utf-8")
    assert torch.equal(load_teacher(str(pipeline), 77).encode(EN)[0], expected)
    wide = encoders.clip_teacher(folder / "clip-wide", width=128)
    tensors = {k.removeprefix("text_model."): v for k, v in load_file(wide / "model.safetensors").items()}
    sd15 = {f"cond_stage_model.transformer.text_model.{k}": v for k, v in tensors.items()}
    sd15["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(2, 2)
    save_file(sd15, folder / "sd15.safetensors")
    torch.save({"state_dict": sd15}, folder / "sd15.ckpt")
    whole, _ = load_teacher(str(wide), 77).encode(EN)
    for name in ("sd15.safetensors", "sd15.ckpt"):
        teacher = load_teacher(str(folder / name), 77, tokenizer=str(wide))
        assert torch.allclose(teacher.encode(EN)[0], whole, atol=1e-5)
    save_file(bare, folder / "no-clip.safetensors")
    with pytest.raises(ModelError, match="tokenizer"):
        load_teacher(str(folder / "sd15.safetensors"), 77, tokenizer=str(folder / "nowhere"))


def test_bert_teacher_runs_with_its_own_mask(folder: Path) -> None:
    path = encoders.bert_teacher(folder / "bert")
    teacher = load_teacher(str(path), WINDOW)
    hidden, lengths = teacher.encode(EN)
    model = BertModel.from_pretrained(path).eval()
    batch = teacher.tokenizer(EN, padding="max_length", max_length=WINDOW, return_tensors="pt")
    with torch.no_grad():
        expected = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    assert torch.allclose(hidden, expected, atol=1e-5)
    assert lengths.tolist() == batch.attention_mask.sum(dim=1).tolist()


def test_student_is_the_text_tower_alone_or_in_the_whole_model(chinese_clip: Path, tmp_path: Path) -> None:
    student = load_student(str(chinese_clip), WINDOW)
    ids = torch.tensor([student.tokens.windows(zh)[0] for zh in ZH])
    tower = ChineseCLIPModel.from_pretrained(chinese_clip).text_model.eval()
    with torch.no_grad():
        expected = tower(input_ids=ids, attention_mask=ids.ne(0).long()).last_hidden_state
        assert torch.allclose(student(ids), expected, atol=1e-5)
        tower.save_pretrained(tmp_path / "tower")
        for file in ("vocab.txt", "tokenizer_config.json"):
            (tmp_path / "tower" / file).write_bytes((chinese_clip / file).read_bytes())
        assert torch.equal(load_student(str(tmp_path / "tower"), WINDOW)(ids), student(ids))
        for depth in range(student.depth + 1):
            assert torch.allclose(student(ids, student.hidden(ids, depth), depth), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "start", "learns"),
    [
        ("unfreeze", "student", {"encoder.layer.1.", "encoder.layer.2."}),
        ("unfreeze", "ridge", {"encoder.layer.1.", "encoder.layer.2.", "proj_"}),
        ("lora", "student", {"query.lora_", "value.lora_"}),
        ("ridge", "ridge", {"proj_"}),
    ],
)
def test_gradients_touch_exactly_what_should_learn(
    chinese_clip: Path, strategy: str, start: str, learns: set[str]
) -> None:
    student = load_student(str(chinese_clip), WINDOW)
    width = student.bert.config.hidden_size
    ridge = Ridge(torch.eye(width), torch.zeros(WINDOW, width)) if start == "ridge" else None
    prepare(student, TrainSettings(strategy=strategy, start=start, layers=2), ridge)  # type: ignore[arg-type]
    ids = torch.tensor([student.tokens.windows(zh)[0] for zh in ZH])
    goal = torch.randn(len(ids), WINDOW, width, generator=torch.Generator().manual_seed(0))
    (student(ids) - goal).square().mean().backward()
    for name, parameter in student.named_parameters():
        should = any(part in name for part in learns)
        assert parameter.requires_grad == should, name
        assert (parameter.grad is not None) == should, name
    assert all(any(part in name for name, p in student.named_parameters() if p.grad is not None) for part in learns)


def test_unusable_models_are_refused_by_name(chinese_clip: Path, clip: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_student("./nowhere", WINDOW)
    with pytest.raises(ModelError, match="80 positions, and --window asks for 99"):
        load_student(str(chinese_clip), 99)
    with pytest.raises(ModelError, match="has 77 positions and --window asks for 78"):
        load_teacher(str(clip), 78)
    with pytest.raises(ModelError, match="model_type is 'clip_text_model'; a student is one of"):
        load_student(str(clip), WINDOW)
    with pytest.raises(ModelError, match="model_type is 'chinese_clip'; a teacher is"):
        load_teacher(str(chinese_clip), WINDOW)
    broken = encoders.bert_teacher(folder / "broken")
    tensors = load_file(broken / "model.safetensors")
    gone = tensors.pop("encoder.layer.1.output.dense.weight")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"1 tensors are missing, the first is encoder\.layer\.1\.output\.dense\.weight"
    ):
        load_teacher(str(broken), WINDOW)
    save_file({**tensors, "encoder.layer.1.output.dense.weight": gone[:1]}, broken / "model.safetensors")
    with pytest.raises(ModelError, match=r"config\.json says"):
        load_teacher(str(broken), WINDOW)
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    (broken / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}), encoding="utf-8")
    with pytest.raises(ModelError, match="its activation is relu"):
        load_student(str(broken), WINDOW)
    (broken / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match="copy or download it again"):
        load_teacher(str(broken), WINDOW)
