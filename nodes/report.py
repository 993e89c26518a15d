"""What an encoder's file says of itself: the evaluation that the trainer wrote into its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..zhclip.artifact import Meta

FLOORS = ("ridge", "nearest", "constant", "untrained")


@dataclass(frozen=True)
class Predictor:
    """A predictor in the report: mean cosine loss over all positions, and how often a caption finds its own (R@1)."""

    name: str
    loss: float
    recall: float | None


def predictors(meta: Meta) -> list[Predictor]:
    """The encoder, as "aligned", and its floors; empty without a report."""
    report = meta.report
    losses = {"aligned": report.get("loss"), **(report.get("baselines") or {})}
    retrieval = {"aligned": report.get("retrieval"), **(report.get("baselines_retrieval") or {})}
    return [
        Predictor(name, float(losses[name]["all"]), _recall(retrieval.get(name)))
        for name in ("aligned", *FLOORS)
        if losses.get(name) and "all" in losses[name]
    ]


def _recall(retrieval: Any) -> float | None:
    try:
        return float(retrieval["zh_to_en"]["R@1"])
    except (KeyError, TypeError):
        return None


def alignment_doubt(meta: Meta) -> str | None:
    """Why the report gives no reason to trust the encoder, or None when it beats the constant predictor."""
    try:
        loss, constant = meta.report["loss"]["all"], meta.report["baselines"]["constant"]["all"]
    except (KeyError, TypeError):
        return "carries no evaluation, so nothing says that it is aligned"
    if loss >= constant:
        return f"is not aligned: its loss of {loss:.3f} is no better than a constant's {constant:.3f}"
    return None


def summary(meta: Meta) -> str:
    """What the loader's face says of the file: a doubt, if any, then its loss and its floors."""
    doubt = alignment_doubt(meta)
    figures = [
        f"{one.name} {one.loss:.3f}" + ("" if one.recall is None else f" (R@1 {one.recall:.3f})")
        for one in predictors(meta)
    ]
    lines = [f"WARNING: this file {doubt}."] if doubt else []
    if figures:
        lines += [f"Cosine loss to {meta.teacher.id}: {figures[0]}", f"Floors: {'; '.join(figures[1:])}"]
    return "\n".join(lines)
