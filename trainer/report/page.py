"""The report as one HTML page that needs no other file: English and Chinese, light and dark, line charts as SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from .captions import Caption
from .tables import DIRECTIONS, LANGUAGES, RANKS, WORDS, by_predictor, speed, verdict

TEMPLATE = Path(__file__).with_name("report_page.html")
HARD = 15  # captions shown
Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 720, 260  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26  # margins
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
    loss, constant, skill = (
        [(row["step"], row[key]) for row in metrics if key in row] for key in ("loss", "constant_loss", "dev_skill")
    )
    dev = [(loss[-1][0], report["loss"]["all"])] if loss else []
    return template.render(
        name=name,
        report=report,
        size=(WIDTH, HEIGHT, LEFT, RIGHT),
        t=text,
        verdict=in_both([verdict(report, language) for language in LANGUAGES]),
        speed=in_both([speed(report, language) for language in LANGUAGES]) if "translator" in report else "",
        count=lambda n: f"{n:,}",
        three=lambda x: f"{round(x, 3) + 0:.3f}",  # without -0.000
        percent=lambda x: f"{x:.1%}",
        losses=losses,
        largest=max(max(loss.values()) for loss in losses.values()) or 1,
        retrievals={title: by_predictor(report, part) for title, part in RETRIEVALS.items()},
        sides=list(DIRECTIONS),
        ranks=[f"R@{k}" for k in RANKS],
        hard=sorted(captions, key=lambda c: (-c.rank, -c.loss))[:HARD],
        curve=chart({"aligned": loss, "constant": constant, "dev": dev}) if loss else None,
        skills=chart({"aligned": skill}) if skill else None,
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


class Axis(NamedTuple):
    """Values from `low` to `high`, drawn from coordinate `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values from low to high."""
        power = 10 ** math.floor(math.log10(self.high - self.low))
        step = min((power * m for m in (0.1, 0.2, 0.5, 1, 2)), key=lambda size: abs(5 * size - self.high + self.low))
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def chart(series: Mapping[str, Points]) -> tuple[Axis, Axis, dict[str, Points]]:
    """The horizontal axis, the vertical one, which includes 0, and the coordinates of points by CSS class."""
    series = {name: averaged(points) for name, points in series.items()}
    xs, ys = zip(*(point for points in series.values() for point in points))
    x = Axis(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
    y = Axis(min(0.0, *ys), max(0.0, *ys) * 1.05 or 1.0, HEIGHT - BOTTOM, TOP)
    return x, y, {name: [(x.at(a), y.at(b)) for a, b in points] for name, points in series.items()}


def averaged(points: Points, most: int = 240) -> Points:
    """At most so many points: the means of groups of neighbours, each at its group's last x."""
    size = math.ceil(len(points) / most)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], fmean(y for _, y in group)) for group in groups]
