"""The evaluation that the trainer wrote into an encoder's metadata."""

from __future__ import annotations

from typing import NamedTuple

from ..zhclip.schema import Meta
from .messages import message

BASELINES = ("ridge", "nearest", "constant", "untrained")


class Score(NamedTuple):
    """Mean cosine loss of a predictor over all positions, and its R@1 from Chinese to English."""

    name: str
    loss: float
    recall: float | None

    def __str__(self) -> str:
        return f"{self.loss:.3f}" + ("" if self.recall is None else f", R@1 {self.recall:.3f}")


def scores(meta: Meta) -> list[Score]:
    """The encoder, under the name "aligned", then its baselines; empty without a report."""
    report = meta.report
    losses = {"aligned": report.get("loss"), **(report.get("baselines") or {})}
    retrieval = {"aligned": report.get("retrieval"), **(report.get("baselines_retrieval") or {})}
    recall = {name: ((figures or {}).get("zh_to_en") or {}).get("R@1") for name, figures in retrieval.items()}
    return [
        Score(name, losses[name]["all"], recall.get(name))
        for name in ("aligned", *BASELINES)
        if "all" in (losses.get(name) or {})
    ]


def alignment_warning(meta: Meta) -> str | None:
    """Why the report does not show that the encoder is aligned, or None where it beats the constant predictor."""
    losses = {score.name: score.loss for score in scores(meta)}
    if not {"aligned", "constant"} <= set(losses):
        return message("no_evaluation")
    if losses["aligned"] >= losses["constant"]:
        return message("not_aligned", loss=losses["aligned"], constant=losses["constant"])
    return None


def summary(meta: Meta) -> str:
    """The report in at most three lines, for the loader node."""
    warning, figures = alignment_warning(meta), scores(meta)
    lines = [message("file_warning", why=warning)] if warning else []
    if figures:
        lines.append(message("loss_to", teacher=meta.teacher.id, score=figures[0]))
        lines.append(
            message("baselines", scores="; ".join(f"{message(f'baseline_{s.name}')} {s}" for s in figures[1:]))
        )
    return "\n".join(lines)
