"""Stage `compare-reports`: reports side by side, and which of their differences exceed chance."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from html import escape
from operator import getitem
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base.files import write_text
from ..base.recipe import SettingsError
from ..base.stage_settings import CompareReportsSettings
from . import captions
from .captions import Caption
from .tables import LABELS, by_predictor, document, html_table, markdown_table

RESAMPLES, SEED = 2000, 0
# Figures of a caption whose means are compared, and whether more is better.
FIGURES = {"loss": False, "content loss": False, "R@1": True, "content R@1": True}
RECALLS = {
    "zh to en R@1": ("retrieval", "zh_to_en", "R@1"),
    "zh to en R@5": ("retrieval", "zh_to_en", "R@5"),
    "en to zh R@1": ("retrieval", "en_to_zh", "R@1"),
    "content zh to en R@1": ("retrieval_content", "zh_to_en", "R@1"),
    "content en to zh R@1": ("retrieval_content", "en_to_zh", "R@1"),
}
TITLE = "Reports compared"
NOTE = (
    "Each difference is the mean over the captions minus the first report's, with its 95 % interval from "
    f"{RESAMPLES:,} paired resamples of the captions; R@1 is zh to en, and a caption keeps its hit or miss among all. "
    "The interval covers the choice of captions alone, not the seed of training."
)
logger = logging.getLogger(__name__)


class Table(NamedTuple):
    """A title, rows of texts, and the columns' names."""

    title: str
    rows: list[list[str]]
    names: list[str]


@dataclass(frozen=True)
class SavedReport:
    """A report and its captions. `name` is what the command line called it."""

    name: str
    report: dict
    captions: list[Caption]

    @classmethod
    def read(cls, name: str) -> SavedReport:
        """Read that of a run's folder, or a report.json. Raises SettingsError."""
        path = Path(name) / "report.json" if Path(name).is_dir() else Path(name)
        if not path.is_file():
            raise SettingsError(f"{path}: missing; give a run's folder after its evaluate stage, or a report.json")
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            report["loss"]["all"], report["baselines"]["constant"]["all"], report["window"]
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}: not a report of the evaluate stage ({error})") from error
        return cls(name, report, captions.read(captions.path_beside(path)))

    def figures(self) -> np.ndarray:
        """FIGURES of each caption (N, 4)."""
        return np.array([(c.loss, c.loss_content, c.rank == 0, c.rank_content == 0) for c in self.captions], float)


def compare_reports(settings: CompareReportsSettings) -> None:
    """Stage `compare-reports`: tables in the log and, with --out, in a file. Raises SettingsError."""
    if len(settings.reports) < 2:
        raise SettingsError("give two reports or more: runs' folders, or report.json files")
    reports = [SavedReport.read(name) for name in settings.reports]
    for other in reports[1:]:
        check_comparable(reports[0], other)
    losses: dict[str, tuple[str, ...]] = {zone: ("loss", zone) for zone in reports[0].report["loss"]}
    losses |= {"skill": ("skill",), "norm ratio": ("norm_ratio",)}
    tables = [
        side_by_side("Mean cosine loss, lower is better", reports, losses),
        side_by_side("Share of captions that find their own translation, higher is better", reports, RECALLS),
        differences(reports),
    ]
    head = f"{len(reports[0].captions):,} captions, {reports[0].report['window']} positions."
    logger.info(as_markdown(head, tables))
    if settings.out:
        written = as_html if Path(settings.out).suffix in (".html", ".htm") else as_markdown
        write_text(Path(settings.out), written(head, tables))


def check_comparable(one: SavedReport, other: SavedReport) -> None:
    """Raise SettingsError unless two reports are of the same captions in windows of the same size."""
    if one.report["window"] != other.report["window"]:
        raise SettingsError(
            f"{one.name} was scored at {one.report['window']} positions and {other.name} at {other.report['window']}: "
            "their losses cannot be compared"
        )
    first, second = ([(c.zh, c.en) for c in saved.captions] for saved in (one, other))
    if first != second:
        only_first, only_second = len(set(first) - set(second)), len(set(second) - set(first))
        raise SettingsError(
            f"{one.name} and {other.name} were scored on different captions ({only_first} of {len(first)} are only in "
            f"the first, {only_second} of {len(second)} only in the second, or their order differs); score both on one "
            "corpus: `python -m trainer evaluate --artifact ... --corpus ... --report ...`"
        )


def side_by_side(title: str, reports: list[SavedReport], columns: Mapping[str, tuple[str, ...]]) -> Table:
    """The encoder of each report, then the baselines. Columns are keys into a report."""
    rows = [(saved.name, "aligned", saved.report) for saved in reports] + baseline_rows(reports)
    texts = [[label, *(_figure(report, name, *keys) for keys in columns.values())] for label, name, report in rows]
    return Table(title, texts, ["", *columns])


def _figure(report: dict, predictor: str, part: str, *keys: str) -> str:
    if not keys:  # a figure of the encoder alone
        return f"{report[part]:.3f}" if predictor == "aligned" else ""
    return f"{reduce(getitem, keys, by_predictor(report, part)[predictor]):.3f}"


def baseline_rows(reports: list[SavedReport]) -> list[tuple[str, str, dict]]:
    """(label, name, report) of every baseline: once if all reports share it, else the label names the report."""
    rows = []
    for name, label in LABELS.items():
        different: list[SavedReport] = []
        for saved in reports:
            losses = saved.report["baselines"].get(name)
            if losses and not any(_equal(losses, other.report["baselines"][name]) for other in different):
                different.append(saved)
        rows += [(f"{label} ({one.name})" if len(different) > 1 else label, name, one.report) for one in different]
    return rows


def _equal(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(abs(one[zone] - other[zone]) < 1e-5 for zone in one)


def differences(reports: list[SavedReport]) -> Table:
    """Each report minus the first, figure by figure, with intervals and a verdict."""
    first = reports[0].figures()
    rows = []
    for other in reports[1:]:
        means, low, high = bootstrap(other.figures() - first)
        rows.append([other.name, *(_difference(*figure) for figure in zip(means, low, high, FIGURES.values()))])
    return Table(f"Against {reports[0].name}", rows, ["", *FIGURES])


def _difference(mean: float, low: float, high: float, more_is_better: bool) -> str:
    verdict = "within chance"
    if low > 0 or high < 0:
        verdict = "better" if (mean > 0) == more_is_better else "worse"
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) {verdict}"


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K,) of values (N, K), and the ends of their 95 % intervals by resampling the rows."""
    generator = np.random.default_rng(SEED)
    rows = len(values)
    means = np.stack([values[generator.integers(0, rows, rows)].mean(axis=0) for _ in range(RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return values.mean(axis=0), low, high


def as_markdown(head: str, tables: list[Table]) -> str:
    """The tables as Markdown."""
    parts = [f"{title}:\n\n{markdown_table(rows, names)}" for title, rows, names in tables]
    return "\n\n".join([f"# {TITLE}", head, *parts, NOTE]) + "\n"


def as_html(head: str, tables: list[Table]) -> str:
    """The tables as a page that needs no other file."""
    body = "".join(f"<h2>{escape(title)}</h2>\n{html_table(rows, names)}" for title, rows, names in tables)
    return document(TITLE, f"<p>{escape(head)}</p>\n{body}<p>{escape(NOTE)}</p>")
