"""A sweep's runs as a table: each row's mean over its seeds, their spread, and the baselines below."""

from __future__ import annotations

from statistics import fmean
from typing import Any, TypeAlias

from ..report.tables import LABELS, by_predictor, markdown_table

Runs: TypeAlias = dict[str, dict[int, Any]]
"""By row and seed: a run's report (a dictionary), or why it diverged (a text)."""


def figures(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """A report's figures by column, for the encoder (`aligned`) and each baseline."""
    losses, recalls, content = (by_predictor(report, part) for part in ("loss", "retrieval", "retrieval_content"))
    return {
        name: {
            **{"loss" if zone == "all" else zone: value for zone, value in loss.items()},
            "skill": 1 - loss["all"] / losses["constant"]["all"],
            "R@1 zh to en": recalls[name]["zh_to_en"]["R@1"],
            "R@1 en to zh": recalls[name]["en_to_zh"]["R@1"],
            "R@1 zh to en, content": content[name]["zh_to_en"]["R@1"],
        }
        for name, loss in losses.items()
    }


def summary(runs: Runs) -> dict[str, Any]:
    """The table as JSON values: rows, and baselines by the first row that has them.

    `spread` is the largest value over the seeds minus the smallest.
    """
    rows: dict[str, Any] = {}
    baselines: dict[str, Any] = {}
    pairs = 0
    for row, by_seed in runs.items():
        reports = {seed: run for seed, run in by_seed.items() if isinstance(run, dict)}
        scored = [figures(report) for report in reports.values()]
        columns = {name: [each["aligned"][name] for each in scored] for each in scored for name in each["aligned"]}
        rows[row] = {
            "seeds": list(reports),
            "mean": {name: fmean(values) for name, values in columns.items()},
            "spread": {name: max(values) - min(values) for name, values in columns.items()},
            "diverged": {seed: run for seed, run in by_seed.items() if isinstance(run, str)},
        }
        for report, by_predictor_name in zip(reports.values(), scored):
            pairs = pairs or report["rows"]
            own = {name: values for name, values in by_predictor_name.items() if name != "aligned"}
            if own not in baselines.values():
                baselines[row] = own
    return {"pairs": pairs, "rows": rows, "baselines": baselines}


def to_markdown(title: str, table: dict[str, Any]) -> str:
    """The table in Markdown."""
    rows = table["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row["mean"]))
    lines = []
    for name, row in rows.items():
        reasons = [f"; diverged with seed {seed}: {why}" for seed, why in row["diverged"].items()]
        cells = [cell(column, row) for column in columns]
        lines.append([name + "".join(reasons), str(len(row["seeds"])), *cells])
    for row, predictors in table["baselines"].items():
        for name, values in predictors.items():
            label = LABELS[name] if len(table["baselines"]) == 1 else f"{LABELS[name]} ({row})"
            cells = [number(values[column]) if column in values else "" for column in columns]
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
    mean = number(row["mean"][column])
    return mean if len(row["seeds"]) == 1 else f"{mean} ({number(row['spread'][column])})"


def number(value: float) -> str:
    """Three digits."""
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no -0.000
