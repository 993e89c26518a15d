"""The page of a report, the table of its captions, and the metrics of training that it shows, of a real small run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from tests import runs, translators
from tests.small import captions as small_captions
from trainer.__main__ import main
from trainer.base.recipe import SettingsError
from trainer.corpus.pairs import read_pairs
from trainer.report import captions
from trainer.report.captions import Caption
from trainer.report.page import Axis, averaged, chart, page
from trainer.report.tables import LABELS, LANGUAGES, WORDS, speed, verdict
from trainer.training import metrics


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return runs.inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a page can show."""
    return runs.run(tmp_path_factory.mktemp("finished") / "my run", inputs, "--train.dev_every", "4")


def read(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def test_the_page_has_every_part_in_both_languages_and_needs_nothing_else(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == ["curve", "zones", "found", "hard", "corpus", "recipe", "how"]
    assert not re.search(r"https?:|src=|href=|url\(|@import", text)
    assert str(finished.parent) not in text and "<title>my run</title>" in text
    spans = {language: text.count(f'<span class="{language}" lang="{language}">') for language in LANGUAGES}
    assert spans["en"] == spans["zh"] > 60 and "&lt;" not in text
    report = read(finished)
    figures = [report["loss"]["content"], report["baselines"]["ridge"]["end"]]
    figures += [report["retrieval_content"]["zh_to_en"]["R@5"], report["norm_ratio"]]
    assert all(f"{figure:.3f}" in text for figure in figures)
    assert len(re.findall(r'<polyline class="aligned"', text)) == 2  # the loss, and the skill on the dev captions


def test_the_verdict_follows_the_baselines(finished: Path) -> None:
    report = read(finished)
    report["rows"], report["retrieval"]["zh_to_en"]["R@1"] = 1500, 0.8
    report["baselines"] = {"ridge": {"all": 0.4}, "constant": {"all": 0.5}}
    cases = {"better": (0.2, "unfreeze"), "ridge": (0.4, "unfreeze"), "untrained": (0.4, "ridge")}
    for outcome, (loss, strategy) in (cases | {"constant": (0.6, "unfreeze")}).items():
        own = report | {"loss": {"all": loss}, "strategy": strategy}
        for language, words in zip(LANGUAGES, WORDS["verdict"][outcome]):
            sentence = verdict(own, language)
            assert sentence.startswith(words.partition("{")[0]) and "1,200" in sentence and "1,500" in sentence
    sentence = verdict(read(finished))
    assert sentence in (finished / "report.md").read_text(encoding="utf-8")
    assert sentence.replace("'", "&#39;") in (finished / "report.html").read_text(encoding="utf-8")


def test_an_artifact_gets_the_page_without_what_only_a_run_knows(
    finished: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    flags = ["--teacher.model", inputs["--teacher.model"], "--corpus", inputs["--corpus.dev"]]
    artifact = str(finished / "encoder.safetensors")
    assert main(["evaluate", "--artifact", artifact, *flags, "--report", str(tmp_path / "R.json")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"R.json", "R.md", "R.html", "R.captions.tsv"}
    text = (tmp_path / "R.html").read_text(encoding="utf-8")
    assert 'id="curve"' not in text and 'id="recipe"' in text and "<title>encoder</title>" in text
    own = captions.read(finished / "report.captions.tsv")
    for one, other in zip(captions.read(tmp_path / "R.captions.tsv"), own, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=2e-6)
        assert one._replace(loss=0, loss_content=0) == other._replace(loss=0, loss_content=0)


def test_a_translator_is_one_more_row(finished: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    """Where its English is the captions' own, its loss is zero; elsewhere it is that of other English."""
    model = translators.marian(tmp_path / "zh-en", languages=("zho", "eng"), steps=150)
    artifact, teacher = str(finished / "encoder.safetensors"), inputs["--teacher.model"]
    losses = {}
    for name, pairs in (("learnt", small_captions()[: translators.LEARNT]), ("new", small_captions()[-16:])):
        corpus, report = tmp_path / f"{name}.tsv", tmp_path / f"{name}.json"
        corpus.write_text("zh\ten\n" + "".join(f"{zh}\t{en}\n" for zh, en in pairs), encoding="utf-8")
        flags = ["--teacher.model", teacher, "--corpus", str(corpus), "--report", str(report)]
        assert main(["evaluate", "--artifact", artifact, *flags, "--translator", str(model)]) == 0
        result = json.loads(report.read_text(encoding="utf-8"))
        losses[name] = result["baselines"]["translator"]
        assert result["translator"]["model"] == "zh-en" and result["translator"]["translator"] > 0
        for ending in (".md", ".html"):
            text = report.with_suffix(ending).read_text(encoding="utf-8")
            assert speed(result) in text and LABELS["translator"] in text
    assert max(losses["learnt"].values()) < 1e-6 < losses["new"]["content"]
    dev = Path(inputs["--corpus.dev"])
    lines = dev.read_text(encoding="utf-8").splitlines(keepends=True)
    dev.write_text("".join(lines[:-3]), encoding="utf-8")  # the run's own pairs are scored, whatever became of the file
    assert main(["evaluate", "--run", str(finished), "--translator", str(model)]) == 0
    dev.write_text("".join(lines), encoding="utf-8")
    assert read(finished)["baselines"]["translator"]["content"] > 0
    assert main(["evaluate", "--run", str(finished), "--translator", teacher]) == 1
    assert main(["evaluate", "--run", str(finished)]) == 0  # as the other tests find it


def test_the_captions_add_up_to_the_report(finished: Path) -> None:
    report, rows = read(finished), captions.read(finished / "report.captions.tsv")
    pairs = read_pairs(finished / "corpus" / "dev.tsv")
    assert [(row.zh, row.en) for row in rows] == [(pair.zh, pair.en) for pair in pairs]
    assert sum(row.loss for row in rows) / len(rows) == pytest.approx(report["loss"]["all"], abs=2e-6)
    for rank, part in (("rank", "retrieval"), ("rank_content", "retrieval_content")):
        first = sum(getattr(row, rank) == 0 for row in rows) / len(rows)
        assert first == pytest.approx(report[part]["zh_to_en"]["R@1"])
    english = {pair.en for pair in pairs}
    assert all(row.nearest in english - {row.en} for row in rows)


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
    rows = [row._replace(zh="<b>&", en='"<i>') for row in captions.read(finished / "report.captions.tsv")]
    text = page(read(finished), rows)
    assert "<b>&" not in text and "<i>" not in text and "&lt;b&gt;&amp;" in text
    assert 'id="recipe"' not in text


def test_every_phrase_stands_in_both_languages_with_the_same_placeholders() -> None:
    phrases = [p for value in WORDS.values() for p in (value.values() if isinstance(value, dict) else [value])]
    assert len(phrases) > 70
    for phrase in phrases:
        assert len(phrase) == len(LANGUAGES) and all(phrase)
        names = [sorted(name for _, name, _, _ in Formatter().parse(text) if name) for text in phrase]
        assert names[0] == names[1], phrase
    assert {name: english for name, (english, _) in WORDS["predictor"].items()} == LABELS
    folder = Path(captions.__file__).parent.parent / "corpus"
    source = "".join((folder / name).read_text(encoding="ascii") for name in ("pairs.py", "clean.py"))
    assert set(WORDS["reason"]) >= set(re.findall(r'"((?:Chinese|English|no|near|also|mostly) [A-Za-z ]+)"', source))


def test_charts_hold_what_they_are_given() -> None:
    assert Axis(0, 1.05, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis(-0.2, 0.3, 0, 100).ticks() == pytest.approx([-0.2, -0.1, 0, 0.1, 0.2, 0.3])
    rising = [(float(step), float(step)) for step in range(5000)]
    assert len(averaged(rising)) <= 240 and averaged(rising[:30]) == rising[:30]
    assert averaged(rising)[0] == (20.0, 10.0) and averaged(rising)[-1][0] == 4999
    _, _, lines = chart({"aligned": [(0, -0.5), (10, 0.5)], "dev": [(10, 0.4)]})
    assert list(lines) == ["aligned", "dev"] and all(0 < y < 260 for points in lines.values() for _, y in points)


@pytest.mark.parametrize("text", [None, "", "zh\ten\n", "\t".join(Caption._fields) + "\nonly\n"])
def test_a_malformed_table_is_refused(tmp_path: Path, text: str | None) -> None:
    path = captions.path_beside(tmp_path / "R.json")
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"R\.captions\.tsv"):
        captions.read(path)
