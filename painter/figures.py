"""The share of what prompts ask for that is painted through each encoder, as a Markdown table."""

import json
import random
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from painter.drawable import Scene, chinese, english, held_out_scenes
from painter.paint import Encode, score_prompts
from painter.reader import ATTRIBUTES
from trainer.models.student import Student
from trainer.report.tables import markdown_table
from zhclip.artifact import load

SEED = 1


def held_out_prompts() -> tuple[list[Scene], list[str]]:
    """100 scenes of held-out pairs, and their Chinese prompts."""
    scenes, rng = [scene for scene in held_out_scenes(SEED) if len(scene.groups) == 2], random.Random(SEED)
    return scenes, [chinese(scene, rng) for scene in scenes]


def score_english(network: UNet2DConditionModel, scenes: list[Scene], encode: Encode) -> dict[str, dict[str, float]]:
    """Scores of the teacher itself by row: English prompts, the most that can be reached, and empty ones, the least."""
    empty = encode([""]).expand(len(scenes), -1, -1)
    return {
        "English, the teacher itself": score_prompts(network, encode, [*map(english, scenes)], scenes),
        "the empty prompt": score_prompts(network, lambda texts: empty[: len(texts)], [""] * len(scenes), scenes),
    }


def report_beside(artifact: Path) -> dict[str, Any]:
    """The report.json beside an encoder's file."""
    report: dict[str, Any] = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    return report


def tables(network: UNet2DConditionModel, aligned: Path, teacher: Path) -> str:
    """The shares of attributes that are painted rightly through an aligned encoder's file, the teacher's and none, and
    the baselines of the loss."""
    scenes, prompts = held_out_prompts()
    report = report_beside(aligned)
    ours = score_prompts(network, Student.from_artifact(load(aligned)).encode, prompts, scenes)
    scores = {"aligned": ours, **score_english(network, scenes, Student.from_artifact(load(teacher)).encode)}
    loss, recall = report["loss"]["all"], report["retrieval"]["zh_to_en"]["R@1"]
    rows = []
    for name, score in scores.items():
        metrics = [f"{loss:.3f}", f"{recall:.3f}"] if score is ours else ["-", "-"]
        shares = [f"{score[column]:.3f}" for column in ("attributes", "scenes", *ATTRIBUTES)]
        rows.append([name, *metrics, *shares])
    baselines = [f"{name} {zones['all']:.3f}" for name, zones in report["baselines"].items() if zones]
    table = markdown_table(rows, ["encoder", "loss", "R@1 zh to en", "held out", "whole scenes", *ATTRIBUTES])
    return f"{table}\n\nBaselines of the loss {loss:.3f}: {', '.join(baselines)}.\n"
