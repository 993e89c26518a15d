"""Teacher and student as they are published: both key layouts, checkpoints, whole models, masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
from trainer.models.freezing import prepare
from trainer.models.load import ModelError, read_tensors
from trainer.models.student import Ridge, load_student
from trainer.models.teacher import load_teacher
from zhclip.artifact import save
from zhclip.models import KINDS, SD15, SDXL, absolute_layer, relative_layer
from zhclip.tokens import PromptTokenizer

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
    model: Any = load_teacher(str(clip), 77).models[0]
    batch = load_teacher(str(clip), 77).tokenizer(EN, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
        expected = getattr(model, "text_model", model).final_layer_norm(states[-2])
    assert torch.allclose(hidden, expected, atol=1e-5)


def test_every_container_of_clip_gives_the_same_teacher(clip: Path, folder: Path) -> None:
    plain = load_teacher(str(clip), 77)
    expected, _ = plain.encode(EN)
    for number, prefix in enumerate(("text_model.", "")):
        copy = shutil.copytree(clip, folder / f"clip-{number}")
        encoders.relayout(copy / "model.safetensors", prefix)
        assert load_teacher(str(copy), 77).sha256 == plain.sha256
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
    with pytest.raises(ModelError):
        load_teacher(str(folder / "sd15.safetensors"), 77, tokenizer=str(folder / "nowhere"))


LENGTHS = [["cat"], EN, [" ".join(EN * 9)], ["", "a red cat", " ".join(EN)]]  # one token, captions, the window, all


@pytest.fixture(scope="module")
def sdxl(folder: Path) -> Path:
    return encoders.sdxl_teacher(folder / "sdxl")


def of_transformers(pipeline: Path, texts: list[str], layer: int = -2) -> tuple[torch.Tensor, torch.Tensor]:
    """SDXL's conditioning and pooled vector as diffusers' pipeline makes them: each encoder over all 77 positions, the
    second padded with id 0."""
    tokenizer = load_teacher(str(pipeline), 77).tokenizer
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    first, second = (
        kind.from_pretrained(pipeline / part).train(False)
        for part, kind in {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}.items()
    )
    padded = ids.input_ids * ids.attention_mask
    with torch.no_grad():
        one = first(input_ids=ids.input_ids, output_hidden_states=True)
        other = second(input_ids=padded, output_hidden_states=True)
    return torch.cat([one.hidden_states[layer], other.hidden_states[layer]], dim=-1), other.text_embeds


def close(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    """To 1e-5 of a vector's norm."""
    assert found is not None and found.shape == expected.shape and found.dtype == torch.float32
    assert float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max()) < 1e-5


def same_as_transformers(pipeline: Path, checkpoint: Path, texts: list[str], layer: int = -1) -> None:
    """A teacher from the folder and one from the file."""
    states, pooled = of_transformers(pipeline, texts, layer - 1)

    def digest_of_same(source: Path) -> str:
        """Of a teacher that gives the same at all positions and at the first alone."""
        teacher = load_teacher(str(source), 77, layer, str(pipeline))
        assert teacher.teacher_layer == layer - 1
        hidden, lengths = teacher.encode(texts)
        close(hidden, states)
        close(teacher.encode_pooled(texts), pooled)
        ids, _ = teacher.tokens(texts)
        text = torch.arange(int(lengths.max())).expand(len(texts), -1)
        some, at_end = teacher.outputs(ids, lengths, text)
        close(some, states[:, : text.shape[1]])
        close(at_end, pooled)
        return teacher.sha256

    assert digest_of_same(pipeline) == digest_of_same(checkpoint)


@pytest.mark.parametrize("texts", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sdxl_is_what_transformers_own_encoders_give(
    sdxl: Path, texts: list[str], dtype: torch.dtype, tmp_path: Path
) -> None:
    same_as_transformers(sdxl, encoders.sdxl_checkpoint(sdxl, tmp_path / "sdxl.safetensors", dtype), texts)


def test_sdxl_a_layer_lower_and_from_an_old_file(sdxl: Path, tmp_path: Path) -> None:
    file = encoders.sdxl_checkpoint(sdxl, tmp_path / "sdxl.safetensors")
    torch.save({"state_dict": load_file(file)}, tmp_path / "sdxl.ckpt")
    same_as_transformers(sdxl, tmp_path / "sdxl.ckpt", EN, layer=-2)


def test_what_an_sdxl_teacher_is(sdxl: Path, clip: Path) -> None:
    teacher, shapes = load_teacher(str(sdxl), 77), load_teacher(str(sdxl), 77, weights=False)
    for one in (teacher, shapes):
        assert one.kind == SDXL and one.causal and not one.final_norm and one.teacher_layer == -2
        assert (one.width, one.widths, one.pooled_width) == (192, (64, 128), 128)
    assert shapes.sha256 != teacher.sha256 and shapes.encode(EN)[0].isfinite().all()
    plain = load_teacher(str(clip), 77)
    assert plain.kind == SD15 and plain.final_norm and plain.teacher_layer == -1
    assert (plain.width, plain.widths, plain.pooled_width) == (32, (), 0) and plain.encode_pooled(EN) is None


def test_targets_are_standardised_by_what_was_measured(sdxl: Path) -> None:
    plain = load_teacher(str(sdxl), 77)
    (states, lengths), pooled = plain.encode(EN), plain.encode_pooled(EN)
    assert pooled is not None
    measured: dict[str, Any] = {"mean": states.mean(dim=(0, 1)), "std": states.std(dim=(0, 1))}
    measured |= {"pooled_mean": pooled.mean(dim=0), "pooled_std": pooled.std(dim=0)}
    standard = replace(plain, **measured)
    ids, _ = standard.tokens(EN)
    found, found_pooled = standard.outputs(ids, lengths, torch.arange(77).expand(len(EN), -1))
    assert found_pooled is not None
    for some, axes in ((found, (0, 1)), (standard.encode(EN)[0], (0, 1)), (found_pooled, (0,))):
        assert some.mean(dim=axes).abs().max() < 1e-4 and (some.std(dim=axes) - 1).abs().max() < 1e-4
    assert torch.allclose(found * measured["std"] + measured["mean"], states, atol=1e-5)


@pytest.mark.slow
def test_sdxl_at_its_full_shape(tmp_path: Path) -> None:
    """A minute of two cores, 7 GB of memory with the mapped files, 5 of disk."""
    pipeline = encoders.sdxl_teacher(tmp_path / "sdxl", (768, 1280), (12, 32), 49408)
    assert load_teacher(str(pipeline), 77, weights=False).width == 2048
    file = encoders.sdxl_checkpoint(pipeline, tmp_path / "sdxl.safetensors", torch.float16)
    same_as_transformers(pipeline, file, ["", EN[0], " ".join(EN * 9)])


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
        assert torch.allclose(student(ids)[0], expected, atol=1e-5)
        tower.save_pretrained(tmp_path / "tower")
        for file in ("vocab.txt", "tokenizer_config.json"):
            (tmp_path / "tower" / file).write_bytes((chinese_clip / file).read_bytes())
        assert torch.equal(load_student(str(tmp_path / "tower"), WINDOW)(ids)[0], student(ids)[0])
        for depth in range(student.depth + 1):
            assert torch.allclose(
                student(ids, student.bert(ids, student.keys(ids), last=depth), depth)[0], expected, atol=1e-5
            )


def test_student_may_be_the_bert_of_an_encoder_file(tmp_path: Path) -> None:
    encoder = artifact()
    save(encoder, tmp_path / "encoder.safetensors")
    student = load_student(str(tmp_path / "encoder.safetensors"), encoder.meta.window)
    weights = student.bert.state_dict()
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in encoder.bert.items())
    assert student.proj_weight is None and not student.structure.tensors()
    assert student.tokens.windows(ZH[0]) == PromptTokenizer.from_artifact(encoder).windows(ZH[0])
    with pytest.raises(ModelError, match="--window"):
        load_student(str(tmp_path / "encoder.safetensors"), 999)


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
    width = student.bert.dimensions.width
    ridge = Ridge(torch.eye(width), torch.zeros(WINDOW, width)) if start == "ridge" else None
    prepare(student, TrainSettings(strategy=strategy, start=start, layers=2), ridge)  # type: ignore[arg-type]
    ids = torch.tensor([student.tokens.windows(zh)[0] for zh in ZH])
    goal = torch.randn(len(ids), WINDOW, width, generator=torch.Generator().manual_seed(0))
    (student(ids)[0] - goal).square().mean().backward()
    for name, parameter in student.named_parameters():
        should = any(part in name for part in learns)
        assert parameter.requires_grad == should, name
        assert (parameter.grad is not None) == should, name
    assert all(any(part in name for name, p in student.named_parameters() if p.grad is not None) for part in learns)


def load_as(side: str, source: str | Path, window: int = WINDOW) -> Any:
    return load_student(str(source), window) if side == "student" else load_teacher(str(source), window)


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
def test_unusable_models_are_refused_by_name(
    side: str, source: str, window: int, names: str, request: pytest.FixtureRequest
) -> None:
    given = source if "/" in source else request.getfixturevalue(source)
    with pytest.raises(ModelError, match=f"^--{side}.model .*{names}"):
        load_as(side, given, window)


DENSE = "encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(
    ("tensors", "config", "names"),
    [
        (lambda t: t.pop(DENSE), {}, DENSE),
        (lambda t: t.update({DENSE: t[DENSE][:1]}), {}, DENSE),
        (lambda t: t.update(other=torch.ones(1)), {}, "other"),
        (lambda t: t.pop("embeddings.word_embeddings.weight"), {}, "tensors are missing"),
        (None, {"hidden_act": "relu"}, "relu"),
        (None, {"num_attention_heads": 5}, "5"),
        (None, {"num_hidden_layers": 9}, r"encoder\.layer\.2"),
        (b"cut short", {}, r"model\.safetensors"),
        (None, b"{", r"config\.json"),
        (None, b"[]", r"config\.json"),
    ],
)
def test_a_damaged_bert_is_refused_by_name(side: str, tensors: Any, config: Any, names: str, tmp_path: Path) -> None:
    source = encoders.bert_teacher(tmp_path / "bert")
    if isinstance(tensors, bytes):
        (source / "model.safetensors").write_bytes(tensors)
    elif tensors:
        edited(tensors)(source / "model.safetensors")
    text = (source / "config.json").read_text(encoding="utf-8")
    text = config.decode() if isinstance(config, bytes) else json.dumps(json.loads(text) | config)
    (source / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=names) as raised:
        load_as(side, source)
    assert str(raised.value).startswith(f"--{side}.model {source}")


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A function that changes a file's tensors."""

    def edit(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return edit


L, G = encoders.SDXL_L, encoders.SDXL_G
BLOCK = f"{G}transformer.resblocks.1."


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda t: t.pop(f"{BLOCK}attn.in_proj_bias"), r"encoder\.layers\.1\.self_attn\.k_proj\.bias"),
        (lambda t: t.update({f"{BLOCK}attn.in_proj_weight": torch.zeros(383, 128)}), r"_proj\.weight is \(\d+, 128\)"),
        (lambda t: t.update({f"{BLOCK}attn.in_proj_weight": torch.tensor(1.0)}), r"_proj\.weight"),
        (lambda t: t.update({f"{G}text_projection": torch.zeros(128)}), r"text_projection\.weight"),
        (lambda t: t.update({f"{G}text_projection": torch.zeros(64, 99)}), r"text_projection\.weight is \(99, 64\)"),
        (lambda t: t.pop(f"{G}text_projection"), r"text_projection\.weight"),
        (lambda t: t.pop(f"{G}positional_embedding"), r"position_embedding\.weight"),
        (lambda t: t.pop(f"{L}text_model.final_layer_norm.bias"), r"final_layer_norm\.bias"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith(L)], L),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith(G)], G),
    ],
)
def test_a_damaged_sdxl_file_is_refused_by_name(
    sdxl: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], names: str
) -> None:
    file = encoders.sdxl_checkpoint(sdxl, tmp_path / "sdxl.safetensors")
    edited(change)(file)
    with pytest.raises(ModelError, match=names) as raised:
        load_teacher(str(file), 77, tokenizer=str(sdxl))
    assert str(file) in str(raised.value)


def test_of_a_checkpoint_the_encoders_alone_are_read(sdxl: Path, tmp_path: Path) -> None:
    file = encoders.sdxl_checkpoint(sdxl, tmp_path / "sdxl.safetensors")
    prefixes = tuple(part.prefix for kind in KINDS for part in kind.parts)
    assert {name.split(".")[0] for name in read_tensors(file, "teacher.model", prefixes)} == {"conditioner"}


def other_kind(pipeline: Path) -> None:
    (pipeline / "text_encoder_2" / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")


def third_encoder(pipeline: Path) -> None:
    (pipeline / "text_encoder_3").mkdir()


def no_weights(pipeline: Path) -> None:
    (pipeline / "text_encoder_2" / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (other_kind, "text_encoder_2: .*'t5'"),
        (third_encoder, "text_encoder_3"),
        (no_weights, "text_encoder_2"),
    ],
)
def test_other_and_incomplete_pipelines_are_refused(change: Callable[[Path], None], names: str, tmp_path: Path) -> None:
    pipeline = encoders.sdxl_teacher(tmp_path / "pipeline")
    change(pipeline)
    with pytest.raises(ModelError, match=names):
        load_teacher(str(pipeline), 77)


@pytest.mark.parametrize("target", [-1, -2, -5])
def test_layers_counted_from_a_target_and_from_the_end(target: int) -> None:
    assert absolute_layer(-1, target) == target and relative_layer(target, target) == -1
    for layer in range(-4, 4):
        assert relative_layer(absolute_layer(layer, target), target) == layer
