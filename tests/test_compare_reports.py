"""Stage compare-reports, on reports of two real small runs and on changed copies of their captions."""

from __future__ import annotations

import dataclasses
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
from trainer.report.compare import RESAMPLES, bootstrap

Printed = pytest.CaptureFixture[str]
FILES = ("report.json", "report.captions.tsv")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of the closed form, and one that descends from there, on one cache."""
    folder = tmp_path_factory.mktemp("pair")
    given = runs.inputs(folder)
    trained = runs.run(folder / "trained", given)
    cache = ["--cache.dir", str(trained / "cache")]
    return runs.run(folder / "ridge", given, "--train.strategy", "ridge", *cache), trained


def changed(run: Path, to: Path, change: Callable[[list[Caption]], list[Caption]], **report: object) -> Path:
    """A copy of a run's report with other captions or keys."""
    to.mkdir()
    for name in FILES:
        shutil.copy(run / name, to)
    captions.write(to / FILES[1], change(captions.read(to / FILES[1])))
    values = json.loads((to / FILES[0]).read_text(encoding="utf-8")) | report
    (to / FILES[0]).write_text(json.dumps(values), encoding="utf-8")
    return to


def as_they_are(rows: list[Caption]) -> list[Caption]:
    return rows


def test_runs_lie_side_by_side_and_each_baseline_once(pair: tuple[Path, Path], tmp_path: Path, capsys: Printed) -> None:
    ridge, trained = pair
    for name in ("C.md", "C.html"):
        assert main(["compare-reports", str(ridge), str(trained / "report.json"), "--out", str(tmp_path / name)]) == 0
    shown = capsys.readouterr().out
    text = (tmp_path / "C.md").read_text(encoding="utf-8")
    assert shown == 2 * (text + "\n")  # drawn with one seed: the same each time
    for path in (ridge, trained):
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        name = str(path) if path == ridge else str(path / "report.json")
        zones = [f"{report['loss'][zone]:.3f}" for zone in ("all", "position0", "content", "end", "pad")]
        assert f"| {name} | {' | '.join(zones)} | {report['skill']:.3f} | {report['norm_ratio']:.3f} |" in text
        assert f" | {report['retrieval_content']['en_to_zh']['R@1']:.3f} |\n" in text
    for label in ("ridge map, no gradient", "nearest training caption", "constant per position", "untrained student"):
        assert text.count(f"| {label} |") == 2  # losses, retrieval
    page = (tmp_path / "C.html").read_text(encoding="utf-8")
    assert page.count("<tr>") == 3 + 2 * 6 + 1 and "95 % interval" in page


def test_a_difference_beyond_its_interval_is_told_from_chance(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Printed
) -> None:
    def better(rows: list[Caption]) -> list[Caption]:
        """Each a little better in loss, all missed; content up and down in turns."""
        return [
            dataclasses.replace(r, loss=r.loss - 0.01, rank=3, loss_content=r.loss_content + (-1) ** n * 0.1)
            for n, r in enumerate(rows)
        ]

    def found(rows: list[Caption]) -> list[Caption]:
        return [dataclasses.replace(row, rank=0) for row in rows]

    first = changed(pair[1], tmp_path / "first", found)
    other = changed(pair[1], tmp_path / "other", better)
    assert main(["compare-reports", str(first), str(other), str(first)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    loss, content, found_first, found_content = rows[-2].split(" | ")[1:]
    assert loss == "-0.010 (-0.010 to -0.010) better"
    assert content.endswith("within chance")
    assert found_first == "-1.000 (-1.000 to -1.000) worse"
    assert found_content.startswith("+0.000 (+0.000 to +0.000) within chance")
    assert rows[-1].count("within chance") == 4


def test_baselines_that_differ_are_shown_with_their_owner(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Printed
) -> None:
    floors = json.loads((pair[0] / "report.json").read_text(encoding="utf-8"))["baselines"]
    other = changed(pair[0], tmp_path / "other", as_they_are, baselines=floors | {"ridge": floors["nearest"]})
    assert main(["compare-reports", str(pair[0]), str(other)]) == 0
    text = capsys.readouterr().out
    assert f"| ridge map, no gradient ({pair[0]}) |" in text and f"| ridge map, no gradient ({other}) |" in text
    assert "| constant per position |" in text


def test_the_interval_is_the_means_own() -> None:
    generator = np.random.default_rng(5)
    values = np.stack([generator.normal(0.3, 2.0, 900), generator.random(900) < 0.2], axis=1)
    mean, low, high = bootstrap(values)
    error = values.std(axis=0) / 30
    assert mean == pytest.approx(values.mean(axis=0))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error.max())
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error.max())
    assert RESAMPLES == 2000


def test_what_cannot_be_compared_is_refused_in_one_line(
    pair: tuple[Path, Path], tmp_path: Path, capsys: Printed
) -> None:
    ridge = str(pair[0])
    shorter = changed(pair[0], tmp_path / "shorter", lambda rows: rows[1:])
    wider = changed(pair[0], tmp_path / "wider", as_they_are, window=77)
    turned = changed(pair[0], tmp_path / "turned", lambda rows: rows[::-1])
    broken, none = tmp_path / "broken.json", tmp_path / "none.json"
    broken.write_text("{", encoding="utf-8")
    none.write_text('{"loss": 1}', encoding="utf-8")
    alone = tmp_path / "alone.json"  # without its captions
    shutil.copy(pair[0] / "report.json", alone)
    for arguments, names in (
        ([ridge], "reports"),
        ([ridge, str(shorter)], str(shorter)),
        ([ridge, str(turned)], str(turned)),
        ([ridge, str(wider)], str(wider)),
        ([ridge, str(tmp_path / "nowhere")], "nowhere"),
        ([ridge, str(tmp_path)], "report.json"),
        ([ridge, str(broken)], "broken.json"),
        ([ridge, str(none)], "none.json"),
        ([str(alone), ridge], "alone.captions.tsv"),
    ):
        assert main(["compare-reports", *arguments]) == 1
        printed = capsys.readouterr()
        assert names in printed.err and len(printed.err.strip().splitlines()) == 1, printed.err
        assert not printed.out
