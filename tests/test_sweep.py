"""The stage `sweep` as a user runs it: a grid of recipes, killed, shared, refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import runs
from tests.tree import killed_at
from trainer.__main__ import main
from trainer.base.recipe import Recipe, SettingsError, TrainSettings
from trainer.base.settings import parse_recipe
from trainer.cache.shards import parts_of
from trainer.sweep.grid import read_grid
from trainer.training import checkpoint

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
    """The flags of a run but for its folder, and a further file of pairs beside its corpora."""
    folder = tmp_path_factory.mktemp("inputs")
    given = runs.inputs(folder)
    lines = (folder / "train.tsv").read_text(encoding="utf-8").splitlines()
    (folder / "further.tsv").write_text("\n".join([lines[0], *lines[40:]]) + "\n", encoding="utf-8")
    return ["--config", runs.TINY, "--window", "32", *runs.flags(given)]


@pytest.fixture(scope="module")
def finished(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken sweep."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(arguments(folder, inputs)) == 0
    return folder / "run"


def arguments(folder: Path, inputs: list[str], grid: str = GRID, also: bool = True) -> list[str]:
    """The command line of a sweep in folder/run."""
    (folder / "grid.yaml").write_text(grid, encoding="utf-8")
    further = ["--sweep.also", str(Path(inputs[-1]).with_name("further.tsv"))] if also else []
    return ["sweep", *inputs, "--run", str(folder / "run"), "--sweep.grid", str(folder / "grid.yaml"), *further]


def start(folder: Path, inputs: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer", *arguments(folder, inputs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def figures(run: Path) -> dict[str, bytes]:
    """All reports of a sweep, by path."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("*/[0-9]/**/*.json"))}


def without_seconds(table: dict) -> dict:
    for row in table["tables"]["dev.tsv"]["rows"].values():
        del row["mean"]["seconds"], row["spread"]["seconds"]
    return table


def test_the_table_holds_every_row_beside_its_floors(finished: Path) -> None:
    saved = read(finished / "sweep-grid.json")
    assert saved["unfinished"] == []
    assert list(saved["tables"]) == ["dev.tsv", "further.tsv"]
    lines = (finished / "sweep-grid.md").read_text(encoding="utf-8").splitlines()
    for (name, table), report in zip(saved["tables"].items(), ("report.json", "also/further.json"), strict=True):
        reports = [[read(finished / row / seed / report) for seed in ("0", "1")] for row in ("tiny", "deep")]
        for row, some in zip(("tiny", "deep"), reports, strict=True):
            made, losses = table["rows"][row], [one["loss"]["all"] for one in some]
            assert made["seeds"] == [0, 1]
            assert made["mean"]["loss"] == pytest.approx(sum(losses) / 2)
            assert made["spread"]["loss"] == pytest.approx(abs(losses[0] - losses[1]))
            assert made["mean"]["R@1 zh to en, content"] == pytest.approx(
                sum(one["retrieval_content"]["zh_to_en"]["R@1"] for one in some) / 2
            )
            assert ("seconds" in made["mean"]) == (name == "dev.tsv")
        skills = [sum(one["skill"] for one in some) / 2 for some in reports]
        assert table["rows"]["deep"]["against_first"] == pytest.approx(skills[1] - skills[0])
        spread = max(row["spread"]["skill"] for row in table["rows"].values())
        assert table["rows"]["deep"]["beyond"] == (abs(skills[1] - skills[0]) > spread)
        floors = table["baselines"]["tiny"]
        assert {floor: some["loss"] for floor, some in floors.items()} == {
            floor: some["all"] for floor, some in reports[0][0]["baselines"].items()
        }
        assert floors["constant"]["skill"] == 0
        begin = lines.index(f"## {name}, {table['pairs']} pairs")
        labels = [line.split(" | ")[0] for line in lines[begin + 4 : begin + 10]]
        assert labels[:2] == ["| tiny", "| deep"] and "| *constant per position*" in labels[2:]


def test_runs_share_one_cache_and_are_what_run_makes(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    parts = {path.name for path in (finished / "cache" / "train").iterdir()}
    assert parts == {some for depth in (1, 2) for some in parts_of(depth, TrainSettings.pad_positions)}
    assert not list(finished.glob("*/*/cache")) and not list(finished.rglob("encoder.safetensors"))
    alone = ["--run", str(tmp_path / "run"), "--train.steps", "6", "--train.layers", "2", "--train.seed", "1"]
    assert main(["run", *inputs, *alone]) == 0
    run = finished / "deep" / "1"
    for name in ("report.json", "report.captions.tsv", "checkpoints/final.safetensors", "corpus/rejects.tsv"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    # Each is a run's folder like any other, which later stages go on with.
    assert main(["export", "--config", str(run / "recipe.yaml"), "--run", str(run)]) == 0
    assert (run / "encoder.safetensors").read_bytes() == (tmp_path / "run" / "encoder.safetensors").read_bytes()
    further = str(Path(inputs[-1]).with_name("further.tsv"))
    score = ["--artifact", str(run / "encoder.safetensors"), "--teacher.model", inputs[7], "--corpus", further]
    assert main(["evaluate", *score, "--report", str(tmp_path / "further.json")]) == 0
    own, other = read(run / "also" / "further.json"), read(tmp_path / "further.json")
    assert own["corpus"] == other["corpus"] and own["rows"] == other["rows"]
    assert own["loss"] == pytest.approx(other["loss"], abs=1e-6)
    assert own["retrieval_content"] == other["retrieval_content"]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_two_processes_share_one(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    sign = tmp_path / "run" / "deep" / "0" / "seconds.json"
    assert killed_at(sign, *arguments(tmp_path, inputs))
    kept = tmp_path / "run" / "tiny" / "0" / "report.json"
    written = kept.stat().st_mtime_ns
    sign.write_text(json.dumps(read(sign) | {"seconds": 1000}), encoding="utf-8")  # as though it had trained that long
    assert list(read(tmp_path / "run" / "sweep-grid.json")["tables"]["dev.tsv"]["rows"]) == ["tiny"]
    said = [process.communicate(timeout=300)[0] for process in [start(tmp_path, inputs) for _ in range(2)]]
    made = [line.split(":")[1].strip() for text in said for line in text.splitlines() if " s of training" in line]
    assert sorted(made) == ["deep/0", "deep/1", "tiny/1"]
    assert kept.stat().st_mtime_ns == written
    assert 1000 < read(sign)["seconds"] < 2000
    table = tmp_path / "run" / "sweep-grid.json"
    assert without_seconds(read(table)) == without_seconds(read(finished / "sweep-grid.json"))
    ours, theirs = figures(tmp_path / "run"), figures(finished)
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name] == theirs[name] or name.endswith(("seconds.json", "settings.json", "summary.json")), name


def test_a_run_that_another_process_holds_is_left_to_it(
    inputs: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "run" / "tiny" / "0"
    held.mkdir(parents=True)
    code = f"from filelock import FileLock\nwith FileLock({str(held / '.lock')!r}): print(1, flush=True), input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "1\n"
    grid = "rows: {tiny: , two: {train.layers: 2}}"
    assert main(arguments(tmp_path, inputs, grid, also=False)) == 0
    said = capfd.readouterr().out
    assert "tiny/0 is another process's" in said
    assert said.endswith((tmp_path / "run" / "sweep-grid.md").read_text(encoding="utf-8") + "\n")
    assert "Not finished yet: tiny/0." in (tmp_path / "run" / "sweep-grid.md").read_text(encoding="utf-8")
    holder.communicate("\n")
    assert main(arguments(tmp_path, inputs, grid)) == 0  # and further pairs, which the finished row has not seen
    saved = read(tmp_path / "run" / "sweep-grid.json")
    assert saved["unfinished"] == []
    assert set(saved["tables"]["further.tsv"]["rows"]) == {"tiny", "two"}
    assert saved["tables"]["dev.tsv"]["rows"]["two"]["beyond"] is None  # one seed has no spread


@pytest.mark.slow
def test_other_corpora_have_caches_of_their_own_and_divergence_is_a_row(
    inputs: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = """
settings: {train.steps: 4}
rows:
  tiny: {config: tiny.yaml}
  hot: {train.lr: 1.0e+30, train.clip: null, train.steps: 12}
  fewer: {corpus.train: "${captions}", corpus.limit: "${pairs}"}
  fewer-half: {corpus.train: "${captions}", corpus.limit: "${pairs}", train.precision: bf16}
"""
    (tmp_path / "tiny.yaml").write_text("train: {strategy: lora, lora: {r: 2}, batch: 8}", encoding="utf-8")
    given = ["--sweep.set.captions", inputs[9], "--sweep.set.pairs", "24", "--sweep.export"]
    command = arguments(tmp_path, inputs, grid, also=False) + given
    assert main(command) == 0
    run = tmp_path / "run"
    out = capfd.readouterr().out
    assert re.search(f"row fewer is of another corpus.* than --run's: its cache is in {re.escape(str(run))}", out)
    assert [path.name for path in (run / "corpora").iterdir()] == ["fewer"]
    assert read(run / "corpora" / "fewer" / "corpus" / "summary.json")["train"]["rows"] == 24
    table = read(run / "sweep-grid.json")["tables"]["dev.tsv"]
    assert set(table["baselines"]) == {"tiny", "fewer"}
    assert table["rows"]["hot"]["seeds"] == [] and "nan at step" in table["rows"]["hot"]["diverged"]["0"]
    assert "| hot; diverged with seed 0: the loss is nan at step " in (run / "sweep-grid.md").read_text(
        encoding="utf-8"
    )
    tiny = parse_recipe(run / "tiny" / "0" / "recipe.yaml").train
    assert (tiny.strategy, tiny.steps, tiny.lr) == ("lora", 4, TrainSettings().lr)  # and not tiny.yaml's of recipes/
    encoder = [path.parent.parent.name for path in sorted(run.glob("*/0/encoder.safetensors"))]
    assert encoder == ["fewer", "fewer-half", "tiny"]
    assert main(command) == 0
    assert " s of training" not in capfd.readouterr().out  # nothing was left to do, the diverged row included


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("rows: {a: {}, b: {train.lrr: 1}}", "row b: Group 'train' does not accept option 'lrr'"),
        ("rows: {b: {train.strategy: laura}}", 'row b: Parser key "train.strategy"'),
        ("rows: {b: {trane.lr: 1}}", "row b: Option 'trane.lr' is not accepted"),
        ("rows: {b: {train.lr.x: 1}}", "row b: train.lr.x: lr is one setting, not a group of them"),
        ("rows: {b: {train: 3}}", "row b: train is a group of settings; name one of strategy"),
        ("rows: {b: {train: {seed: 3}}}", "row b: train.seed is the sweep's own"),
        ("rows: {b: {corpus.train: '${x}'}}", "row b: ${x} is not filled; give --sweep.set.x VALUE"),
        ("rows: {b: {corpus.train: '$ 5'}}", "row b: $ 5: a placeholder is written ${name}"),
        ("rows: {b: {config: nowhere.yaml}}", "nowhere.yaml: No such file or directory"),
        ("rows: {b: [train.lr]}", "row b: ['train.lr'] is not settings by name"),
        ("rows: {cache: {}}", "row cache: not a name for its folder"),
        ("rows: {a/b: {}}", "row a/b: not a name for its folder"),
        ("rows: {}", "it has no rows"),
        ("rows: [a, b]", "it has no rows"),
        ("row: {a: {}}", "row is none of its keys, which are rows, seeds, settings"),
        ("seeds: 0\nrows: {a: {}}", "seeds is 0; give how many"),
        ("seeds: [a]\nrows: {a: {}}", "seeds is ['a']; give how many"),
        ("rows: {a: {}", "not YAML"),
        ("a", "it holds no settings by name"),
    ],
)
def test_a_wrong_grid_is_refused(grid: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(grid, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        read_grid(path, {}, Recipe())
    said = str(refused.value)
    assert said.startswith(f"--sweep.grid {path}") and says in said and "\n" not in said


def test_a_changed_row_and_missing_files_are_refused(
    finished: Path, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = arguments(tmp_path, inputs, GRID.replace("layers: 2", "layers: 3"))
    changed[changed.index("--run") + 1] = str(finished)
    before = figures(finished)
    assert main(changed) == 1
    assert "train.layers was 2 and is now 3" in capsys.readouterr().err
    assert figures(finished) == before
    assert main(arguments(tmp_path, inputs, "rows: {a: {}, b: {train.lrr: 1}}")) == 1
    assert "row b: Group 'train' does not accept option 'lrr'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # nothing of the row before it has run
    wrong = "rows: {a: {corpus.train: nowhere.tsv}}"
    assert main(arguments(tmp_path, inputs, wrong)) == 1
    assert "nowhere.tsv: there is no such corpus file" in capsys.readouterr().err
    late = "rows: {a: {train.layers: 1}, b: {train.accumulate: 3}}"
    (tmp_path / "late").mkdir()
    assert main(arguments(tmp_path / "late", inputs, late, also=False)) == 1
    assert "row b, seed 0: --train.batch 8 is not a multiple of 3" in capsys.readouterr().err
    assert main([*arguments(tmp_path, inputs), inputs[-1], inputs[-1]]) == 1
    assert "two have the same name" in capsys.readouterr().err
    assert main(["sweep", "--run", str(tmp_path / "run")]) == 1
    assert "--sweep.grid is not given" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_without_room_for_the_frozen_layers_output_does_not_use_another_rows(
    inputs: list[str], finished: Path, tmp_path: Path
) -> None:
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    made = {path.name: size(path) for path in (finished / "cache" / "train").iterdir() if path.is_dir()}
    budget = (made["captions-pad2"] + made["trunk-2-pad2"] / 2) / 1e9
    # In bf16 the frozen layers would round every product, too, where they run in every step.
    grid = f"{{settings: {{train.precision: 'no'}}, rows: {{stored: {{}}, computed: {{cache.budget: {budget}}}}}}}"
    assert main(arguments(tmp_path, inputs, grid, also=False)) == 0
    run = tmp_path / "run"
    assert size(run / "cache" / "train" / "trunk-2-pad2") == made["trunk-2-pad2"]
    assert sorted(path.name for path in (run / "corpora" / "computed" / "cache" / "train").glob("*-pad2*")) == [
        "captions-pad2",
        "trunk-2-pad2.left-out.txt",
    ]
    stored, computed = (load_file(checkpoint.final(run / row / "0" / "checkpoints")) for row in ("stored", "computed"))
    furthest = max(float((stored[name] - computed[name]).abs().max()) for name in stored)
    assert 0 < furthest < 1e-3  # half precision once, and not


def test_the_grids_of_this_repository_name_settings_that_are_there() -> None:
    given = {"general": "general.tsv", "captions": "captions.tsv", "pairs": "20000", "half": "0.17", "budget": "0.5"}
    base = parse_recipe(ROOT / "recipes" / "recommended.yaml")
    grids = {path.stem: read_grid(path, given, base) for path in sorted(GRIDS.glob("*.yaml"))}
    seeds = {"ablations": 1, "corpora": 1, "devices": 3, "pictures": 1, "recipes": 3}
    assert {name: len(grid.seeds) for name, grid in grids.items()} == seeds
    assert [recipe.train.steps for recipe in grids.pop("pictures").rows.values()] == [0, 0, 100, 300, 900, 300]
    for grid in grids.values():
        assert {(recipe.train.steps, recipe.train.batch) for recipe in grid.rows.values()} == {(200, 128)}
    paper = grids["recipes"].rows["paper-lora"].train
    assert paper == TrainSettings(
        strategy="lora", start="student", lr=5e-3, schedule="constant", warmup=0, clip=None, batch=128, steps=200,
        pad_positions=None, contrast=0.0,
    )  # fmt: skip
    mixture = grids["corpora"].rows["mixture"].corpus
    assert mixture.limit == 20000
    assert isinstance(mixture.train, list) and [source.weight for source in mixture.train] == [0.17, 0.17]
    first, *others = grids["ablations"].rows.values()
    for recipe in others:
        changed = {key for key in vars(first.train) if getattr(recipe.train, key) != getattr(first.train, key)}
        assert changed or recipe.corpus != first.corpus
        assert len(changed) <= 1
