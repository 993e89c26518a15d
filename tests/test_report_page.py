"""The page of a report, the table of its captions, and the metrics of training that it shows, of a real small run."""

from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from tests import runs
from trainer.__main__ import main
from trainer.base.recipe import SettingsError
from trainer.corpus.stage import read_pairs
from trainer.report import captions
from trainer.report.charts import Axis, Histogram, LineChart, averaged
from trainer.report.page import LANGUAGES, WORDS, page
from trainer.report.score import Evaluation
from trainer.report.tables import LABELS
from trainer.training import metrics

WRITTEN = ("report.json", "report.md", "report.html", "report.captions.tsv")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return runs.inputs(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def finished(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a page can show: curves and skill on the way."""
    return runs.run(tmp_path_factory.mktemp("finished") / "run", given, "--train.dev_every", "4")


def read(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def test_the_page_has_every_part_in_both_languages_and_needs_nothing_else(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == ["curve", "zones", "found", "hard", "spread", "heat", "corpus", "recipe", "how"]
    assert not re.search(r"https?:|src=|href=|url\(|@import", text)
    assert str(finished.parent) not in text
    spans = {language: text.count(f'<span class="{language}" lang="{language}">') for language in LANGUAGES}
    assert spans["en"] == spans["zh"] > 60
    report = read(finished)
    figures = [report["loss"]["content"], report["baselines"]["ridge"]["end"]]
    figures += [report["retrieval_content"]["zh_to_en"]["R@5"], report["norm_ratio"]]
    assert all(f"{figure:.3f}" in text for figure in figures)
    assert text.count("<title>") == 1 + 48 + min(20, report["rows"]) ** 2  # its own, the histogram's, the heat map's
    assert len(re.findall(r'<polyline class="aligned"', text)) == 2  # the loss, and the skill on the dev captions


def test_an_artifact_gets_the_page_without_what_only_a_run_knows(
    finished: Path, given: dict[str, str], tmp_path: Path
) -> None:
    flags = ["--teacher.model", given["--teacher.model"], "--corpus", given["--corpus.dev"]]
    artifact = str(finished / "encoder.safetensors")
    assert main(["evaluate", "--artifact", artifact, *flags, "--report", str(tmp_path / "R.json")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"R.json", "R.md", "R.html", "R.captions.tsv"}
    text = (tmp_path / "R.html").read_text(encoding="utf-8")
    assert 'id="curve"' not in text and 'id="recipe"' in text
    own = captions.read(finished / "report.captions.tsv")
    for one, other in zip(captions.read(tmp_path / "R.captions.tsv"), own, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=2e-6)
        assert dataclasses.replace(one, loss=0, loss_content=0) == dataclasses.replace(other, loss=0, loss_content=0)


def test_the_captions_add_up_to_the_report(finished: Path) -> None:
    report, rows = read(finished), captions.read(finished / "report.captions.tsv")
    pairs = read_pairs(finished / "corpus" / "dev.tsv")
    assert [(row.zh, row.en) for row in rows] == [(pair.zh, pair.en) for pair in pairs]
    assert sum(row.loss for row in rows) / len(rows) == pytest.approx(report["loss"]["all"], abs=2e-6)
    for rank, of in (("rank", ""), ("rank_content", "_content")):
        first = sum(getattr(row, rank) == 0 for row in rows) / len(rows)
        assert first == pytest.approx(report[f"retrieval{of}"]["zh_to_en"]["R@1"])
    english = {pair.en for pair in pairs}
    assert all(row.nearest in english - {row.en} for row in rows)


def test_a_second_evaluation_leaves_the_same_bytes(finished: Path) -> None:
    before = {name: (finished / name).read_bytes() for name in WRITTEN}
    assert main(["evaluate", "--run", str(finished)]) == 0
    assert {name: (finished / name).read_bytes() for name in WRITTEN} == before
    assert not list(finished.rglob("*.tmp")) and not list(finished.glob(".report-*"))


def test_metrics_of_a_resumed_run_continue_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / metrics.FILE
    assert metrics.read(path) == []
    for step in (10, 20, 30):
        metrics.append(path, step, {"loss": step / 7})
    path.write_bytes(path.read_bytes()[:-5])  # killed while it was written
    metrics.truncate(path, 10)
    metrics.append(path, 20, {"loss": 0.5})
    assert metrics.read(path) == [{"step": 10, "loss": 10 / 7}, {"step": 20, "loss": 0.5}]


def test_a_caption_is_text_and_never_markup(finished: Path) -> None:
    rows = [dataclasses.replace(row, zh="<b>&", en='"<i>') for row in captions.read(finished / "report.captions.tsv")]
    text = page(Evaluation(read(finished), rows, [0, 1], [[1.0, -0.2], [0.1, 0.9]]))
    assert "<b>&" not in text and "<i>" not in text
    assert "&lt;b&gt;&amp;" in text and '-0.20: <b>& / "<i>' in unescape(text)
    assert 'id="recipe"' not in text and 'class="cold"' in text


def test_every_phrase_stands_in_both_languages_with_the_same_places() -> None:
    phrases = [p for value in WORDS.values() for p in (value.values() if isinstance(value, dict) else [value])]
    assert len(phrases) > 70
    for said in phrases:
        assert len(said) == len(LANGUAGES) and all(said)
        places = [sorted(name for _, name, _, _ in Formatter().parse(text) if name) for text in said]
        assert places[0] == places[1], said


def test_reasons_for_leaving_a_row_out_are_translated() -> None:
    folder = Path(captions.__file__).parent.parent / "corpus"
    source = "".join((folder / name).read_text(encoding="ascii") for name in ("pairs.py", "clean.py"))
    assert set(WORDS["reason"]) >= set(re.findall(r'"((?:Chinese|English|no|near|also|mostly) [A-Za-z ]+)"', source))


def test_the_page_names_the_predictors_as_the_tables_do() -> None:
    assert {name: english for name, (english, _) in WORDS["predictor"].items()} == LABELS


def test_charts_hold_what_they_are_given() -> None:
    assert Axis(0, 1.05, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis(-0.2, 0.3, 0, 100).ticks() == pytest.approx([-0.2, -0.1, 0, 0.1, 0.2, 0.3])
    rising = [(float(step), float(step)) for step in range(5000)]
    assert len(averaged(rising)) <= 240 and averaged(rising[:30]) == rising[:30]
    assert averaged(rising)[0] == (20.0, 10.0) and averaged(rising)[-1][0] == 4999
    chart = LineChart.from_points({"aligned": [(0, -0.5), (10, 0.5)], "dev": [(10, 0.4)]})
    assert [name for name, _ in chart.lines] == ["aligned", "dev"]
    assert all(0 < y < 260 for _, points in chart.lines for _, y in points)
    bars = Histogram.from_values([0.0, 0.5, 1.0, 1.0], {"constant": 0.7}).bars
    assert (len(bars), sum(rows for *_, rows in bars), bars[0][0], bars[0][2]) == (48, 4, 0, 1)
    assert bars[-1][2] == 2 and bars[-1][1] == pytest.approx(1.02)


@pytest.mark.parametrize("text", [None, "", "zh\ten\n", "\t".join(captions.COLUMNS) + "\nonly\n"])
def test_a_malformed_table_is_refused(tmp_path: Path, text: str | None) -> None:
    path = captions.path_beside(tmp_path / "R.json")
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"R\.captions\.tsv"):
        captions.read(path)
