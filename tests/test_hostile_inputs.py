"""Corpora, recipes, flags and names from anywhere, as the trainer's command line takes them: one sentence each."""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests import runs
from tests.corpora import CAT
from tests.tree import ROOT
from trainer.__main__ import main
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import clean
from trainer.corpus.readers import read_rows
from trainer.report.page import text
from trainer.report.tables import WORDS


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


@pytest.mark.parametrize("megabytes", [10, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_line_is_one_bad_row_and_no_memory(name: str, megabytes: int, tmp_path: Path) -> None:
    # A quote that is never closed ends a CSV, and no other table.
    for content in ("x" * (megabytes << 20), "'\"'"[name != "a.csv"] + "\u732b" * (megabytes << 18)):
        (tmp_path / name).write_text(ENDLESS[name] + content + "\n" + ENDLESS[name].splitlines()[-1], encoding="utf-8")
        faults, memory = rejected(str(tmp_path / name))
        assert faults == ["line too long", "duplicate"] and memory < 20


def test_a_moses_line_without_end_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.zh").write_text(f"{CAT}\n{'x' * (2 << 20)}\n", encoding="utf-8")
    (tmp_path / "a.en").write_text("a cat\na dog\n", encoding="utf-8")
    assert rejected(str(tmp_path / "a.zh"))[0] == ["line too long"]


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


def obedient() -> None:
    """Let root, too, be refused what a folder's mode forbids: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, which counts from the next program on


def said_by(*arguments: str) -> str:
    """The error line of a trainer that fails, run without root's permissions."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        preexec_fn=obedient,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=300,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere root is refused nothing")
def test_folders_that_may_not_be_written_are_named(tmp_path: Path) -> None:
    given = runs.inputs(tmp_path)
    flags = ["--config", runs.TINY, "--window", "32", *runs.flags(given)]
    closed = tmp_path / "closed"
    (closed / "models" / "text_encoders").mkdir(parents=True)
    for folder in (closed / "models" / "text_encoders", closed):
        folder.chmod(0o555)
    said = said_by("run", *flags, "--run", str(closed / "run"))
    assert said.startswith("run: ") and f"{closed}/run" in said and "Permission denied" in said, said
    run = tmp_path / "run"
    said = said_by("run", *flags, "--run", str(run), "--cache.dir", str(closed / "cache"))
    assert f"{closed}/cache" in said and "Permission denied" in said, said
    said = said_by("run", *flags, "--run", str(run), "--install", str(closed))
    assert f"{closed}/models/text_encoders" in said and "Permission denied" in said, said
    assert (run / "encoder.safetensors").is_file()
    (tmp_path / "captions.tsv").write_text("en\na cat\n", encoding="utf-8")
    translate = ["--translate.source", str(tmp_path / "captions.tsv"), "--translate.model", str(tmp_path / "teacher")]
    said = said_by("translate", *translate, "--translate.out", str(closed / "pairs.tsv"))
    assert f"{closed}/pairs.tsv.parts" in said and "Permission denied" in said, said
    assert "disk" not in said, said


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg")
)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (ALIASES, "aliases"),
        ("train: " + "{a: " * 300 + "1" + "}" * 300, ""),
        ("window: " + "1" * 5000, ""),
        ("window: &a [*a]", ""),
        ("[" * 5000, ""),
    ],
    ids=["aliases", "depth", "digits", "cycle", "brackets"],
)
def test_a_recipe_that_multiplies_is_refused_in_one_sentence(
    recipe: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    assert main(["run", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert expected in said and len(said) < 700 and said.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("window", "-5", "--window -5: give 3 or more"),
        ("window", "2", "--window 2: give 3 or more"),
        ("train.batch", "0", "--train.batch 0: give 1 or more"),
        ("train.lr", ".nan", "--train.lr nan: give 0 or more"),
        ("train.lr", ".inf", "--train.lr inf: give 0 or more"),
        ("train.lr", "-1", "--train.lr -1.0: give 0 or more"),
        ("cache.batch", "-1", "--cache.batch -1: give 1 or more"),
        ("train.pad_positions", "0", "--train.pad_positions 0: give 1 or more"),
        ("corpus.near", "2", "--corpus.near 2.0: give 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_runs(
    flag: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", runs.TINY, "--run", str(tmp_path / "run"), f"--{flag}={value}"]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", [name for name, words in WORDS.items() if isinstance(words, dict)])
def test_a_word_with_braces_is_shown_as_it_is(group: str) -> None:
    assert "{0} {x} &lt;b&gt;" in text(group, "{0} {x} <b>")
