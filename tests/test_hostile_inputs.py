"""Corpora, recipes, flags and names from anywhere, as the trainer's command line takes them: one sentence each."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests import runs
from trainer.__main__ import main
from trainer.artifact.publish import plain
from trainer.base import SettingsError, require_size
from trainer.corpus.rows import CorpusError, read
from trainer.report.page import WORDS, text


def test_a_line_of_deep_json_is_a_bad_row_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 100_000 + '\n{"zh": "\u732b", "en": "cat"}\n' + '{"zh":' * 100_000, encoding="utf-8")
    rows = list(read(str(path)))
    assert [bool(row.fault) for row in rows] == [True, False, True]


def test_a_tmx_of_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nope.tmx"
    path.write_bytes(b'<?xml version="1.0" encoding="nope"?><tmx><body><tu/></body></tmx>')
    with pytest.raises(CorpusError, match=r"nope\.tmx: not well-formed XML"):
        list(read(str(path)))


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg")
)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (ALIASES, "more than 100000 values"),
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
    begin = time.process_time()
    with pytest.raises(SystemExit):
        main(["run", "--config", str(path)])
    said = capsys.readouterr().err.partition("error:")[2]  # behind the usage
    assert said and expected in said and len(said) < 700 and "Traceback" not in said
    assert time.process_time() - begin < 3


def test_aliases_are_counted_as_what_they_stand_for() -> None:
    shared = ["x"] * 10
    require_size([shared] * 100)
    with pytest.raises(SettingsError, match="more than 100000 values"):
        require_size([[shared] * 1000] * 100)
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(SettingsError):
        require_size(cycle)


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
        ("corpus.min_han", "2", "--corpus.min_han 2.0: give 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_runs(
    flag: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", runs.TINY, "--run", str(tmp_path / "run"), f"--{flag}={value}"]) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", [name for name, words in WORDS.items() if isinstance(words, dict)])
def test_a_word_with_braces_is_shown_as_it_is(group: str) -> None:
    assert "{0} {x} &lt;b&gt;" in text(group, "{0} {x} <b>")


def test_names_in_a_model_card_have_no_meaning_of_their_own() -> None:
    assert plain("a|b\n<script> [x](y) `z` *c*") == "a\\|b \\<script\\> \\[x\\](y) \\`z\\` \\*c\\*"
    assert plain("openai/clip-vit-large-patch14") == "openai/clip-vit-large-patch14"
