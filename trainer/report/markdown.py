"""The report as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.html import markdown_table
from .predictors import LABELS, by_predictor
from .retrieval import RANKS, SIDES


def to_markdown(report: dict) -> str:
    """A report's tables, each loss beside its floors."""
    zones = list(report["loss"])
    losses = {name: [loss[zone] for zone in zones] for name, loss in by_predictor(report, "loss").items()}
    lines = [
        f"# {report.get('strategy', 'encoder')} on {report['corpus']['name']}",
        "",
        f"{report['rows']} pairs, {report['window']} positions. "
        f"Rejected rows: {report['corpus']['rejected'] or 'none'}.",
        f"Floors from {report['baselines_from']}. Skill (1 - loss / constant): {report['skill']:.3f}. "
        f"Norm ratio: {report['norm_ratio']:.3f}.",
        *("", "Mean cosine loss, lower is better:", "", _table(losses, zones)),
        *(
            "",
            "Share of captions that find their own translation, higher is better:",
            "",
            _recalls(report, "retrieval"),
        ),
    ]
    if "retrieval_content" in report:  # not in encoders of before
        content = _recalls(report, "retrieval_content")
        lines += ["", "The same from the positions between start and end alone:", "", content]
    for name, part in report.get("parts", {}).items():
        names = list(part["loss"]["aligned"])
        rows = {own: [loss[zone] for zone in names] for own, loss in part["loss"].items()}
        lines += ["", f"Of {name}:", "", _table(rows, names), "", _recall_table(part["retrieval"])]
    return "\n".join(lines) + "\n"


def _recalls(report: dict, part: str) -> str:
    return _recall_table(by_predictor(report, part))


def _recall_table(by_name: dict[str, dict]) -> str:
    rows = {name: [recalls[side][f"R@{k}"] for side in SIDES for k in RANKS] for name, recalls in by_name.items()}
    return _table(rows, ["zh to en R@1", "R@5", "R@10", "en to zh R@1", "R@5", "R@10"])


def _table(rows: dict[str, list[float]], names: Sequence[str]) -> str:
    labels = LABELS | {"aligned": f"**{LABELS['aligned']}**"}
    return markdown_table(
        [[labels[name], *(f"{v:.3f}" for v in values)] for name, values in rows.items()], ["", *names]
    )
