"""How much of what prompts ask is painted through each encoder.

python -m painter.figures --teacher DIR --encoders NAME=FILE,... [--seeds 0,1,2]

DIR is the painter's teacher, a Hugging Face folder; each encoder is an artifact that lies beside its report.json.
Prints two tables in Markdown, attributes by set, with the spread over seeds, and one by one, and the losses' floors.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from diffusers import UNet2DConditionModel

from painter import unet
from painter.drawable import HEARD, PLAIN, UNHEARD, Manner, Prompt, hand_written, held_out_prompts
from painter.paint import Encode, score_encoder
from painter.reader import ATTRIBUTES
from trainer.base.html import markdown_table
from trainer.models.student import Student, load_student
from zhclip.artifact import load

DRAWINGS = (1, 2, 3)
"""Seeds of the held-out prompts. One drawing of 132 differs from the next by more than what is to be told apart."""

Sets = dict[str, list[Prompt]]
Shares = dict[str, float]


def fresh(manner: Manner) -> list[Prompt]:
    """396 held-out prompts, said in one manner."""
    return [prompt for seed in DRAWINGS for prompt in held_out_prompts(manner, seed)]


def plain_set() -> Sets:
    """100 prompts of held-out pairs, said plainly. Development looks at other seeds."""
    return {"held out": [prompt for prompt in held_out_prompts(PLAIN, DRAWINGS[0]) if prompt.scene.second]}


def all_sets() -> Sets:
    """Combinations that no training caption has; other prompts, in phrasings of no caption; the first in unheard words.

    Development looks at other seeds, at the words of DEV_UNHEARD and at phrasings_dev.tsv.
    """
    return {"held out": fresh(HEARD), "by hand": list(hand_written()), "synonyms": fresh(UNHEARD)}


class Row(NamedTuple):
    """One encoder: its loss and R@1 on the dev captions (or none), and for each set the shares by seed."""

    name: str
    report: tuple[float, ...]
    painted: dict[str, list[Shares]]

    def mean(self, of: str, share: str) -> float:
        """A share of a set, over the seeds."""
        return fmean(shares[share] for shares in self.painted[of])


class Judge(NamedTuple):
    """What encoders are judged by: the painter, prompts, and seeds of its noise."""

    network: UNet2DConditionModel
    sets: Sets
    seeds: tuple[int, ...] = (0,)

    def row(self, name: str, encode: Encode, language: str, report: tuple[float, ...] = ()) -> Row:
        """What an encoder's prompts paint."""
        painted = {
            of: [score_encoder(self.network, encode, prompts, language, seed) for seed in self.seeds]
            for of, prompts in self.sets.items()
        }
        return Row(name, report, painted)

    def chinese(self, name: str, artifact: Path) -> Row:
        """Chinese prompts through an artifact, with what the report.json beside it says."""
        report = report_beside(artifact)
        known = (report["loss"]["all"], report["retrieval"]["zh_to_en"]["R@1"])
        return self.row(name, Student.from_artifact(load(artifact)).encode, "zh", known)

    def english(self, encode: Encode) -> list[Row]:
        """The teacher itself: English prompts, the most that can be reached, and empty ones, the least."""
        return [
            self.row("English, the teacher itself", encode, "en"),
            self.row("the empty prompt", lambda texts: encode([""]).expand(len(texts), -1, -1), "en"),
        ]


def report_beside(artifact: Path) -> dict[str, Any]:
    """The report.json beside an artifact."""
    found: dict[str, Any] = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    return found


def table(rows: list[Row]) -> str:
    """The attributes that are right, by set, and the held out prompts' by attribute, as two Markdown tables."""
    sets = list(rows[0].painted)
    by_set, by_attribute = [], []
    for row in rows:
        report = [f"{value:.3f}" for value in row.report] or ["-", "-"]
        shares = [with_spread([shares["attributes"] for shares in row.painted[name]]) for name in sets]
        scenes = with_spread([shares["scenes"] for shares in row.painted["held out"]])
        by_set.append([row.name, *report, *shares, scenes])
        by_attribute.append([row.name, *(f"{row.mean('held out', name):.2f}" for name in ATTRIBUTES)])
    first = markdown_table(by_set, ["encoder", "loss", "R@1 zh to en", *sets, "scenes held out"])
    return f"{first}\n\n{markdown_table(by_attribute, ['encoder', *ATTRIBUTES])}\n"


def with_spread(values: list[float]) -> str:
    """A mean, and of several values the lowest and the highest."""
    span = f" ({min(values):.3f} .. {max(values):.3f})" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{span}"


def floors(artifact: Path) -> str:
    """What the loss of an artifact that lies beside its report.json must be read against."""
    report = report_beside(artifact)
    values = [f"{name} {zones['all']:.3f}" for name, zones in report["baselines"].items() if zones]
    return f"Floors of the loss {report['loss']['all']:.3f}: {', '.join(values)}.\n"


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.figures", description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="the painter's teacher, a Hugging Face folder")
    parser.add_argument("--encoders", required=True, help="NAME=FILE of artifacts, between commas")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the starting noise, between commas")
    options = parser.parse_args(arguments)
    named = [part.partition("=") for part in options.encoders.split(",")]
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    try:
        judge = Judge(unet.load(), all_sets(), seeds)
        rows = judge.english(load_student(str(options.teacher), unet.WINDOW).encode)
        rows += [judge.chinese(name, Path(path)) for name, _, path in named]
        print(table(rows), *(f"{name}: {floors(Path(path))}" for name, _, path in named), sep="\n")
    except (OSError, ValueError) as error:
        sys.exit(f"figures: {error}")


if __name__ == "__main__":
    main()
