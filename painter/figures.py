"""The demonstration's figures: what each encoder's prompts paint, and how near translations lie."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from painter.drawable import Prompt
from painter.paint import score_encoder
from painter.poster import Heat
from trainer.student import Student
from zhclip.artifact import load
from zhclip.calibration import sentence

CAPTIONS = 20


class Row(NamedTuple):
    """One encoder: its report on the dev captions (empty for the teacher itself) and its shares right."""

    name: str
    report: dict[str, float]
    shares: dict[str, float]


def row(name: str, network: UNet2DConditionModel, artifact: Path, prompts: list[Prompt]) -> Row:
    """Paint Chinese prompts through an artifact that lies beside its report.json."""
    report = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    student = Student.from_artifact(load(artifact))
    shares, _ = score_encoder(network, student.encode, prompts, "zh")
    found = {"loss": report["loss"]["all"], "R@1": report["retrieval"]["zh_to_en"]["R@1"]}
    return Row(name, found, shares)


def english_row(network: UNet2DConditionModel, artifact: Path, prompts: list[Prompt]) -> Row:
    """Paint English prompts through the teacher itself: the most that an aligned encoder can reach."""
    student = Student.from_artifact(load(artifact))
    shares, _ = score_encoder(network, student.encode, prompts, "en")
    return Row("English, the teacher itself", {}, shares)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    names = list(rows[0].shares)
    lines = [
        "| encoder | loss | R@1 zh to en | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 3) + "|",
    ]
    for entry in rows:
        found = [f"{entry.report[key]:.3f}" if entry.report else "-" for key in ("loss", "R@1")]
        shares = [f"{entry.shares[name]:.2f}" for name in names]
        lines.append(f"| {' | '.join([entry.name, *found, *shares])} |")
    return "\n".join(lines) + "\n"


def floors(artifact: Path) -> str:
    """What the loss of an artifact that lies beside its report.json must be read against."""
    report = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    values = [f"{name} {zones['all']:.3f}" for name, zones in report["floors"].items() if zones]
    return f"Floors of the loss {report['loss']['all']:.3f}: {', '.join(values)}.\n"


def vectors(student: Student, texts: list[str]) -> Tensor:
    """Centred unit sentence vectors (N, D) of captions."""
    ids = torch.tensor([student.tokens.windows(text)[0] for text in texts])
    pooled = sentence(student.encode(texts), student.tokens.key_mask(ids))
    return torch.nn.functional.normalize(pooled - pooled.mean(0), dim=-1)


def heat(chinese: Path, english: Path, corpus: Path) -> Heat:
    """Similarity of the first 20 captions of a corpus and their translations, each in its own encoder."""
    lines = corpus.read_text(encoding="utf-8").splitlines()[1 : CAPTIONS + 1]
    zh, en = (list(side) for side in zip(*(line.split("\t") for line in lines), strict=True))
    similarity = vectors(Student.from_artifact(load(chinese)), zh) @ vectors(Student.from_artifact(load(english)), en).T
    return Heat(zh, en, similarity.numpy().astype(np.float32))
