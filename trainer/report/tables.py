"""A report in words: one sentence in English and Chinese, and Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("report_words.json").read_text(encoding="utf-8"))
"""The report's phrases, each (English, Chinese), or groups of them by a word of the report."""
RANKS = (1, 5, 10)
DIRECTIONS = {"zh_to_en": "zh to en", "en_to_zh": "en to zh"}
LABELS = {
    "aligned": "this encoder",
    "translator": "translator, then the teacher",
    "ridge": "ridge map, no gradient",
    "nearest": "nearest training caption",
    "constant": "constant per position",
    "untrained": "untrained student",
}
"""The encoder and its baselines by their names in a report, in the order of tables."""


def verdict(report: Mapping, language: str = "en") -> str:
    """How much better than its baselines an encoder is, and how many captions find their own translation first."""
    loss = report["loss"]["all"]
    ridge, constant = (report["baselines"][name]["all"] for name in ("ridge", "constant"))
    if loss >= constant:
        outcome = "constant"
    elif report.get("strategy") == "ridge":
        outcome = "untrained"
    else:
        outcome = "ridge" if loss >= ridge else "better"
    return WORDS["verdict"][outcome][LANGUAGES.index(language)].format(
        loss=f"{loss:.3f}",
        ridge=f"{ridge:.3f}",
        constant=f"{constant:.3f}",
        below_ridge=f"{1 - loss / ridge:.0%}" if ridge else "",
        below_constant=f"{1 - loss / constant:.0%}" if constant else "",
        hits=f"{round(report['rows'] * report['retrieval']['zh_to_en']['R@1']):,}",
        rows=f"{report['rows']:,}",
    )


def markdown_table(rows: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """Rows of texts under column names as Markdown, without a line break at its end."""
    return "\n".join(
        [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def by_predictor(report: Mapping, key: str) -> dict[str, dict]:
    """A report's `loss`, `retrieval` or `retrieval_content` of the encoder and of each baseline it has."""
    figures = {"aligned": report[key], **report["baselines" if key == "loss" else f"baselines_{key}"]}
    return {name: figures[name] for name in LABELS if figures.get(name)}


def to_markdown(report: Mapping) -> str:
    """A report as Markdown, each loss beside its baselines."""
    lines = [
        f"# {report.get('strategy', 'encoder')} on {report['corpus']['name']}",
        verdict(report),
        f"{report['rows']} pairs, {report['window']} positions. "
        f"Rejected rows: {report['corpus']['rejected'] or 'none'}.\n"
        f"Baselines from {report['baselines_from']}. Skill (1 - loss / constant): {report['skill']:.3f}. "
        f"Norm ratio: {report['norm_ratio']:.3f}.",
        *([speed(report)] if "translator" in report else []),
        "Mean cosine loss, lower is better:",
        _figures(by_predictor(report, "loss")),
        "Share of captions that find their own translation, higher is better:",
        _recalls(by_predictor(report, "retrieval")),
        "The same from the positions between start and end alone:",
        _recalls(by_predictor(report, "retrieval_content")),
    ]
    for name, part in report.get("parts", {}).items():
        lines += [f"Of {name}:", _figures(part["loss"]), _recalls(part["retrieval"])]
    return "\n\n".join(lines) + "\n"


def speed(report: Mapping, language: str = "en") -> str:
    """A sentence with the milliseconds of one prompt through translator and teacher, and through the encoder."""
    return WORDS["translator"][LANGUAGES.index(language)].format(**report["translator"])


def _recalls(by_name: Mapping[str, Mapping]) -> str:
    columns = [(direction, f"R@{k}") for direction in DIRECTIONS for k in RANKS]
    return _figures({name: {f"{DIRECTIONS[d]} {k}": own[d][k] for d, k in columns} for name, own in by_name.items()})


def _figures(by_name: Mapping[str, Mapping[str, float]]) -> str:
    """A table of figures by predictor and column."""
    labels, columns = LABELS | {"aligned": f"**{LABELS['aligned']}**"}, list(by_name["aligned"])
    cells = {name: [f"{round(own[column], 3) + 0:.3f}" for column in columns] for name, own in by_name.items()}
    rows = [[labels[name], *row] for name, row in cells.items()]
    return markdown_table(rows, ["", *columns])
