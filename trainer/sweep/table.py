"""A sweep's runs as a table: each row's mean over its seeds, their spread, and the baselines below."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..report.tables import LABELS, by_predictor, markdown_table


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


def to_markdown(title: str, runs: dict[str, list[Any]]) -> str:
    """The table in Markdown. runs: by row, a report for each seed, or a text that says why it has none."""
    reports = {row: [run for run in each if isinstance(run, dict)] for row, each in runs.items()}
    scored = {row: [figures(report) for report in each] for row, each in reports.items()}
    columns = list(dict.fromkeys(name for each in scored.values() for seed in each for name in seed["aligned"]))
    lines = []
    baselines: dict[str, dict[str, Any]] = {}
    for row, each in scored.items():
        values = [[seed["aligned"][name] for seed in each if name in seed["aligned"]] for name in columns]
        label = "; ".join([row, *(run for run in runs[row] if isinstance(run, str))])
        lines.append([label, str(len(each)), *map(cell, values)])
        for seed in each:
            own = {name: figure for name, figure in seed.items() if name != "aligned"}
            if own not in baselines.values():
                baselines[row] = own
    for row, predictors in baselines.items():
        for name, figure in predictors.items():
            label = LABELS[name] if len(baselines) == 1 else f"{LABELS[name]} ({row})"
            cells = [cell([figure[column]] if column in figure else []) for column in columns]
            lines.append([f"*{label}*", "", *cells])
    pairs = next((report["rows"] for each in reports.values() for report in each), 0)
    text = (
        "Mean over the seeds, and in brackets the largest value minus the smallest. Loss is mean cosine loss, skill is "
    )
    text += "1 - loss / constant. Rows in italics are baselines."
    return f"# {title}: {pairs} pairs\n\n{text}\n\n{markdown_table(lines, ['', 'seeds', *columns])}\n"


def cell(values: Sequence[float]) -> str:
    """The mean and, of several values, the largest minus the smallest."""
    if not values:
        return ""
    spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
    return f"{round(fmean(values), 3) + 0.0:.3f}{spread}"  # + 0.0: no -0.000
