"""The demonstration's figures: what each encoder's prompts paint, and how near translations lie."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from painter.drawable import HEARD, UNHEARD, Prompt, hand_written, held_out_prompts
from painter.paint import Encode, score_encoder
from painter.poster import Heat
from painter.reader import ATTRIBUTES
from trainer.encoders import Student
from zhclip.artifact import load
from zhclip.calibration import sentence

CAPTIONS = 20
DRAWINGS = (1, 2, 3)
"""Seeds of the held-out prompts. One drawing of 132 differs from the next by more than what is to be told apart."""


def fresh(of: int) -> list[Prompt]:
    """396 held-out prompts in words of one of a thing's lists."""
    return [prompt for seed in DRAWINGS for prompt in held_out_prompts(of, seed)]


SETS: dict[str, Callable[[], list[Prompt]]] = {
    "held out": lambda: fresh(HEARD),
    "by hand": lambda: list(hand_written()),
    "synonyms": lambda: fresh(UNHEARD),
}
"""Combinations that no training caption has; other prompts, in phrasings of no caption; the first in unheard words.

Development looks at other seeds, at the words of DEV_UNHEARD and at phrasings_dev.tsv.
"""

Shares = dict[str, float]


class Row(NamedTuple):
    """One encoder: its report on the dev captions (empty if it has none), and for each set the shares by seed."""

    name: str
    report: dict[str, float]
    painted: dict[str, list[Shares]]

    def mean(self, of: str, share: str) -> float:
        """A share of a set, over the seeds."""
        return fmean(shares[share] for shares in self.painted[of])


def painted(
    network: UNet2DConditionModel, encode: Encode, language: str, seeds: Sequence[int]
) -> dict[str, list[Shares]]:
    """What an encoder's prompts paint, by set and seed."""
    return {
        name: [score_encoder(network, encode, prompts(), language, seed) for seed in seeds]
        for name, prompts in SETS.items()
    }


def row(name: str, network: UNet2DConditionModel, artifact: Path, seeds: Sequence[int] = (0,)) -> Row:
    """Paint Chinese prompts through an artifact that lies beside its report.json."""
    report = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    found = {"loss": report["loss"]["all"], "R@1": report["retrieval"]["zh_to_en"]["R@1"]}
    return Row(name, found, painted(network, Student.from_artifact(load(artifact)).encode, "zh", seeds))


def english_rows(network: UNet2DConditionModel, english: Student, seeds: Sequence[int] = (0,)) -> list[Row]:
    """Paint through the teacher itself: English prompts, the most that can be reached, and empty ones, the least."""
    return [
        Row("English, the teacher itself", {}, painted(network, english.encode, "en", seeds)),
        Row("the empty prompt", {}, painted(network, lambda texts: english.encode([""] * len(texts)), "en", seeds)),
    ]


def table(rows: list[Row]) -> str:
    """The attributes that are right, by set, and the held out prompts' by attribute, as two Markdown tables."""
    by_set, by_attribute = [], []
    for entry in rows:
        report = [f"{entry.report[key]:.3f}" if entry.report else "-" for key in ("loss", "R@1")]
        shares = [with_spread([shares["attributes"] for shares in entry.painted[name]]) for name in SETS]
        scenes = with_spread([shares["scenes"] for shares in entry.painted["held out"]])
        by_set.append([entry.name, *report, *shares, scenes])
        by_attribute.append([entry.name, *(f"{entry.mean('held out', name):.2f}" for name in ATTRIBUTES)])
    first = markdown(["encoder", "loss", "R@1 zh to en", *SETS, "scenes held out"], by_set)
    return first + "\n" + markdown(["encoder", *ATTRIBUTES], by_attribute)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_spread(values: list[float]) -> str:
    """A mean, and of several values the lowest and the highest."""
    span = f" ({min(values):.3f} .. {max(values):.3f})" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{span}"


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
