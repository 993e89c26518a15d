"""Stage `compare-reports`: reports of the same captions in one table, and which of their differences exceed chance."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base.files import read_json, write_text
from ..base.recipe import SettingsError
from ..base.stage_settings import CompareReportsSettings
from ..progress import Listener
from . import captions
from .captions import Caption
from .tables import by_predictor, markdown_table

RESAMPLES = 2000
COMPARED = ("aligned", "ridge", "constant")  # predictors in each cell
NOTE = (
    "Each difference is the mean over the captions minus the first report's, with its 95 % interval from "
    f"{RESAMPLES:,} paired resamples of the captions; R@1 is zh to en, and a caption keeps its hit or miss among all. "
    "The interval covers the choice of captions alone, not the seed of training."
)
logger = logging.getLogger(__name__)


class Figure(NamedTuple):
    """A figure of a report under `keys`, and the same of one caption."""

    keys: tuple[str, ...]
    of_caption: Callable[[Caption], float]
    more_is_better: bool = False


FIGURES = {
    "loss": Figure(("loss", "all"), lambda caption: caption.loss),
    "content loss": Figure(("loss", "content"), lambda caption: caption.loss_content),
    "R@1": Figure(("retrieval", "zh_to_en", "R@1"), lambda caption: caption.rank == 0, True),
    "content R@1": Figure(("retrieval_content", "zh_to_en", "R@1"), lambda caption: caption.rank_content == 0, True),
}


@dataclass(frozen=True)
class SavedReport:
    """A report and its captions. `name` is what the command line called it."""

    name: str
    report: dict
    captions: list[Caption]

    @classmethod
    def read(cls, name: str) -> SavedReport:
        """Read that of a run's folder, or a report.json. Raises SettingsError, DamagedError."""
        path = Path(name) / "report.json" if Path(name).is_dir() else Path(name)
        if not path.is_file():
            raise SettingsError(f"{path}: missing; give a run's folder after its evaluate stage, or a report.json")
        report = read_json(path, "give a report.json of the evaluate stage")
        if not isinstance(report, dict) or not {"loss", "baselines", "retrieval_content", "window"} <= set(report):
            raise SettingsError(f"{path}: not a report of the evaluate stage")
        return cls(name, report, captions.read(captions.path_beside(path)))

    def cell(self, figure: Figure) -> str:
        """The figure of this encoder, the ridge map and the constant."""
        part, *keys = figure.keys
        predictors = by_predictor(self.report, part)
        return " / ".join(f"{reduce(getitem, keys, predictors[name]):.3f}" for name in COMPARED)

    def by_caption(self) -> np.ndarray:
        """FIGURES of each caption (N, 4)."""
        return np.array([[figure.of_caption(c) for figure in FIGURES.values()] for c in self.captions], float)


def compare_reports(settings: CompareReportsSettings, progress: Listener | None = None) -> None:
    """Stage `compare-reports`: both tables in the log and, with --out, in a file. Raises SettingsError."""
    if len(settings.reports) < 2:
        raise SettingsError("give two reports or more: runs' folders, or report.json files")
    first, *others = reports = [SavedReport.read(name) for name in settings.reports]
    for other in others:
        check_comparable(first, other)
    figures = [[saved.name, *map(saved.cell, FIGURES.values())] for saved in reports]
    parts = [
        "# Reports compared",
        f"{len(first.captions):,} captions, {first.report['window']} positions. Each cell: encoder / ridge / constant.",
        markdown_table(figures, ["", *FIGURES]),
        f"Against {first.name}:",
        markdown_table([[other.name, *differences(first, other)] for other in others], ["", *FIGURES]),
        NOTE,
    ]
    text = "\n\n".join(parts) + "\n"
    logger.info(text)
    if settings.out:
        write_text(Path(settings.out), text)


def check_comparable(one: SavedReport, other: SavedReport) -> None:
    """Raise SettingsError unless two reports are of the same captions in windows of the same size."""
    if one.report["window"] != other.report["window"]:
        raise SettingsError(
            f"{one.name} was scored at {one.report['window']} positions and {other.name} at {other.report['window']}: "
            "their losses cannot be compared"
        )
    if [(c.zh, c.en) for c in one.captions] != [(c.zh, c.en) for c in other.captions]:
        raise SettingsError(
            f"{one.name} and {other.name} were scored on different captions, or in another order; score both on one "
            "corpus: `python -m trainer evaluate --artifact ... --corpus ... --report ...`"
        )


def differences(first: SavedReport, other: SavedReport) -> list[str]:
    """For each figure, the other's mean difference from the first, its interval, and better, worse or within chance."""
    means, low, high = bootstrap(other.by_caption() - first.by_caption())
    cells = []
    for mean, below, above, figure in zip(means, low, high, FIGURES.values()):
        better = "better" if (mean > 0) == figure.more_is_better else "worse"
        verdict = better if below > 0 or above < 0 else "within chance"
        cells.append(f"{mean:+.3f} ({below:+.3f} to {above:+.3f}) {verdict}")
    return cells


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K,) of values (N, K), and the ends of their 95 % intervals by resampling the rows."""
    generator = np.random.default_rng(0)
    rows = len(values)
    means = np.stack([values[generator.integers(0, rows, rows)].mean(axis=0) for _ in range(RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return values.mean(axis=0), low, high
