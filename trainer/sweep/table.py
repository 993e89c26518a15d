"""A sweep's runs as a table: each row's mean over its seeds, their spread, and the baselines below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..report.tables import LABELS, by_predictor, markdown_table

SKILL, SECONDS = "skill", "seconds"
Figures = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """One run: its report and the seconds of its training (None where it was resumed), or why it diverged. `home`: the
    run whose training pairs it shares; rows of one home have the same baselines."""

    row: str
    seed: int
    home: str
    report: dict[str, Any] | None = None
    seconds: float | None = None
    diverged: str = ""


def figures(report: dict[str, Any]) -> dict[str, Figures]:
    """A report's figures by column, for the encoder (`aligned`) and each baseline."""
    losses, recalls, content = (by_predictor(report, part) for part in ("loss", "retrieval", "retrieval_content"))
    return {
        name: {
            **{"loss" if zone == "all" else zone: value for zone, value in loss.items()},
            SKILL: 1 - loss["all"] / losses["constant"]["all"],
            "R@1 zh to en": recalls[name]["zh_to_en"]["R@1"],
            "R@1 en to zh": recalls[name]["en_to_zh"]["R@1"],
            "R@1 zh to en, content": content[name]["zh_to_en"]["R@1"],
        }
        for name, loss in losses.items()
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The table as JSON values: rows, and baselines by the first row that has them.

    `spread` is the largest value over the seeds minus the smallest.
    """
    rows: dict[str, Any] = {}
    baselines: dict[str, Any] = {}
    homes = set()
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.row == row]
        scored = [run_figures(outcome) for outcome in own if outcome.report]
        columns = {name: [each[name] for each in scored if name in each] for each in scored for name in each}
        rows[row] = {
            "seeds": [outcome.seed for outcome in own if outcome.report],
            "mean": {name: fmean(values) for name, values in columns.items()},
            "spread": {name: max(values) - min(values) for name, values in columns.items()},
            "diverged": {outcome.seed: outcome.diverged for outcome in own if outcome.diverged},
        }
        report = next((outcome.report for outcome in own if outcome.report), None)
        if report and own[0].home not in homes:
            homes.add(own[0].home)
            baselines[row] = {name: values for name, values in figures(report).items() if name != "aligned"}
    pairs = next((outcome.report["rows"] for outcome in outcomes if outcome.report), 0)
    return {"pairs": pairs, "rows": rows, "baselines": baselines}


def run_figures(outcome: Outcome) -> Figures:
    """A finished run's figures, with its seconds where they are known."""
    assert outcome.report
    seconds = {} if outcome.seconds is None else {SECONDS: outcome.seconds}
    return {**figures(outcome.report)["aligned"], "norm ratio": outcome.report["norm_ratio"], **seconds}


def to_markdown(title: str, table: dict[str, Any]) -> str:
    """The table in Markdown."""
    rows = table["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row["mean"]))
    lines = []
    for name, row in rows.items():
        reasons = [f"; diverged with seed {seed}: {why}" for seed, why in row["diverged"].items()]
        cells = [cell(column, row) for column in columns]
        lines.append([name + "".join(reasons), str(len(row["seeds"])), *cells])
    for of, predictors in table["baselines"].items():
        for name, values in predictors.items():
            label = LABELS[name] if len(table["baselines"]) == 1 else f"{LABELS[name]} ({of})"
            cells = [number(column, values[column]) if column in values else "" for column in columns]
            lines.append([f"*{label}*", "", *cells])
    text = f"# {title}: {table['pairs']} pairs\n\n"
    if table["unfinished"]:
        text += f"Not finished: {', '.join(table['unfinished'])}.\n\n"
    text += (
        "Mean over the seeds, and in brackets the largest value minus the smallest. Loss is mean cosine loss, skill is "
        "1 - loss / constant. Rows in italics are baselines.\n\n"
    )
    return text + markdown_table(lines, ["", "seeds", *columns]) + "\n"


def cell(column: str, row: dict[str, Any]) -> str:
    """A row's mean and, of several seeds, its spread."""
    if column not in row["mean"]:
        return ""
    mean = number(column, row["mean"][column])
    return mean if len(row["seeds"]) == 1 else f"{mean} ({number(column, row['spread'][column])})"


def number(column: str, value: float) -> str:
    """Three digits; none of seconds."""
    return f"{value:.0f}" if column == SECONDS else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no -0.000
