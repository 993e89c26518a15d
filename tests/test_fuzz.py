"""Hostile files, prompts, corpora and recipes: each is taken, or refused in one sentence; none ends the process."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import fuzz
from tests.corpora import WHOLE
from tests.host import in_host
from tests.tree import ROOT
from trainer.base import settings as recipes
from trainer.base.recipe import Recipe, SettingsError
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import clean
from trainer.corpus.readers import read_rows, source_sha256
from trainer.sweep.grid import read_grid


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by what Linux counts")
@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_files_and_prompts_are_taken_or_refused_alike_by_trainer_and_node(count: int, tmp_path: Path) -> None:
    found = in_host("fuzz_checks.fuzz_both", tmp_path, str(count), timeout=1800)
    assert not found["faults"], found["faults"][:3]
    # Cases that are all refused would look at half of the code.
    assert count / 25 < found["taken"]["files"] < count * 3 / 4 and found["taken"]["prompts"] > count / 2


def read_corpus(case: dict[str, Any], folder: Path) -> None:
    """As the corpus stage reads and cleans a source."""
    source = WHOLE[case["base"]](folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[case["file"] % len(files)]
    content = file.read_bytes()
    inside = case["inside"] and content[:2] == b"\x1f\x8b"
    content = gzip.decompress(content) if inside else content
    for step in case["steps"]:
        content = fuzz.change(content, step)
    file.write_bytes(gzip.compress(content) if inside else content)
    vars(source).update(case["source"])
    recipes.sources([source])
    source_sha256(source)
    clean(read_rows(source), len, len, 99)


def read_recipe(case: dict[str, Any], folder: Path) -> None:
    """As the command line reads YAML and flags, or a sweep's grid; what is taken is written and read again."""
    settings = yaml.safe_load((ROOT / case["base"]).read_text(encoding="utf-8"))
    for name, value in case["set"].items():
        fuzz.put(settings, name, value)
    content = fuzz.dump(settings).encode().replace(b"NaN", b".nan").replace(b"Infinity", b".inf")
    for step in case["steps"]:
        content = fuzz.change(content, step)
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    flags = [f"--{name}={fuzz.grow(value)}".replace("\0", "") for name, value in case["flags"]]
    if "sweeps" in case["base"]:
        read_grid(path, Recipe())
        return
    recipe = recipes.to_recipe(recipes.parse(recipes.recipe_parser(), ["--config", str(path), *flags]))
    for given in (recipe.corpus.train, recipe.corpus.dev):
        recipes.sources(given)
    recipes.corpus_name(recipe.corpus), recipes.public_settings(recipe)
    path.write_text(recipes.to_yaml(recipe), encoding="utf-8")
    assert recipes.parse_recipe(path) == recipe


@pytest.mark.parametrize("kind", ["corpora", "recipes"])
def test_corpora_and_recipes_that_found_a_defect_are_taken_or_refused_in_a_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, case in enumerate(fuzz.FOUND[kind]):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            (read_corpus if kind == "corpora" else read_recipe)(case, folder)
            continue
        except (CorpusError, SettingsError) as error:
            said = str(error).replace(str(folder), "")
        except SystemExit:
            said = capsys.readouterr().err.partition("error:")[2].strip()
        assert said and len(" ".join(said.split())) < 700 and "Traceback" not in said, (case, said)
