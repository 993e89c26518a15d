"""Stage compare-reports, on reports of two real small runs and on changed copies of their captions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import runs
from trainer.__main__ import main
from trainer.report import captions
from trainer.report.captions import Caption
from trainer.report.compare import bootstrap

Printed = pytest.CaptureFixture[str]
FILES = ("report.json", "report.captions.tsv")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of the ridge map alone, and one that trains from it, on one cache."""
    folder = tmp_path_factory.mktemp("pair")
    inputs = runs.inputs(folder)
    trained = runs.run(folder / "trained", inputs)
    cache = ["--cache.dir", str(trained / "cache")]
    return runs.run(folder / "ridge", inputs, "--train.strategy", "ridge", *cache), trained


def changed(run: Path, to: Path, change: Callable[[list[Caption]], list[Caption]], **report: object) -> Path:
    """A copy of a run's report with other captions or keys."""
    to.mkdir()
    captions.write(to / FILES[1], change(captions.read(run / FILES[1])))
    values = json.loads((run / FILES[0]).read_text(encoding="utf-8")) | report
    (to / FILES[0]).write_text(json.dumps(values), encoding="utf-8")
    return to


def test_each_figure_stands_beside_its_baselines(pair: tuple[Path, Path], tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "C.md"
    ridge, trained = pair
    assert main(["compare-reports", str(ridge), str(trained / "report.json"), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out == text + "\n"
    for path, name in ((ridge, ridge), (trained, trained / "report.json")):
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        baselines = (report["baselines"][name] for name in ("ridge", "constant"))
        losses = " / ".join(f"{loss['all']:.3f}" for loss in (report["loss"], *baselines))
        assert f"| {name} | {losses} | {report['loss']['content']:.3f} / " in text
        assert f" | {report['retrieval_content']['zh_to_en']['R@1']:.3f} / " in text


def test_a_difference_beyond_its_interval_is_told_from_chance(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Printed
) -> None:
    def better(rows: list[Caption]) -> list[Caption]:
        """Each a little better in loss, none found; content up and down in turns."""
        return [
            r._replace(loss=r.loss - 0.01, rank=3, loss_content=r.loss_content + (-1) ** n * 0.1)
            for n, r in enumerate(rows)
        ]

    first = changed(pair[1], tmp_path / "first", lambda rows: [row._replace(rank=0) for row in rows])
    other = changed(pair[1], tmp_path / "other", better)
    assert main(["compare-reports", str(first), str(other), str(first)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    loss, content, recall, recall_content = rows[-2].split(" | ")[1:]
    assert loss == "-0.010 (-0.010 to -0.010) better"
    assert content.endswith("within chance")
    assert recall == "-1.000 (-1.000 to -1.000) worse"
    assert recall_content.startswith("+0.000 (+0.000 to +0.000) within chance")
    assert rows[-1].count("within chance") == 4


def test_the_interval_is_the_means_own() -> None:
    generator = np.random.default_rng(5)
    values = np.stack([generator.normal(0.3, 2.0, 900), generator.random(900) < 0.2], axis=1)
    mean, low, high = bootstrap(values)
    error = values.std(axis=0) / 30
    assert mean == pytest.approx(values.mean(axis=0))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error.max())
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error.max())


def test_what_cannot_be_compared_is_refused_in_one_line(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Printed
) -> None:
    ridge = str(pair[0])
    shorter = changed(pair[0], tmp_path / "shorter", lambda rows: rows[1:])
    wider = changed(pair[0], tmp_path / "wider", list, window=77)
    turned = changed(pair[0], tmp_path / "turned", lambda rows: rows[::-1])
    for name, text in (("broken", "{"), ("none", '{"loss": 1}'), ("list", "[1]")):
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    shutil.copy(pair[0] / "report.json", tmp_path / "alone.json")  # without its captions
    compared = {"reports": [ridge], "report.json": [ridge, str(tmp_path)]}
    compared |= {str(other): [ridge, str(other)] for other in (shorter, turned, wider)}
    compared |= {name: [ridge, str(tmp_path / name)] for name in ("broken.json", "none.json", "list.json")}
    for named, arguments in (compared | {"alone.captions.tsv": [str(tmp_path / "alone.json"), ridge]}).items():
        assert main(["compare-reports", *arguments]) == 1
        printed = capsys.readouterr()
        assert named in printed.err and len(printed.err.strip().splitlines()) == 1, printed.err
        assert not printed.out
