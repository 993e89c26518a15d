"""Published encoders as files for the node: Taiyi's layouts, Chinese-CLIP's, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel, ChineseCLIPModel, XLMRobertaConfig, XLMRobertaModel

from tests import encoders, graphs
from tests.host import Host, running
from trainer.__main__ import main
from zhclip.artifact import load, read_meta

TEXTS = ["\u4e00\u53ea\u72d7\u5728\u8dd1", "a red cat, 4k", ""]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small encoders with random weights, in every published layout."""
    folder = tmp_path_factory.mktemp("published")
    clip = encoders.student(folder / "clip", width=128, heads=2, layers=2, size=300)
    whole = load_file(clip / "model.safetensors")
    bert = {name.removeprefix("text_model."): t for name, t in whole.items() if name.startswith("text_model.")}
    taiyi(folder, bert, json.loads((clip / "config.json").read_text(encoding="utf-8"))["text_config"])
    return folder


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """ComfyUI that keeps text encoders in fp32, which it halves by default."""
    with running(tmp_path_factory.mktemp("comfyui"), "--fp32-text-enc") as started:
        yield started


def taiyi(folder: Path, bert: dict[str, torch.Tensor], text: dict) -> None:
    """Taiyi's folder of a diffusers pipeline."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    model = BertModel(BertConfig(**{name: text[name] for name in names}))
    model.load_state_dict(bert, strict=False)
    model.save_pretrained(folder / "taiyi" / "text_encoder")
    (folder / "taiyi" / "tokenizer").mkdir()
    shutil.copy(folder / "clip" / "vocab.txt", folder / "taiyi" / "tokenizer")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "taiyi" / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "taiyi" / "model_index.json").write_text("{}", encoding="utf-8")


def command(sources: Path, kind: str, out: Path) -> list[str]:
    """The command line that converts one of the sources."""
    flags = {"taiyi": ["--licence", "creativeml-openrail-m"], "clip": []}
    return ["convert", "--out", str(out), "--source", str(sources / kind), *flags[kind]]


def by_transformers(sources: Path, kind: str) -> list[torch.Tensor]:
    """What each source makes of the texts in its own pipeline: [(1, window, width)]."""
    if kind == "clip":
        bert, window, masked = ChineseCLIPModel.from_pretrained(sources / "clip").text_model, 77, True
    else:
        bert, window, masked = BertModel.from_pretrained(sources / "taiyi" / "text_encoder"), 512, False
    bert.float().train(False)
    tokenizer = AutoTokenizer.from_pretrained(sources / "taiyi" / "tokenizer")
    batch = tokenizer(TEXTS, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        out = bert(input_ids=batch.input_ids, attention_mask=batch.attention_mask if masked else None)
    return list(out.last_hidden_state.split(1))


@pytest.mark.parametrize("kind", ["taiyi", "clip"])
def test_the_node_makes_of_the_file_what_transformers_makes_of_the_source(
    kind: str, sources: Path, exact: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exact.base / "models" / "text_encoders" / f"converted-{kind}.safetensors"
    assert main(command(sources, kind, out)) == 0, capsys.readouterr().err
    for i, (text, expected) in enumerate(zip(TEXTS, by_transformers(sources, kind), strict=True)):
        outputs = exact.outputs(graphs.probe(text, f"{kind}-{i}", out.name))
        assert i or "carries no evaluation" in json.dumps(outputs)  # the loader runs, and warns, once
        vectors = load_file(exact.base / "output" / f"{kind}-{i}.safetensors")["cond.0"]
        assert vectors.shape == expected.shape and (vectors - expected).abs().max() < 1e-4, text
    assert not list(out.parent.glob("*.candidate"))


def test_the_file_says_what_it_is(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder.safetensors"
    assert main(command(sources, "taiyi", out)) == 0
    meta = read_meta(out)
    assert (meta.window, meta.mask_padding, meta.position0) == (512, False, "learnt")
    assert (meta.strategy, meta.teacher.id, meta.report) == ("converted", "none", {})
    assert (meta.licence, meta.recipe) == ("creativeml-openrail-m", {"convert": {"source": "taiyi", "window": 512}})
    converted = load(out)
    assert not converted.structure and not converted.pooled and not converted.skip
    again = tmp_path / "again.safetensors"
    assert main(command(sources, "taiyi", again)) == 0
    assert again.read_bytes() == out.read_bytes()


def xlm_r(folder: Path) -> None:
    """AltDiffusion's text_encoder."""
    shutil.rmtree(folder / "text_encoder")
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    XLMRobertaModel(XLMRobertaConfig(vocab_size=40, **sizes)).save_pretrained(folder / "text_encoder")


def vocabulary(pieces: list[str]) -> Callable[[Path], None]:
    """Another vocab.txt."""

    def edit(folder: Path) -> None:
        (folder / "tokenizer" / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")

    return edit


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {  # and what the message names
    "AltDiffusion": (xlm_r, "'xlm-roberta'"),
    "no vocabulary": (vocabulary(["a", "b"]), "tokenizer"),
    "another vocabulary": (vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(400))]), "404"),
    "no weights": (lambda folder: (folder / "text_encoder" / "model.safetensors").unlink(), "text_encoder"),
    "no folder": (shutil.rmtree, "--source"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_source_that_cannot_be_run_is_refused_in_one_line(
    broken: str, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, name = BROKEN[broken]
    copy = shutil.copytree(sources, tmp_path / "copy")
    change(copy / "taiyi")
    out = tmp_path / "out" / "encoder.safetensors"
    assert main(command(copy, "taiyi", out)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("convert: ") and name in line
    assert not out.parent.exists()


@pytest.mark.parametrize("flags", [["--window", "513"], ["--out", "encoder.bin"], ["--source", ""]])
def test_flags_that_do_not_fit_are_refused(
    flags: list[str], sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(sources, "taiyi", tmp_path / "x.safetensors"), *flags]) == 1
    assert flags[0] in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


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
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert figures["strategy"] == "converted" and figures["loss"]["all"] > figures["baselines"]["constant"]["all"]
    assert main([*flags, "--teacher.model", str(tmp_path / "teacher-64")]) == 1
    assert "is 64 wide and" in capsys.readouterr().err
