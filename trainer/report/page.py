"""The report as one page that needs no other file: English and Chinese, light and dark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..base import STYLE
from ..training import ZONES
from .captions import Caption
from .charts import Points, heat, lines, spread
from .markdown import ROWS
from .retrieval import RANKS

HARD, EASY = 15, 5
LANGUAGES = ("en", "zh")
COLUMNS = ("col_zh", "col_en", "col_nearest", "col_rank", "col_loss")


@dataclass(frozen=True)
class Sources:
    """What the page shows beside the report and its captions. Curves and splits are empty where there is no run."""

    mapped: Sequence[int]  # captions of the heat map
    likeness: Sequence[Sequence[float]]  # of these, zh by en
    recipe: Mapping[str, Any]
    curves: Mapping[str, Points]
    corpus: Mapping[str, dict]  # by split: rows, rejected


def page(report: dict, captions: Sequence[Caption], sources: Sources) -> str:
    """The HTML."""
    templates = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    shown = [captions[i] for i in sources.mapped]
    means = {"aligned": report["loss"]["all"], "constant": report["floors"]["constant"]["all"]}
    hardest = sorted(captions, key=lambda c: (-c.rank, -c.loss))
    return templates.from_string(
        _beside("report_page.html")
    ).render(
        report=report,
        style=Markup(STYLE),
        t=text,
        count=lambda n: f"{n:,}",
        three=lambda x: f"{round(x, 3) + 0:.3f}",  # -0.000 would look like a figure
        percent=lambda x: f"{x:.1%}",
        listed=listed,
        zones=[zone for zone in ZONES if zone in report["loss"]],
        losses=losses,
        highest=lambda predictors: max(max(zones.values()) for zones in predictors.values()) or 1,
        retrievals=retrievals(report),
        ranks=[f"R@{k}" for k in RANKS],
        hard=hardest[:HARD],
        easy=sorted(captions, key=lambda c: (c.rank, c.loss))[:EASY],
        mapped=shown,
        heat=Markup(heat(sources.likeness, [c.zh for c in shown], [c.en for c in shown])),
        spread=Markup(spread([c.loss for c in captions], means)),
        curve=Markup(training(sources.curves, report["loss"]["all"])),
        skills=Markup(skills(sources.curves)),
        corpus=sources.corpus or {"dev": {"rows": report["rows"], "rejected": report["corpus"]["rejected"]}},
        recipe=sources.recipe,
        settings=yaml.safe_dump(json.loads(json.dumps(sources.recipe)), sort_keys=False, allow_unicode=True),
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


def losses(report: dict) -> dict[str, dict[str, float]]:
    """Losses by predictor and zone, the encoder's first."""
    found = {"aligned": report["loss"], **report["floors"]}
    return {name: found[name] for name in ROWS if found.get(name)}


def retrievals(report: dict) -> list[tuple[str, dict[str, dict]]]:
    """Title and recalls by predictor: from the whole caption, and from the content positions."""
    tables = []
    for title, key in (("found_all", "retrieval"), ("found_content", "retrieval_content")):
        found = {"aligned": report[key], **report[f"floors_{key}"]}
        tables.append((title, {name: found[name] for name in ROWS if found.get(name)}))
    return tables


def listed(captions: Sequence[Caption]) -> Markup:
    """A table of captions, each beside its nearest other one."""
    head = Markup("").join(Markup("<th>{}</th>").format(text(name)) for name in COLUMNS)
    texts, figure = '<td lang="zh">{}</td><td lang="en">{}</td><td lang="en">{}</td>', '<td class="n">{}</td>'
    row = Markup(f"<tr>{texts}{2 * figure}</tr>\n")
    rows = Markup("").join(row.format(c.zh, c.en, c.nearest, f"{c.rank:,}", f"{c.loss:.3f}") for c in captions)
    return Markup('<div class="wide"><table><tr>{}</tr>\n{}</table></div>').format(head, rows)


def training(curves: Mapping[str, Points], dev_loss: float) -> str:
    """The loss as training logged it, the constant's, and the dev captions' at the end; empty without a log."""
    loss = curves.get("train/loss")
    if not loss:
        return ""
    series = {"aligned": loss, "constant": curves.get("train/floor_constant", ()), "dev": [(loss[-1][0], dev_loss)]}
    return lines({name: points for name, points in series.items() if points})


def skills(curves: Mapping[str, Points]) -> str:
    """Skill on dev captions while training, where it was measured."""
    points = curves.get("dev/skill")
    return lines({"aligned": points}) if points else ""


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


WORDS: dict[str, Any] = json.loads(_beside("report_words.json"))
