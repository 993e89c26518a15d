"""Corpora, recipes, flags and names from anywhere, as the trainer's command line takes them: one sentence each."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from tests import runs
from tests.corpora import CAT
from trainer.__main__ import main
from trainer.base.recipe import Recipe, SettingsError
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import clean
from trainer.corpus.readers import read_rows
from trainer.report.page import text
from trainer.report.tables import WORDS
from trainer.sweep.grid import read_grid


def rejected(source: str) -> tuple[list[str], float]:
    """The reasons of a corpus's rejected rows, and MB of Python's own memory at its most."""
    tracemalloc.start()
    try:
        cleaned = clean(read_rows(source), len, len, 99)
        return [row.fault for row in cleaned.rejects], tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


ENDLESS = {
    "a.tsv": f"zh\ten\n{CAT}\ta cat\n",
    "a.csv": f"zh,en\n{CAT},a cat\n",
    "a.jsonl": json.dumps({"zh": CAT, "en": "a cat"}) + "\n",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_line_is_one_bad_row_and_no_memory(name: str, tmp_path: Path) -> None:
    # A quote that is never closed ends a CSV, and no other table.
    for content in ("x" * (10 << 20), "'\"'"[name != "a.csv"] + "\u732b" * (10 << 18)):
        (tmp_path / name).write_text(ENDLESS[name] + content + "\n" + ENDLESS[name].splitlines()[-1], encoding="utf-8")
        faults, memory = rejected(str(tmp_path / name))
        assert faults == ["line too long", "duplicate"] and memory < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tsv.gz", "a.jsonl.gz"])
def test_an_archive_that_expands_without_end_is_refused(name: str, tmp_path: Path) -> None:
    """A megabyte that holds a gigabyte."""
    zeros = bytes(1 << 20)
    with gzip.open(tmp_path / name, "wb", compresslevel=9) as file:
        for _ in range(1000):
            file.write(zeros)
    with pytest.raises(CorpusError) as refused:
        rejected(str(tmp_path / name))
    assert name in str(refused.value)


def test_rows_of_nothing_are_no_corpus(tmp_path: Path) -> None:
    """A few kilobytes of line ends, which would be held as rejected rows."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"zh\ten\n" + b"\n" * 5_000_000))
    with pytest.raises(CorpusError):
        clean(read_rows(str(path)), len, len, 99)


def test_folders_that_may_not_be_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config", runs.TINY, "--window", "32", *runs.flags(runs.inputs(tmp_path)), "--run"]
    (closed := tmp_path / "closed").touch()  # a file, below which no folder can be made, by root neither
    for run, *more in (
        [closed / "run"],
        [tmp_path / "run", "--cache.dir", closed],
        [tmp_path / "run", "--install", closed],
    ):
        assert main(["run", *flags, *map(str, [run, *more])]) == 1
        assert str(closed) in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "captions.tsv").write_text("en\na cat\n", encoding="utf-8")
    translate = ["--translate.source", str(tmp_path / "captions.tsv"), "--translate.model", str(tmp_path / "teacher")]
    assert main(["translate", *translate, "--translate.out", str(closed / "pairs.tsv")]) == 1
    assert str(closed) in capsys.readouterr().err.splitlines()[-1]


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg")
)


# Each found a defect, or multiplies what it takes to read.
RECIPES: dict[str, str | bytes] = {
    "aliases": ALIASES,
    "depth": "train: " + "{a: " * 300 + "1" + "}" * 300,
    "digits": "window: " + "1" * 5000,
    "cycle": "window: &a [*a]",
    "brackets": "[" * 5000,
    "a group that is infinite": "train: -.inf",
    "a group that is a list": "train: [1, 2]",
    "a group that is a long text": "student: " + "x" * 20_000,
    "a number that is none": "train: {accumulate: nan}",
    "a window of ideographs": "window: " + "\u732b" * 9_999,
    "a model that is a number": "student: {model: 0.5}",
    "a choice that is a list": "export: {dtype: []}",
    "a long choice": "corpus: {script: " + "x" * 20_000 + "}",
    "a corpus that is a number": "corpus: {dev: 1000000}",
    "an unknown key": "train: {kv: -1.0e-12}",
    "closed too often": "window: 32\n" + "}" * 21_758,
    "half a character": b"window: 32\nrun: \x8c",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_refused_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, recipe = tmp_path / "recipe.yaml", RECIPES[name]
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    assert main(["run", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert len(said) < 700 and said.count("\n") == 1, said


@pytest.mark.parametrize(
    "text", ["settings: -.inf", "rows: {x: 1}", "rows: {x: " + "x" * 20_000 + "}", "seeds: \u732b"]
)
def test_a_bad_sweep_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        read_grid(tmp_path / "sweep.yaml", Recipe())
    assert len(str(refused.value)) < 700 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "flag",
    [
        *("window=-5", "window=2", "train.batch=0", "train.lr=.nan", "train.lr=.inf", "train.lr=-1", "cache.batch=-1"),
        *("train.pad_positions=0", "corpus.near=2", "corpus.dev_share=9223372036854775808"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_runs(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", runs.TINY, "--run", str(tmp_path / "run"), f"--{flag}"]) == 2
    assert f"--{flag.partition('=')[0]}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", [name for name, words in WORDS.items() if isinstance(words, dict)])
def test_a_word_with_braces_is_shown_as_it_is(group: str) -> None:
    assert "{0} {x} &lt;b&gt;" in text(group, "{0} {x} <b>")
