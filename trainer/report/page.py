"""The report as one page that needs no other file: English and Chinese, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..base.html import STYLE
from . import charts
from .charts import Curves, Histogram, Points
from .evaluation import Evaluation
from .predictors import WORDS, by_predictor
from .retrieval import RANKS, SIDES

TEMPLATE = Path(__file__).with_name("report_page.html")
HARD, EASY = 15, 5
LANGUAGES = ("en", "zh")
RETRIEVALS = {"found_all": "retrieval", "found_content": "retrieval_content"}  # by title


def page(evaluation: Evaluation) -> str:
    """The HTML."""
    report, captions, recipe = evaluation.report, evaluation.captions, evaluation.recipe
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    losses = by_predictor(report, "loss")
    means = {"aligned": report["loss"]["all"], "constant": report["baselines"]["constant"]["all"]}
    return template.render(
        report=report,
        style=Markup(STYLE),
        charts=charts,
        t=text,
        count=lambda n: f"{n:,}",
        three=lambda x: f"{round(x, 3) + 0:.3f}",  # -0.000 would look like a figure
        percent=lambda x: f"{x:.1%}",
        losses=losses,
        largest=max(max(loss.values()) for loss in losses.values()) or 1,
        retrievals={title: by_predictor(report, part) for title, part in RETRIEVALS.items()},
        sides=SIDES,
        ranks=[f"R@{k}" for k in RANKS],
        hard=sorted(captions, key=lambda c: (-c.rank, -c.loss))[:HARD],
        easy=sorted(captions, key=lambda c: (c.rank, c.loss))[:EASY],
        mapped=[captions[i] for i in evaluation.mapped],
        likeness=evaluation.likeness,
        spread=Histogram.of([c.loss for c in captions], means),
        curve=training(evaluation.curves, report["loss"]["all"]),
        skills=Curves.of({"aligned": evaluation.curves["dev/skill"]}) if evaluation.curves.get("dev/skill") else None,
        corpus=evaluation.corpus or {"dev": {"rows": report["rows"], "rejected": report["corpus"]["rejected"]}},
        recipe=recipe,
        settings=yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False, allow_unicode=True),
    )


def text(key: str, inner: str = "", **values: object) -> Markup:
    """A phrase in both languages, of which the page's style shows one. `inner` chooses from a group, such as a zone; a
    word that the group lacks stands as it is."""
    phrase = WORDS[key].get(inner) if inner else WORDS[key]
    span = Markup('<span class="{0}" lang="{0}">{1}</span>')
    if phrase is None:  # a word from outside, which may hold braces
        return Markup("").join(span.format(language, inner) for language in LANGUAGES)
    return Markup("").join(
        span.format(language, Markup.escape(said).format(**values)) for language, said in zip(LANGUAGES, phrase)
    )


def training(logged: Mapping[str, Points], dev_loss: float) -> Curves | None:
    """The loss as training logged it, the constant's, and the dev captions' at the end; None without a log."""
    loss = logged.get("train/loss")
    if not loss:
        return None
    constant = {"constant": logged["train/floor_constant"]} if logged.get("train/floor_constant") else {}
    return Curves.of({"aligned": loss, **constant, "dev": [(loss[-1][0], dev_loss)]})
