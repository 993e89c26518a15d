"""Stage `compare-reports`: reports of the same captions in one table, and which of their differences exceed chance."""

from __future__ import annotations

import logging
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
COLUMNS = ("loss", "content loss", "R@1", "content R@1")
NOTE = (
    "Each difference is the mean over the captions minus the first report's, with its 95 % interval from "
    f"{RESAMPLES:,} paired resamples of the captions; R@1 is zh to en, and a caption keeps its hit or miss among all. "
    "The interval covers the choice of captions alone, not the seed of training."
)
logger = logging.getLogger(__name__)


class SavedReport(NamedTuple):
    """A report and its captions. `name` is what the command line called it."""

    name: str
    report: dict
    captions: list[Caption]


def compare_reports(settings: CompareReportsSettings, progress: Listener | None = None) -> None:
    """Stage `compare-reports`: both tables in the log and, with --out, in a file."""
    if len(settings.reports) < 2:
        raise SettingsError("give two reports or more: runs' folders, or report.json files")
    first, *others = reports = [read_report(name) for name in settings.reports]
    for other in others:
        check_comparable(first, other)
    parts = [
        "# Reports compared",
        f"{len(first.captions):,} captions, {first.report['window']} positions. Each cell: encoder / ridge / constant.",
        markdown_table([[saved.name, *figures(saved.report)] for saved in reports], ["", *COLUMNS]),
        f"Against {first.name}:",
        markdown_table([[other.name, *differences(first, other)] for other in others], ["", *COLUMNS]),
        NOTE,
    ]
    text = "\n\n".join(parts) + "\n"
    logger.info(text)
    if settings.out:
        write_text(Path(settings.out), text)


def read_report(name: str) -> SavedReport:
    """The report of a run's folder, or a report.json. Raises SettingsError, DamagedError."""
    path = Path(name) / "report.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise SettingsError(f"{path}: missing; give a run's folder after its evaluate stage, or a report.json")
    report = read_json(path, "give a report.json of the evaluate stage")
    if not isinstance(report, dict) or not {"loss", "baselines", "retrieval_content", "window"} <= set(report):
        raise SettingsError(f"{path}: not a report of the evaluate stage")
    return SavedReport(name, report, captions.read(captions.path_beside(path)))


def check_comparable(one: SavedReport, other: SavedReport) -> None:
    """Raise SettingsError unless two reports are of the same captions in windows of the same size."""
    windows, captions = zip(*((saved.report["window"], [c[:2] for c in saved.captions]) for saved in (one, other)))
    if windows[0] != windows[1] or captions[0] != captions[1]:
        raise SettingsError(
            f"{one.name} and {other.name} were scored on different captions, or in windows of different sizes; score "
            "both on one corpus: `python -m trainer evaluate --artifact ... --corpus ... --report ...`"
        )


def figures(report: dict) -> list[str]:
    """COLUMNS of the encoder, the ridge map and the constant."""
    loss, whole, content = (by_predictor(report, key) for key in ("loss", "retrieval", "retrieval_content"))
    columns = [[loss[name][zone] for name in COMPARED] for zone in ("all", "content")]
    columns += [[recalls[name]["zh_to_en"]["R@1"] for name in COMPARED] for recalls in (whole, content)]
    return [" / ".join(f"{value:.3f}" for value in column) for column in columns]


def differences(first: SavedReport, other: SavedReport) -> list[str]:
    """For each of COLUMNS the other's mean difference from the first, its interval, and better, worse or within
    chance."""
    cells = []
    for number, ends in enumerate(zip(*bootstrap(by_caption(other) - by_caption(first)))):
        mean, low, high = ends
        better = "better" if (mean > 0) == COLUMNS[number].endswith("R@1") else "worse"
        verdict = better if low > 0 or high < 0 else "within chance"
        cells.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) {verdict}")
    return cells


def by_caption(saved: SavedReport) -> np.ndarray:
    """COLUMNS of each caption (N, 4)."""
    return np.array([(c.loss, c.loss_content, c.rank == 0, c.rank_content == 0) for c in saved.captions], float)


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K,) of values (N, K), and the ends of their 95 % intervals by resampling the rows."""
    generator = np.random.default_rng(0)
    rows = len(values)
    means = np.stack([values[generator.integers(0, rows, rows)].mean(axis=0) for _ in range(RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return values.mean(axis=0), low, high
