"""The stage `translate`, as a user runs it, on small Marian models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import encoders, hub, translators
from tests.small import captions
from tests.tree import ROOT, killed_at, trainer
from trainer.__main__ import main
from trainer.base.stage_settings import TranslateSettings
from trainer.translate.stage import find_fault, has_loop
from trainer.translate.translator import Translator

CODES = (">>cmn_Hans<<", ">>cmn_Hant<<")
CAT = "\u4e00\u53ea\u732b"  # a cat


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`marian` knows translators.LEARNT captions by heart; the weights of `back` are random."""
    folder = tmp_path_factory.mktemp("models")
    translators.marian(folder / "marian", codes=CODES, steps=80)
    translators.marian(folder / "back", languages=("zho", "eng"))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions that the model has learnt, captions that it has not, and rows that cannot be translated."""
    path = tmp_path_factory.mktemp("source") / "captions.tsv"
    english = [en for _, en in captions()][: translators.LEARNT + 8]
    english[5:5] = ["", "12 / 7", english[0].upper(), "the sea " * 40]
    path.write_text("id\ten\n" + "".join(f"{i}\t{en}\n" for i, en in enumerate(english)), encoding="utf-8")
    return path


def flags_of(source: Path, models: Path, out: Path, /, **changes: object) -> list[str]:
    """The stage's arguments."""
    settings: dict[str, object] = dict(
        source=source, out=out, model=models / "marian", max_tokens=40, batch=4, shard_rows=8
    )
    pairs = {name: value for name, value in (settings | changes).items() if value is not None}
    return ["translate", *(text for name, value in pairs.items() for text in (f"--translate.{name}", str(value)))]


@pytest.fixture(scope="module")
def finished(source: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run."""
    out = tmp_path_factory.mktemp("finished") / "pairs.tsv"
    assert main(flags_of(source, models, out)) == 0
    return out.parent


def table(path: Path) -> list[list[str]]:
    """A TSV's fields, its header first."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_pairs_are_in_the_sources_order_and_every_other_row_has_its_reason(source: Path, finished: Path) -> None:
    learnt = {en: zh for zh, en in captions()[: translators.LEARNT]}
    header, *pairs = table(finished / "pairs.tsv")
    assert header == ["zh", "en"]
    assert [en for _, en in pairs if en in learnt] == list(learnt)
    assert all(zh == learnt[en] for zh, en in pairs if en in learnt)
    rejects = {row[1]: row[2] for row in table(finished / "pairs.tsv.rejects.tsv")[1:]}
    reasons = ["no English", "no words", "duplicate caption", "caption too long"]
    assert [rejects[row] for row in ("7", "8", "9", "10")] == reasons
    assert len(pairs) + len(rejects) == len(table(source)) - 1


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(source: Path, models: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.tsv"
    assert killed_at(tmp_path / "pairs.tsv.parts" / "00001.jsonl", *flags_of(source, models, out))
    assert not out.exists()
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert main(flags_of(source, models, out, batch=3)) == 0  # which is no other setting
    assert shards == {path: path.stat().st_mtime_ns for path in shards}
    for name in ("pairs.tsv", "pairs.tsv.rejects.tsv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize("beams", [1, 4])
def test_neighbours_in_a_batch_change_nothing(models: Path, beams: int) -> None:
    texts = [en for _, en in captions()][:20]
    texts += [f"{a} {b}" for a, b in zip(texts[:4], texts[4:8])]
    translator = Translator(models / "marian", TranslateSettings(beams=beams, max_tokens=32, batch=1))
    alone = translator.translate(texts)
    assert len({output.text for output in alone}) > 4
    translator.settings.batch = 7
    assert translator.translate(texts[::-1]) == alone[::-1]


@pytest.mark.parametrize(("nllb", "chinese", "english"), [(True, "zho_Hans", "eng_Latn"), (False, "__zh__", "__en__")])
def test_the_languages_are_the_tokenizers_own_tokens(tmp_path: Path, nllb: bool, chinese: str, english: str) -> None:
    folder = translators.m2m100(tmp_path / "model", nllb)
    for languages, source, target in ((("en", "zh"), english, chinese), (("zh", "en"), chinese, english)):
        translator = Translator(folder, TranslateSettings(beams=1, max_tokens=16), languages=languages)
        ids = translator.tokenizer(CAT).input_ids
        assert translator.tokenizer.convert_tokens_to_ids(source) in (ids[0], ids[-1])
        batch = translator.tokenizer([CAT], return_tensors="pt")
        first = translator.model.generate(**batch, max_new_tokens=2, **translator.options)[0, 1]
        assert translator.tokenizer.convert_ids_to_tokens(int(first)) == target
        assert len(translator.translate([CAT, CAT * 2])) == 2


@pytest.mark.parametrize(
    ("en", "zh", "reason"),
    [
        ("A cat", CAT, ""),
        ("A cat", "", "empty output"),
        ("A cat", "a  CAT", "copy of the caption"),
        ("A happy cat sleeping", f"happy {CAT} sleeping", "copy of the caption"),
        ("A cat", "un chat", "no Chinese"),
        ("A cat", CAT * 5, "repetition loop"),
        ("no no no no no no, a cat", "\u4e0d" * 6, ""),
        ("Cat", CAT + "\u5728\u7a97\u53f0\u4e0a\u770b\u7740\u5916\u9762\u7684\u96e8\u548c\u98ce", "length ratio"),
        ("A cat sits by the window and looks at the rain in the street", CAT, "length ratio"),
        ("14 cats", f"13{CAT}", "other numbers"),
        ("20 cats", f"2{CAT}", "other numbers"),
        ("14 cats", CAT, ""),
        ("5 cats", f"\uff15{CAT}", ""),
        ("3 dogs, 14 cats", f"14{CAT}", ""),
        ("23,500 seats", "23500\u4e2a\u5ea7\u4f4d", ""),
        ("Chrysanthemum", "\u83ca\u82b1", ""),
    ],
)
def test_each_fault_has_its_reason(en: str, zh: str, reason: str) -> None:
    assert find_fault(en, zh) == reason


def test_loops_are_of_words_not_of_dots_or_digits() -> None:
    assert has_loop("a b c " * 4)
    assert not has_loop("......") and not has_loop("10000000")


@pytest.mark.parametrize("name", ["beams", "limit", "model", "source"])
def test_other_settings_in_the_same_folder_are_refused(
    source: Path, models: Path, finished: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    other = {"beams": 1, "limit": 9, "model": models / "back", "source": ROOT / "tests" / "data" / "captions.tsv"}
    assert main(flags_of(source, models, finished / "pairs.tsv", **{name: other[name]})) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert name in error and "--translate.out" in error, error


def test_a_model_comes_from_the_hub_by_its_id(source: Path, models: Path, finished: Path, tmp_path: Path) -> None:
    """In the layout of Helsinki-NLP's repositories: old weights, and the same again for another framework."""
    repository = tmp_path / "hub" / "someone" / "opus-mt-en-zh"
    shutil.copytree(models / "marian", repository)
    torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    (repository / "model.safetensors").rename(repository / "tf_model.h5")
    out = tmp_path / "pairs.tsv"
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        given = flags_of(source, models, out, model="someone/opus-mt-en-zh")
        done = trainer(*given, **hub.settings(endpoint, tmp_path / "home"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [path for path in asked if path.endswith(".h5")]
    assert out.read_bytes() == (finished / "pairs.tsv").read_bytes()


def damaged(models: Path, folder: Path, change: Callable[[Path], object]) -> dict[str, object]:
    shutil.copytree(models / "marian", folder / "model")
    change(folder / "model")
    return {"model": folder / "model"}


def incomplete(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


# By case: settings from (folder, models), and what the one line of the error names.
BAD: dict[str, tuple[Callable[[Path, Path], dict[str, object]], str]] = {
    "no tsv": (lambda folder, models: {"out": folder / "pairs.json"}, "--translate.out"),
    "no beams": (lambda folder, models: {"beams": 0}, "--translate.beams 0"),
    "too many tokens": (lambda folder, models: {"max_tokens": 500}, "--translate.max_tokens 500"),
    "no such model": (lambda folder, models: {"model": folder / "none"}, "--translate.model"),
    "other direction": (lambda folder, models: {"model": models / "back"}, "zho to eng"),
    "BERT": (lambda folder, _: {"model": encoders.bert_teacher(folder / "m")}, "--translate.model"),
    "incomplete": (lambda folder, models: damaged(models, folder, incomplete), "model.encoder.layers.0.fc1.weight"),
    "no tokenizer": (
        lambda folder, models: damaged(models, folder, lambda model: (model / "source.spm").unlink()),
        "--translate.model",
    ),
    "no pair": (lambda folder, models: {"max_tokens": 3}, "caption too long"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(
    source: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    spoil, names = BAD[case]
    changes = {"out": tmp_path / "pairs.tsv", "shard_rows": 64, "limit": 2} | spoil(tmp_path, models)
    assert main(flags_of(source, models, changes.pop("out"), **changes)) == 1  # type: ignore[arg-type]
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("translate: ") and names in error, error
