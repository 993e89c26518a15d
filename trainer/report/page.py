"""The report as one HTML page that needs no other file: English and Chinese, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from . import charts
from .charts import LineChart
from .score import Evaluation
from .tables import DIRECTIONS, RANKS, by_predictor
from .verdict import LANGUAGES, WORDS, verdict

TEMPLATE = Path(__file__).with_name("report_page.html")
HARD = 15  # captions shown
RETRIEVALS = {"found_all": "retrieval", "found_content": "retrieval_content"}  # by title


def page(evaluation: Evaluation) -> str:
    """The HTML."""
    report, recipe = evaluation.report, evaluation.recipe
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    losses = by_predictor(report, "loss")
    skills = series(evaluation.metrics, "dev_skill")
    return template.render(
        name=evaluation.name,
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
        hard=sorted(evaluation.captions, key=lambda c: (-c.rank, -c.loss))[:HARD],
        curve=loss_chart(evaluation.metrics, report["loss"]["all"]),
        skills=LineChart.from_points({"aligned": skills}) if skills else None,
        corpus=evaluation.corpus or {"dev": {"rows": report["rows"], "rejected": report["corpus"]["rejected"]}},
        recipe=recipe,
        settings=yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False, allow_unicode=True),
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


def loss_chart(metrics: Sequence[Mapping[str, float]], dev_loss: float) -> LineChart | None:
    """The training loss beside the constant's, and the final loss on the dev captions; None without metrics."""
    loss = series(metrics, "loss")
    if not loss:
        return None
    constant = series(metrics, "constant_loss")
    return LineChart.from_points({"aligned": loss, "constant": constant, "dev": [(loss[-1][0], dev_loss)]})
