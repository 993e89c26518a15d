"""The stage `sweep` as a user runs it: a grid of recipes, killed, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import runs
from tests.tree import killed_at
from trainer.__main__ import main
from trainer.base.recipe import Recipe, SettingsError, TrainSettings
from trainer.base.settings import parse_recipe
from trainer.cache.shards import part_names
from trainer.sweep.grid import read_grid

ROOT = Path(__file__).resolve().parent.parent
GRIDS = ROOT / "recipes" / "sweeps"
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
    given = runs.inputs(tmp_path_factory.mktemp("inputs"))
    return ["--config", runs.TINY, "--window", "32", *runs.flags(given)]


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


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def figures(run: Path) -> dict[str, bytes]:
    """All reports of a sweep, by path."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("*/[0-9]/**/*.json"))}


def test_the_table_holds_every_row_beside_its_baselines(finished: Path) -> None:
    table = read(finished / "sweep-grid.json")
    assert table["unfinished"] == []
    reports = {row: [read(finished / row / seed / "report.json") for seed in ("0", "1")] for row in ("tiny", "deep")}
    for name, row in table["rows"].items():
        losses = [report["loss"]["all"] for report in reports[name]]
        assert row["seeds"] == [0, 1]
        assert row["mean"]["loss"] == pytest.approx(sum(losses) / 2)
        assert row["spread"]["loss"] == pytest.approx(abs(losses[0] - losses[1]))
        recalls = [report["retrieval_content"]["zh_to_en"]["R@1"] for report in reports[name]]
        assert row["mean"]["R@1 zh to en, content"] == pytest.approx(sum(recalls) / 2)
    baselines = table["baselines"]["tiny"]
    assert list(table["baselines"]) == ["tiny"] and baselines["constant"]["skill"] == 0
    assert {name: values["loss"] for name, values in baselines.items()} == {
        name: zones["all"] for name, zones in reports["tiny"][0]["baselines"].items()
    }
    lines = (finished / "sweep-grid.md").read_text(encoding="utf-8").splitlines()
    labels = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    assert labels[1:3] == ["| tiny", "| deep"] and "| *constant per position*" in labels[3:]


def test_runs_share_one_cache_and_are_what_run_makes(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    parts = {path.name for path in (finished / "cache" / "train").iterdir()}
    assert parts == {name for depth in (1, 2) for name in part_names(depth, TrainSettings.pad_positions)}
    assert not list(finished.glob("*/*/cache")) and not list(finished.rglob("encoder.safetensors"))
    alone = ["--run", str(tmp_path / "run"), "--train.steps", "6", "--train.layers", "2", "--train.seed", "1"]
    assert main(["run", *inputs, *alone]) == 0
    run = finished / "deep" / "1"
    for name in ("report.json", "report.captions.tsv", "checkpoints/final.safetensors", "corpus/rejects.tsv"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    # Each is a run's folder like any other, which later stages go on with.
    assert main(["export", "--config", str(run / "recipe.yaml"), "--run", str(run)]) == 0
    assert (run / "encoder.safetensors").read_bytes() == (tmp_path / "run" / "encoder.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_sweep_resumes(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert killed_at(run / "deep" / "0" / "checkpoints", *arguments(tmp_path, inputs))
    report = run / "tiny" / "0" / "report.json"
    written = report.stat().st_mtime_ns
    assert list(read(run / "sweep-grid.json")["rows"]) == ["tiny"]
    assert main(arguments(tmp_path, inputs)) == 0
    assert report.stat().st_mtime_ns == written
    assert read(run / "sweep-grid.json") == read(finished / "sweep-grid.json")
    for name, content in figures(finished).items():
        if name.endswith("report.json"):
            assert (run / name).read_bytes() == content, name


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
    command = [*arguments(tmp_path, inputs, grid), "--sweep.export"]
    assert main(command) == 0
    run = tmp_path / "run"
    assert [path.name for path in (run / "corpora").iterdir()] == ["fewer"]
    assert read(run / "corpora" / "fewer" / "corpus" / "summary.json")["train"]["rows"] == 24
    table = read(run / "sweep-grid.json")
    assert set(table["baselines"]) == {"tiny", "fewer"}
    assert table["rows"]["hot"]["seeds"] == [] and "nan at step" in table["rows"]["hot"]["diverged"]["0"]
    assert "| hot; diverged with seed 0: " in (run / "sweep-grid.md").read_text(encoding="utf-8")
    tiny = parse_recipe(run / "tiny" / "0" / "recipe.yaml").train
    assert (tiny.strategy, tiny.steps, tiny.lr) == ("lora", 4, TrainSettings().lr)  # and not tiny.yaml's of recipes/
    encoders = [path.parent.parent.name for path in sorted(run.glob("*/0/encoder.safetensors"))]
    assert encoders == ["fewer", "fewer-half", "tiny"]
    before = {name: (run / name).stat().st_mtime_ns for name in figures(run)}
    assert main(command) == 0
    assert before == {name: (run / name).stat().st_mtime_ns for name in figures(run)}  # nothing was left to do


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ("rows: {a: {}, b: {train.lrr: 1}}", "row b: "),
        ("rows: {b: {train.strategy: laura}}", "train.strategy"),
        ("rows: {b: {trane.lr: 1}}", "trane.lr"),
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


def test_a_changed_row_is_refused(
    finished: Path, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = arguments(tmp_path, inputs, GRID.replace("layers: 2", "layers: 3"))
    changed[changed.index("--run") + 1] = str(finished)
    before = figures(finished)
    assert main(changed) == 1
    assert "train.layers was 2 and is now 3" in capsys.readouterr().err
    assert figures(finished) == before


def test_nothing_runs_before_the_whole_grid_is_read(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, inputs, "rows: {a: {}, b: {train.lrr: 1}}")) == 1
    assert "row b" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(arguments(tmp_path, inputs, "rows: {a: {corpus.train: nowhere.tsv}}")) == 1
    assert "nowhere.tsv" in capsys.readouterr().err
    assert main(["sweep", "--run", str(tmp_path / "run")]) == 1
    assert "--sweep.grid" in capsys.readouterr().err


def test_an_error_of_a_run_names_its_row(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path, inputs, "rows: {a: {train.layers: 1}, b: {train.accumulate: 3}}")) == 1
    assert "row b, seed 0: --train.batch 8" in capsys.readouterr().err


def test_the_grids_of_this_repository_can_be_read() -> None:
    base = parse_recipe(ROOT / "recipes" / "recommended.yaml")
    grids = {path.stem: read_grid(path, base) for path in sorted(GRIDS.glob("*.yaml"))}
    assert [recipe.train.steps for recipe in grids.pop("pictures").rows.values()] == [0, 0, 100, 300, 900, 300]
    for grid in grids.values():
        assert {(recipe.train.steps, recipe.train.batch) for recipe in grid.rows.values()} == {(200, 128)}
    paper = grids["recipes"].rows["paper-lora"].train
    assert (paper.strategy, paper.start, paper.lr, paper.warmup, paper.clip) == ("lora", "student", 5e-3, 0, None)
