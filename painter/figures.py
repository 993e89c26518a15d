"""How much of what prompts ask is painted through each encoder, as two Markdown tables."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import UNet2DConditionModel

from painter.drawable import HEARD, PLAIN, UNHEARD, Manner, Prompt, hand_written, held_out_prompts
from painter.paint import Encode, score_encoder
from painter.reader import ATTRIBUTES
from trainer.models.student import Student
from trainer.report.tables import markdown_table
from zhclip.artifact import load

DRAWINGS = (1, 2, 3)
"""Seeds of the held-out prompts: one drawing of 132 differs from the next by more than encoders do."""

Sets = dict[str, list[Prompt]]


def three_drawings(manner: Manner) -> list[Prompt]:
    """396 held-out prompts, phrased in one manner."""
    return [prompt for seed in DRAWINGS for prompt in held_out_prompts(manner, seed)]


def plain_set() -> Sets:
    """100 prompts of held-out pairs, in the phrasing of `make demo`."""
    return {"held out": [prompt for prompt in held_out_prompts(PLAIN, DRAWINGS[0]) if prompt.scene.second]}


def all_sets() -> Sets:
    """Held-out combinations; other prompts, in phrasings of no caption; the first in words of no caption."""
    return {"held out": three_drawings(HEARD), "by hand": list(hand_written()), "synonyms": three_drawings(UNHEARD)}


class Row(NamedTuple):
    """One encoder: its loss and R@1 on the dev captions (or none), and the shares of each set that are right."""

    name: str
    report: tuple[float, ...]
    painted: dict[str, dict[str, float]]


def row(name: str, network: UNet2DConditionModel, sets: Sets, encode: Encode, language: str = "en") -> Row:
    """Paint all prompts through an encoder and read the pictures."""
    return Row(name, (), {of: score_encoder(network, encode, prompts, language) for of, prompts in sets.items()})


def chinese_row(name: str, network: UNet2DConditionModel, sets: Sets, artifact: Path) -> Row:
    """Chinese prompts through an encoder's file, with figures of the report.json beside it."""
    report = report_beside(artifact)
    figures = (report["loss"]["all"], report["retrieval"]["zh_to_en"]["R@1"])
    return row(name, network, sets, Student.from_artifact(load(artifact)).encode, "zh")._replace(report=figures)


def english_rows(network: UNet2DConditionModel, sets: Sets, encode: Encode) -> list[Row]:
    """The teacher itself: English prompts, the most that can be reached, and empty ones, the least."""
    return [
        row("English, the teacher itself", network, sets, encode),
        row("the empty prompt", network, sets, lambda texts: encode([""]).expand(len(texts), -1, -1)),
    ]


def report_beside(artifact: Path) -> dict[str, Any]:
    """The report.json beside an encoder's file."""
    report: dict[str, Any] = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    return report


def table(rows: list[Row]) -> str:
    """The share of attributes that are right, by set; and that of the held-out prompts, by attribute."""
    sets = list(rows[0].painted)
    by_set, by_attribute = [], []
    for row in rows:
        report = [f"{value:.3f}" for value in row.report] or ["-", "-"]
        shares = [f"{row.painted[name]['attributes']:.3f}" for name in sets]
        held_out = row.painted["held out"]
        by_set.append([row.name, *report, *shares, f"{held_out['scenes']:.3f}"])
        by_attribute.append([row.name, *(f"{held_out[name]:.2f}" for name in ATTRIBUTES)])
    first = markdown_table(by_set, ["encoder", "loss", "R@1 zh to en", *sets, "scenes held out"])
    return f"{first}\n\n{markdown_table(by_attribute, ['encoder', *ATTRIBUTES])}\n"


def baselines(artifact: Path) -> str:
    """The baselines of the loss in the report.json beside an encoder's file."""
    report = report_beside(artifact)
    values = [f"{name} {zones['all']:.3f}" for name, zones in report["baselines"].items() if zones]
    return f"Baselines of the loss {report['loss']['all']:.3f}: {', '.join(values)}.\n"
