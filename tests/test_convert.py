"""Published encoders as files for the node: Taiyi's layouts, Chinese-CLIP's, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, ChineseCLIPModel, XLMRobertaConfig, XLMRobertaModel

from tests import encoders, graphs, hub
from tests.host import Host, running
from tests.tree import trainer
from trainer.__main__ import main
from zhclip.artifact import load, read_meta

TEXTS = ["\u4e00\u53ea\u72d7\u5728\u8dd1", "a red cat, 4k", ""]
CONVERTED = ("taiyi", "ckpt", "half", "pt", "clip")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small encoders with random weights, in every published layout."""
    folder = tmp_path_factory.mktemp("published")
    clip = encoders.student(folder / "clip", width=128, heads=2, layers=2, size=300)
    shutil.copy(clip / "vocab.txt", folder / "vocab.txt")
    whole = load_file(clip / "model.safetensors")
    bert = {name.removeprefix("text_model."): t for name, t in whole.items() if name.startswith("text_model.")}
    taiyi(folder, bert, json.loads((clip / "config.json").read_text(encoding="utf-8"))["text_config"])
    # OFA-Sys/Chinese-CLIP saves halves, a wrapper's prefix, and what training counts.
    ofa = {f"module.bert.{name}": tensor.half() for name, tensor in bert.items() if not name.startswith("pooler.")}
    ofa |= {"module.visual.proj": torch.zeros(4, 4), "module.text_projection": torch.zeros(128, 4)}
    torch.save(
        {"epoch": 1, "name": "clip", "state_dict": {**ofa, "module.logit_scale": torch.ones([])}}, folder / "ofa.pt"
    )
    return folder


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """ComfyUI that keeps text encoders in fp32, which it halves by default."""
    with running(tmp_path_factory.mktemp("comfyui"), "--fp32-text-enc") as started:
        yield started


def taiyi(folder: Path, bert: dict[str, torch.Tensor], text: dict) -> None:
    """Taiyi's folder of a diffusers pipeline, and its checkpoint, whole and in halves."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    model = BertModel(BertConfig(**{name: text[name] for name in names}))
    model.load_state_dict(bert, strict=False)
    model.save_pretrained(folder / "taiyi" / "text_encoder")
    (folder / "taiyi" / "tokenizer").mkdir()
    shutil.copy(folder / "vocab.txt", folder / "taiyi" / "tokenizer")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "taiyi" / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "taiyi" / "model_index.json").write_text("{}", encoding="utf-8")
    tensors = {f"cond_stage_model.transformer.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {"cond_stage_model.transformer.embeddings.position_ids": torch.arange(512)[None]}
    tensors |= {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    torch.save({"state_dict": tensors}, folder / "taiyi.ckpt")
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, folder / "half.safetensors")


def command(sources: Path, kind: str, out: Path) -> list[str]:
    """The command line that converts one of the sources."""
    vocabulary = ["--tokenizer", str(sources / "vocab.txt")]
    flags = {
        "taiyi": [str(sources / "taiyi"), "--licence", "creativeml-openrail-m"],
        "ckpt": [str(sources / "taiyi.ckpt"), *vocabulary],
        "half": [str(sources / "half.safetensors"), "--tokenizer", str(sources / "taiyi"), "--window", "77"],
        "pt": [str(sources / "ofa.pt"), *vocabulary],
        "clip": [str(sources / "clip")],
    }
    return ["convert", "--out", str(out), "--source", *flags[kind]]


def by_transformers(sources: Path, kind: str) -> list[torch.Tensor]:
    """What each source makes of the texts in its own pipeline: [(1, window, width)]."""
    if kind in ("pt", "clip"):
        bert, window, masked = ChineseCLIPModel.from_pretrained(sources / "clip").text_model, 77, True
    else:
        bert, window, masked = BertModel.from_pretrained(sources / "taiyi" / "text_encoder"), 512, False
    window = 77 if kind == "half" else window
    if kind in ("half", "pt"):
        bert.half()
    bert.float().train(False)
    tokenizer = AutoTokenizer.from_pretrained(sources / "taiyi" / "tokenizer")
    batch = tokenizer(TEXTS, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        out = bert(input_ids=batch.input_ids, attention_mask=batch.attention_mask if masked else None)
    return list(out.last_hidden_state.split(1))


@pytest.mark.parametrize("kind", CONVERTED)
def test_the_node_makes_of_the_file_what_transformers_makes_of_the_source(
    kind: str, sources: Path, exact: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exact.base / "models" / "text_encoders" / f"converted-{kind}.safetensors"
    assert main(command(sources, kind, out)) == 0, capsys.readouterr().err
    assert "largest difference" in capsys.readouterr().out
    for i, (text, expected) in enumerate(zip(TEXTS, by_transformers(sources, kind), strict=True)):
        outputs = exact.succeed(graphs.probe(text, f"{kind}-{i}", out.name))
        assert i or "carries no evaluation" in json.dumps(outputs)  # the loader runs, and warns, once
        found = load_file(exact.base / "output" / f"{kind}-{i}.safetensors")["cond.0"]
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4, text
    assert not list(out.parent.glob("*.candidate"))


def test_the_file_says_what_it_is(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder.safetensors"
    assert main(command(sources, "taiyi", out)) == 0
    meta = read_meta(out)
    assert (meta.window, meta.mask_padding, meta.position0) == (512, False, "learnt")
    assert (meta.strategy, meta.teacher.id, meta.report) == ("converted", "none", {})
    assert (meta.licence, meta.recipe) == ("creativeml-openrail-m", {"convert": {"source": "taiyi", "window": 512}})
    made = load(out)
    assert not made.structure and not made.pooled and not made.skip
    again = tmp_path / "again.safetensors"
    assert main(command(sources, "taiyi", again)) == 0
    assert again.read_bytes() == out.read_bytes()


def edited(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A source whose tensors `change` has changed."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file)

    return edit


def truncated(folder: Path) -> None:
    """A download that stopped."""
    path = folder / "ofa.pt"
    path.write_bytes(path.read_bytes()[:5000])


def with_code(folder: Path) -> None:
    """A checkpoint beside whose tensors stands a function, which loading would call."""
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hook": print}, folder / "ofa.pt")


def xlm_r(folder: Path) -> None:
    """AltDiffusion's text_encoder."""
    shutil.rmtree(folder / "taiyi" / "text_encoder")
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    XLMRobertaModel(XLMRobertaConfig(vocab_size=40, **sizes)).save_pretrained(folder / "taiyi" / "text_encoder")


def xlm_r_file(folder: Path) -> None:
    """AltDiffusion's checkpoint."""
    table = "cond_stage_model.roberta.embeddings.word_embeddings.weight"
    save_file({table: torch.zeros(4, 4)}, folder / "half.safetensors")


def clip_file(folder: Path) -> None:
    """An ordinary checkpoint."""
    table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    save_file({table: torch.zeros(4, 4)}, folder / "half.safetensors")


def config(name: str, value: object) -> Callable[[Path], None]:
    """A Taiyi whose config.json says something else."""

    def edit(folder: Path) -> None:
        path = folder / "taiyi" / "text_encoder" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {name: value}), encoding="utf-8")

    return edit


def vocabulary(lines: list[str]) -> Callable[[Path], None]:
    """Another vocab.txt."""

    def edit(folder: Path) -> None:
        (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return edit


PREFIX = "cond_stage_model.transformer."
LAYER = f"{PREFIX}encoder.layer.1.output.dense.weight"
WEIGHTS = "taiyi/text_encoder/model.safetensors"
BROKEN = {
    "a tensor is missing": (
        "half",
        edited("half.safetensors", lambda t: t.pop(LAYER)),
        "the first is encoder.layer.1.o",
    ),
    "an unknown tensor": (
        "taiyi",
        edited(WEIGHTS, lambda t: t.update(x=torch.ones(1))),
        "has 1 others, the first is x",
    ),
    "no positions": (
        "taiyi",
        edited(WEIGHTS, lambda t: t.pop("embeddings.position_embeddings.weight")),
        "embeddings.position_embeddings.weight is missing",
    ),
    "fewer layers than said": ("taiyi", config("num_hidden_layers", 12), "have 2 layers, config.json says 12"),
    "another activation": ("taiyi", config("hidden_act", "relu"), "its activation is relu; the node runs gelu"),
    "a T5": ("taiyi", config("model_type", "t5"), "model_type is 't5'"),
    "AltDiffusion's folder": ("taiyi", xlm_r, "it is an XLM-RoBERTa, AltDiffusion's kind of encoder, and no BERT"),
    "AltDiffusion's file": ("half", xlm_r_file, "it is an XLM-RoBERTa"),
    "an ordinary checkpoint": ("half", clip_file, "it holds CLIP's English text encoder and no BERT"),
    "half a file": ("pt", truncated, "it is damaged, or holds beside tensors objects that can run code"),
    "a file with code": ("pt", with_code, "objects that can run code, which stay unread"),
    "no vocabulary": ("pt", vocabulary(["a", "b"]), "is no BERT's, its vocabulary lacks [CLS]"),
    "another vocabulary": (
        "pt",
        vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(400))]),
        "has 404 tokens and the encoder 300 rows",
    ),
    "no file": ("pt", lambda folder: (folder / "ofa.pt").unlink(), "there is no such folder or file"),
    "a text": ("pt", lambda folder: (folder / "ofa.pt").write_text("weights"), "it is damaged"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_source_that_cannot_be_run_is_refused_in_one_line(
    broken: str, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, breaks, says = BROKEN[broken]
    copy = shutil.copytree(sources, tmp_path / "copy")
    breaks(copy)
    out = tmp_path / "out" / "encoder.safetensors"
    assert main(command(copy, kind, out)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convert: ")]
    assert says in line and str(copy) in line, line
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("kind", "flags", "says"),
    [
        ("taiyi", ["--window", "513"], "--window 513:"),
        ("taiyi", ["--out", "encoder.bin"], "--out encoder.bin: ComfyUI lists .safetensors files only"),
        ("pt", ["--tokenizer", ""], "a single file has no tokenizer; give its vocab.txt, or a folder, as --tokenizer"),
        ("pt", ["--source", ""], "--source is not given"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    kind: str, flags: list[str], says: str, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(sources, kind, tmp_path / "x.safetensors"), *flags]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_a_tokenizer_that_frames_otherwise_is_found_out(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(sources, tmp_path / "copy")
    path = copy / "taiyi" / "tokenizer" / "tokenizer_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("BertTokenizer", "ElectraTokenizer"), encoding="utf-8")
    assert main(command(copy, "taiyi", tmp_path / "fine.safetensors")) == 0
    settings = {"padding_side": "left"}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    assert main(command(copy, "taiyi", tmp_path / "x.safetensors")) == 1
    assert "at position 0 of '' its own tokenizer has id 0 and the file's 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


def test_a_converted_encoder_can_be_scored_beside_aligned_ones(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "encoder.safetensors", tmp_path / "report.json"
    assert main([*command(sources, "taiyi", out), "--window", "77"]) == 0
    _, dev = encoders.corpora(tmp_path)
    for width in (128, 64):
        encoders.clip_teacher(tmp_path / f"teacher-{width}", width=width)
    flags = ["evaluate", "--artifact", str(out), "--corpus", str(dev), "--student.model", str(sources / "clip")]
    assert main([*flags, "--teacher.model", str(tmp_path / "teacher-128"), "--report", str(report)]) == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["loss"]["all"] > found["baselines"]["constant"]["all"]
    assert found["strategy"] == "converted"
    assert main([*flags, "--teacher.model", str(tmp_path / "teacher-64")]) == 1
    assert "is 64 wide and" in capsys.readouterr().err


def test_taiyi_comes_by_its_hub_id(sources: Path, tmp_path: Path) -> None:
    """As IDEA-CCNL published it: weights in torch's old file, and a checkpoint of gigabytes beside."""
    pipeline = shutil.copytree(sources / "taiyi", tmp_path / "hub" / "someone" / "taiyi")
    weights = pipeline / "text_encoder" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    (pipeline / "taiyi.ckpt").write_bytes(b"many gigabytes")
    out = tmp_path / "encoder.safetensors"
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        flags = ["--source", "someone/taiyi", "--out", str(out)]
        done = trainer("convert", *flags, **hub.settings(endpoint, tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert not any("ckpt" in path for path in asked)
    assert read_meta(out).recipe["convert"]["source"] == "someone/taiyi"
