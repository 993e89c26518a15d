"""A sweep's runs as tables: a row's mean over its seeds and how far those lie apart, and the floors beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..base.html import markdown_table
from ..report.predictors import LABELS, by_predictor

SKILL = "skill"
DIGITS = {"seconds": 0}  # of all others 3
Figures = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """One run: its reports by the scored pairs' name, or why it has none."""

    row: str
    seed: int
    pairs: str  # its own scored pairs, the dev pairs
    home: str  # where its training pairs are cached: rows that share them have the same floors
    reports: dict[str, dict]
    seconds: float
    diverged: str | None = None


def figures(report: dict) -> dict[str, Figures]:
    """A report's figures by predictor and column: of the encoder, which is `aligned`, and of its floors."""
    losses, recalls, content = (by_predictor(report, part) for part in ("loss", "retrieval", "retrieval_content"))
    constant = losses["constant"]["all"]
    return {
        name: {
            **{"loss" if zone == "all" else zone: value for zone, value in loss.items()},
            SKILL: 1 - loss["all"] / constant,
            "R@1 zh to en": recalls[name]["zh_to_en"]["R@1"],
            "R@1 en to zh": recalls[name]["en_to_zh"]["R@1"],
            "R@1 zh to en, content": content[name]["zh_to_en"]["R@1"],
        }
        for name, loss in losses.items()
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All tables as plain JSON values: by scored pairs, the rows, and the floors by the first row that has them.

    `spread` is the largest value over the seeds minus the smallest. `against_first` is the skill's difference from the
    first row's, `beyond` whether that is more than the spread of either row; None with a single seed, which has none.
    """
    names = dict.fromkeys(name for outcome in outcomes for name in (outcome.pairs, *outcome.reports))
    return {name: _of_pairs(name, outcomes) for name in names}


def _of_pairs(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    floors: dict[str, dict[str, Figures]] = {}
    homes = set()
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.row == row]
        scored = [outcome for outcome in own if name in outcome.reports]
        diverged = {outcome.seed: outcome.diverged for outcome in own if outcome.diverged}
        if scored or diverged:
            values = [_figures_of_encoder(outcome, name) for outcome in scored]
            columns = {column: [v[column] for v in values] for column in (values[0] if values else ())}
            rows[row] = {
                "seeds": [outcome.seed for outcome in scored],
                "mean": {column: fmean(some) for column, some in columns.items()},
                "spread": {column: max(some) - min(some) for column, some in columns.items()},
                "diverged": diverged,
            }
        if scored and scored[0].home not in homes:
            homes.add(scored[0].home)
            floors[row] = figures(scored[0].reports[name])
            del floors[row]["aligned"]
    _compare(rows)
    pairs = next((outcome.reports[name]["rows"] for outcome in outcomes if name in outcome.reports), 0)
    return {"pairs": pairs, "rows": rows, "baselines": floors}


def _figures_of_encoder(outcome: Outcome, name: str) -> Figures:
    report = outcome.reports[name]
    seconds = {"seconds": outcome.seconds} if name == outcome.pairs else {}
    return {**figures(report)["aligned"], "norm ratio": report["norm_ratio"], **seconds}


def _compare(rows: dict[str, dict[str, Any]]) -> None:
    first, *others = rows.values()
    for row in others:
        if not first["seeds"] or not row["seeds"]:
            continue
        difference = row["mean"][SKILL] - first["mean"][SKILL]
        alone = len(first["seeds"]) == 1 or len(row["seeds"]) == 1
        spread = max(first["spread"][SKILL], row["spread"][SKILL])
        row["against_first"] = difference
        row["beyond"] = None if alone else abs(difference) > spread


def to_markdown(title: str, tables: dict[str, Any], unfinished: Sequence[str]) -> str:
    """The tables as a person reads them."""
    lines = [f"# {title}", ""]
    if unfinished:
        lines += [f"Not finished yet: {', '.join(unfinished)}.", ""]
    lines += [
        "Mean over the seeds, and in brackets the largest value minus the smallest. Loss is mean cosine loss, skill is "
        "1 - loss / constant. Rows in italics are the floors, which need no gradient.",
        "",
    ]
    for name, table in tables.items():
        lines += [f"## {name}, {table['pairs']} pairs", "", _table(table), ""]
    return "\n".join(lines)


def _table(table: dict[str, Any]) -> str:
    rows, floors = table["rows"], table["baselines"]
    first = next(iter(rows))
    several = len(rows) > 1
    columns = list(dict.fromkeys(column for row in rows.values() for column in row["mean"]))
    lines = []
    for name, row in rows.items():
        cells = [_cell(column, row) for column in columns]
        lines.append([_label(name, row), str(len(row["seeds"])), *cells, *([_against(row)] if several else [])])
    for row_of, made in floors.items():
        for name, values in made.items():
            label = LABELS[name] if len(floors) == 1 else f"{LABELS[name]} ({row_of})"
            cells = [_number(column, values[column]) if column in values else "" for column in columns]
            lines.append([f"*{label}*", "", *cells, *([""] if several else [])])
    text = markdown_table(lines, ["", "seeds", *columns, *([f"skill against {first}"] if several else [])])
    if any(row.get("beyond") is not None for row in rows.values()):
        text += f"\n\nIn bold: further from {first}'s skill than either row's seeds lie apart."
    return text


def _label(name: str, row: dict[str, Any]) -> str:
    seeds: dict[str, list[str]] = {}
    for seed, why in row["diverged"].items():
        seeds.setdefault(why, []).append(str(seed))
    return "; ".join([name, *(f"diverged with seed {', '.join(some)}: {why}" for why, some in seeds.items())])


def _cell(column: str, row: dict[str, Any]) -> str:
    if column not in row["mean"]:
        return ""
    mean = _number(column, row["mean"][column])
    return mean if len(row["seeds"]) == 1 else f"{mean} ({_number(column, row['spread'][column])})"


def _number(column: str, value: float) -> str:
    digits = DIGITS.get(column, 3)
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.000


def _against(row: dict[str, Any]) -> str:
    if "against_first" not in row:
        return ""
    text = f"{row['against_first']:+.3f}"
    return f"**{text}**" if row["beyond"] else text
