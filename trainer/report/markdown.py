"""The report as a person reads it."""

from __future__ import annotations

from ..training import ZONES

ROWS = {
    "aligned": "**this encoder**",
    "ridge": "ridge map, no gradient",
    "nearest": "nearest training caption",
    "constant": "constant per position",
    "untrained": "untrained student",
}


def to_markdown(report: dict) -> str:
    """A report's tables, each loss beside its floors."""
    lines = [
        f"# {report.get('strategy', 'encoder')} on {report['corpus']['name']}",
        "",
        f"{report['rows']} pairs, {report['window']} positions. "
        f"Rejected rows: {report['corpus']['rejected'] or 'none'}.",
        f"Floors from {report['floors_from']}. Skill (1 - loss / constant): {report['skill']:.3f}. "
        f"Norm ratio: {report['norm_ratio']:.3f}.",
        "",
        "Mean cosine loss, lower is better:",
        "",
        *_losses(report),
    ]
    lines += ["", "Share of captions that find their own translation, higher is better:", "", *_recalls(report, "")]
    if "retrieval_content" in report:  # not in encoders of before
        lines += ["", "The same from the positions between start and end alone:", "", *_recalls(report, "_content")]
    return "\n".join(lines) + "\n"


def _losses(report: dict) -> list[str]:
    losses = {"aligned": report["loss"], **report["floors"]}
    zones = [zone for zone in ZONES if zone in report["loss"]]
    lines = [f"| | {' | '.join(zones)} |", f"|---|{'---|' * len(zones)}"]
    for name, label in ROWS.items():
        if losses.get(name):
            lines.append(f"| {label} | {' | '.join(f'{losses[name][zone]:.3f}' for zone in zones)} |")
    return lines


def _recalls(report: dict, of: str) -> list[str]:
    found = {"aligned": report["retrieval" + of], **report["floors_retrieval" + of]}
    lines = ["| | zh to en R@1 | R@5 | R@10 | en to zh R@1 | R@5 | R@10 |", "|---|---|---|---|---|---|---|"]
    for name, label in ROWS.items():
        if found.get(name):
            values = [found[name][side][rank] for side in ("zh_to_en", "en_to_zh") for rank in ("R@1", "R@5", "R@10")]
            lines.append(f"| {label} | {' | '.join(f'{v:.3f}' for v in values)} |")
    return lines
