"""The report as one HTML page that needs no other file: English and Chinese, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from . import charts
from .captions import Caption
from .charts import LineChart
from .tables import DIRECTIONS, LANGUAGES, RANKS, WORDS, by_predictor, verdict

TEMPLATE = Path(__file__).with_name("report_page.html")
HARD = 15  # captions shown
RETRIEVALS = {"found_all": "retrieval", "found_content": "retrieval_content"}  # by title


def page(
    report: Mapping[str, Any],
    captions: Sequence[Caption],
    name: str = "",
    recipe: Mapping[str, Any] | None = None,
    metrics: Sequence[Mapping[str, float]] = (),
    corpus: Mapping[str, Mapping] | None = None,
) -> str:
    """The HTML of a report and its captions.

    name: of the run or the encoder, the title. metrics: of a run's training. corpus: rows and rejected rows of a run's
    splits.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    losses = by_predictor(report, "loss")
    curves = {key: series(metrics, key) for key in ("loss", "constant_loss", "dev_skill")}
    curve = None
    if curves["loss"]:
        dev = [(curves["loss"][-1][0], report["loss"]["all"])]
        curve = LineChart.from_points({"aligned": curves["loss"], "constant": curves["constant_loss"], "dev": dev})
    return template.render(
        name=name,
        report=report,
        charts=charts,
        t=text,
        verdict=in_both([verdict(report, language) for language in LANGUAGES]),
        count=lambda n: f"{n:,}",
        three=lambda x: f"{round(x, 3) + 0:.3f}",  # without -0.000
        percent=lambda x: f"{x:.1%}",
        losses=losses,
        largest=max(max(loss.values()) for loss in losses.values()) or 1,
        retrievals={title: by_predictor(report, part) for title, part in RETRIEVALS.items()},
        sides=list(DIRECTIONS),
        ranks=[f"R@{k}" for k in RANKS],
        hard=sorted(captions, key=lambda c: (-c.rank, -c.loss))[:HARD],
        curve=curve,
        skills=LineChart.from_points({"aligned": curves["dev_skill"]}) if curves["dev_skill"] else None,
        corpus=corpus or {"dev": {"rows": report["rows"], "rejected": report["corpus"]["rejected"]}},
        recipe=recipe or {},
        settings=yaml.safe_dump(json.loads(json.dumps(recipe or {})), sort_keys=False, allow_unicode=True),
    )


def text(key: str, inner: str = "", **values: object) -> Markup:
    """A phrase in both languages. `inner` chooses from a group; one that is not in the group is shown as it is."""
    phrase = WORDS[key].get(inner) if inner else WORDS[key]
    if phrase is None:  # not a format string: it may contain braces
        return in_both([inner] * len(LANGUAGES))
    return in_both([Markup.escape(words).format(**values) for words in phrase])


def in_both(texts: Sequence[str]) -> Markup:
    """A text in each of LANGUAGES, of which the page's style shows one."""
    span = Markup('<span class="{0}" lang="{0}">{1}</span>')
    return Markup("").join(span.format(language, words) for language, words in zip(LANGUAGES, texts))


def series(metrics: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """(step, value) of a metric where it was logged."""
    return [(row["step"], row[name]) for row in metrics if name in row]
