"""Tables in Markdown, and a report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .verdict import verdict

RANKS = (1, 5, 10)
DIRECTIONS = {"zh_to_en": "zh to en", "en_to_zh": "en to zh"}
LABELS = {
    "aligned": "this encoder",
    "ridge": "ridge map, no gradient",
    "nearest": "nearest training caption",
    "constant": "constant per position",
    "untrained": "untrained student",
}
"""The encoder and its baselines by their names in a report, in the order of tables."""


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
        "Mean cosine loss, lower is better:",
        _losses(by_predictor(report, "loss")),
        "Share of captions that find their own translation, higher is better:",
        _recalls(by_predictor(report, "retrieval")),
        "The same from the positions between start and end alone:",
        _recalls(by_predictor(report, "retrieval_content")),
    ]
    for name, part in report.get("parts", {}).items():
        lines += [f"Of {name}:", _losses(part["loss"]), _recalls(part["retrieval"])]
    return "\n\n".join(lines) + "\n"


def _losses(by_name: Mapping[str, Mapping[str, float]]) -> str:
    zones = list(by_name["aligned"])
    return _figures({name: [loss[zone] for zone in zones] for name, loss in by_name.items()}, zones)


def _recalls(by_name: Mapping[str, Mapping]) -> str:
    rows = {name: [recall[d][f"R@{k}"] for d in DIRECTIONS for k in RANKS] for name, recall in by_name.items()}
    return _figures(rows, [f"{label} R@{k}" for label in DIRECTIONS.values() for k in RANKS])


def _figures(rows: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    labels = LABELS | {"aligned": f"**{LABELS['aligned']}**"}
    texts = [[labels[name], *(f"{value:.3f}" for value in values)] for name, values in rows.items()]
    return markdown_table(texts, ["", *names])
