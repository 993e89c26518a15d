"""The stage `sweep` as a user runs it: a grid of recipes, planned, killed, resumed, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import runs
from tests.tree import ROOT, killed_at
from trainer.__main__ import main
from trainer.base.recipe import Recipe, SettingsError, TrainSettings
from trainer.base.settings import parse_recipe
from trainer.cache.shards import part_names
from trainer.sweep.grid import read_grid

GRID = """
seeds: 2
settings: {train.steps: 6}
rows:
  tiny:
  deep: {train.layers: 2}
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a run without its folder."""
    return ["--config", runs.TINY, "--window", "32", *runs.flags(runs.inputs(tmp_path_factory.mktemp("inputs")))]


@pytest.fixture(scope="module")
def finished(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken sweep."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(arguments(folder, inputs)) == 0
    return folder / "run"


def arguments(folder: Path, inputs: list[str], grid: str = GRID) -> list[str]:
    """The command line of a sweep in folder/run."""
    (folder / "grid.yaml").write_text(grid, encoding="utf-8")
    return ["sweep", *inputs, "--run", str(folder / "run"), "--sweep.grid", str(folder / "grid.yaml")]


def table(run: Path) -> dict[str, list[str]]:
    """The cells of a sweep's table by the name of their row."""
    lines = (run / "sweep-grid.md").read_text(encoding="utf-8").splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_table_holds_every_row_beside_its_baselines(finished: Path) -> None:
    rows = table(finished)
    names = list(rows)
    assert names[1:3] == ["tiny", "deep"] and "*constant per position*" in names[3:]
    columns = next(iter(rows.values()))
    for row in ("tiny", "deep"):
        reports = [json.loads((finished / row / seed / "report.json").read_text(encoding="utf-8")) for seed in "01"]
        losses = [report["loss"]["all"] for report in reports]
        recalls = [report["retrieval_content"]["zh_to_en"]["R@1"] for report in reports]
        assert rows[row][0] == "2"
        for column, values in (("loss", losses), ("R@1 zh to en, content", recalls)):
            assert rows[row][columns.index(column)] == f"{sum(values) / 2:.3f} ({abs(values[0] - values[1]):.3f})"
    assert rows["*ridge map, no gradient*"][1] == f"{reports[0]['baselines']['ridge']['all']:.3f}"


def test_runs_share_one_cache_and_are_what_run_makes(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    parts = {path.name for path in (finished / "cache" / "train").iterdir()}
    assert parts == {name for depth in (1, 2) for name in part_names(depth, TrainSettings.pad_positions)}
    assert not list(finished.glob("*/*/cache")) and not list(finished.glob("*/*/checkpoints/step-*"))
    alone = ["--run", str(tmp_path / "run"), "--train.steps", "6", "--train.layers", "2", "--train.seed", "1"]
    assert main(["run", *inputs, *alone]) == 0
    run = finished / "deep" / "1"
    assert main(["export", "--run", str(run)]) == 0  # it is a run's folder like any other
    names = ("report.json", "report.captions.tsv", "checkpoints/final.safetensors", "corpus/rejects.tsv")
    for name in (*names, "encoder.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_the_plan_and_what_is_left_are_in_the_log(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = GRID.replace("  deep", "  ridge: {train.strategy: ridge, train.steps: 0}\n  deep")
    assert main([*arguments(tmp_path, inputs, grid), "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == [" row tiny", " row ridge", " row deep"]
    assert re.fullmatch(r"plan: 6 runs and their caches, \d+ MB: \d+ (s|min)", lines[-1])
    assert not (tmp_path / "run").exists()
    short = grid.replace("seeds: 2", "seeds: 1").replace("  deep: {train.layers: 2}", "")
    assert main(arguments(tmp_path, inputs, short)) == 0
    first, last = re.findall(r"sweep: \d of \d.*", capsys.readouterr().out)
    assert re.fullmatch(r"sweep: 1 of 2, \d+ s left", first) and last == "sweep: 2 of 2"


@pytest.mark.slow
def test_a_killed_sweep_resumes(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert killed_at(run / "deep" / "0" / "checkpoints", *arguments(tmp_path, inputs))
    report = run / "tiny" / "0" / "report.json"
    written = report.stat().st_mtime_ns
    assert {"tiny", "deep"} & set(table(run)) == {"tiny"}
    assert main(arguments(tmp_path, inputs)) == 0
    assert report.stat().st_mtime_ns == written
    for name in ("sweep-grid.md", *(f"{row}/{seed}/report.json" for row in ("tiny", "deep") for seed in "01")):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.slow
def test_other_corpora_have_caches_of_their_own_and_divergence_is_a_row(inputs: list[str], tmp_path: Path) -> None:
    grid = """
settings: {train.steps: 4}
rows:
  tiny: {config: tiny.yaml}
  hot: {train.lr: 1.0e+30, train.clip: null, train.steps: 12}
  fewer: {corpus.limit: 24}
  fewer-half: {corpus.limit: 24, train.precision: bf16}
"""
    (tmp_path / "tiny.yaml").write_text("train: {strategy: lora, lora: {r: 2}, batch: 8}", encoding="utf-8")
    assert main(arguments(tmp_path, inputs, grid)) == 0
    run = tmp_path / "run"
    assert [path.name for path in (run / "corpora").iterdir()] == ["fewer"]
    fewer = (run / "corpora" / "fewer" / "corpus" / "summary.json").read_text(encoding="utf-8")
    assert json.loads(fewer)["train"]["rows"] == 24
    rows = table(run)
    assert {"*constant per position* (tiny)", "*constant per position* (fewer)"} <= {
        re.sub(r"(.*) (\(\w+\))\*", r"\1* \2", name) for name in rows
    }
    hot = next(name for name in rows if name.startswith("hot; "))
    assert "nan at step" in hot and rows[hot][0] == "0"
    tiny = parse_recipe(run / "tiny" / "0" / "recipe.yaml").train
    assert (tiny.strategy, tiny.steps, tiny.lr) == ("lora", 4, TrainSettings().lr)  # and not tiny.yaml's of recipes/
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/0/**/*.json")}
    assert main(arguments(tmp_path, inputs, grid)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}  # nothing was left to do


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ("rows: {a: {}, b: {train.lrr: 1}}", "row b: "),
        ("rows: {b: {train.strategy: laura}}", "train.strategy"),
        ("rows: {b: {train: 3}}", "row b: "),
        ("rows: {b: {train: {seed: 3}}}", "train.seed"),
        ("rows: {b: {config: nowhere.yaml}}", "nowhere.yaml"),
        ("rows: {cache: {}}", "row cache"),
        ("rows: {a/b: {}}", "row a/b"),
        ("rows: {}", "rows"),
        ("row: {a: {}}", "rows"),
        ("seeds: 0\nrows: {a: {}}", "seeds is 0"),
        ("seeds: [a]\nrows: {a: {}}", "seeds is ['a']"),
        ("rows: {a: {}", "grid.yaml"),
    ],
)
def test_a_wrong_grid_is_refused(grid: str, names: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(grid, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        read_grid(path, Recipe())
    error = str(refused.value)
    assert error.startswith(f"--sweep.grid {path}") and names in error and "\n" not in error


def test_a_changed_row_and_a_wrong_run_are_refused_by_name(
    finished: Path, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(command: list[str]) -> str:
        assert main(command) == 1
        return capsys.readouterr().err.splitlines()[-1]

    changed = arguments(tmp_path, inputs, GRID.replace("layers: 2", "layers: 3"))
    changed[changed.index("--run") + 1] = str(finished)
    assert "train.layers was 2 and is now 3" in error_of(changed)
    assert "row b" in error_of(arguments(tmp_path, inputs, "rows: {a: {}, b: {train.lrr: 1}}"))
    assert not (tmp_path / "run").exists()
    assert "nowhere.tsv" in error_of(arguments(tmp_path, inputs, "rows: {a: {corpus.train: nowhere.tsv}}"))
    assert "--sweep.grid" in error_of(["sweep", "--run", str(tmp_path / "run")])
    odd = arguments(tmp_path, inputs, "rows: {c: {train.layers: 1}, b: {train.accumulate: 3}}")
    assert "row b, seed 0: --train.batch 8" in error_of(odd)


def test_the_grids_of_this_repository_can_be_read() -> None:
    base = parse_recipe(ROOT / "recipes" / "recommended.yaml")
    grids = {path.stem: read_grid(path, base) for path in sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))}
    for jobs in grids.values():
        assert {(job.recipe.train.steps, job.recipe.train.batch) for job in jobs} == {(200, 128)}
    paper = next(job.recipe.train for job in grids["recipes"] if job.row == "paper-lora")
    assert (paper.strategy, paper.start, paper.lr, paper.warmup, paper.clip) == ("lora", "student", 5e-3, 0, None)
