"""Reports side by side, and which of their differences are more than the choice of captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from html import escape
from operator import getitem
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base.files import write_text
from ..base.html import document, markdown_table, table
from ..base.recipe import SettingsError
from ..base.stage_settings import CompareReportsSettings
from . import captions
from .captions import Caption
from .predictors import LABELS, by_predictor

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
    "Each difference is the mean over the captions, less the first report's, with its 95 % interval from "
    f"{RESAMPLES:,} paired resamples of the captions; R@1 is zh to en, and a caption keeps its hit or miss among all. "
    "The interval is of the captions alone: another seed of training is not in it."
)


class Table(NamedTuple):
    """A title, rows of texts, and the columns' names."""

    title: str
    rows: list[list[str]]
    names: list[str]


@dataclass(frozen=True)
class Entry:
    """A report and its captions. `name` is what the command line called it."""

    name: str
    report: dict
    captions: list[Caption]

    @classmethod
    def read(cls, name: str) -> Entry:
        """Of a run's folder or a report.json. Raises SettingsError."""
        path = Path(name) / "report.json" if Path(name).is_dir() else Path(name)
        if not path.is_file():
            raise SettingsError(f"{path}: not there; give a run's folder after its evaluate stage, or a report.json")
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            report["loss"]["all"], report["baselines"]["constant"]["all"], report["window"]
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}: not a report of the evaluate stage ({error})") from error
        if "retrieval_content" not in report:
            raise SettingsError(f"{path}: of an older evaluate stage, without content retrieval; run evaluate again")
        return cls(name, report, captions.read(captions.beside(path)))

    def figures(self) -> np.ndarray:
        """(N, 4) FIGURES of each caption."""
        return np.array([(c.loss, c.loss_content, c.rank == 0, c.rank_content == 0) for c in self.captions], float)


def compare_reports(settings: CompareReportsSettings) -> None:
    """Stage `compare-reports`: tables to the screen and, with --out, to a file."""
    if len(settings.reports) < 2:
        raise SettingsError("give two reports or more: runs' folders, or report.json files")
    entries = [Entry.read(name) for name in settings.reports]
    for other in entries[1:]:
        comparable(entries[0], other)
    losses: dict[str, tuple[str, ...]] = {zone: ("loss", zone) for zone in entries[0].report["loss"]}
    losses |= {"skill": ("skill",), "norm ratio": ("norm_ratio",)}
    tables = [
        side_by_side("Mean cosine loss, lower is better", entries, losses),
        side_by_side("Share of captions that find their own translation, higher is better", entries, RECALLS),
        differences(entries),
    ]
    head = f"{len(entries[0].captions):,} captions, {entries[0].report['window']} positions."
    print(as_markdown(head, tables))
    if settings.out:
        written = as_html if Path(settings.out).suffix in (".html", ".htm") else as_markdown
        write_text(Path(settings.out), written(head, tables))


def comparable(one: Entry, other: Entry) -> None:
    """Raise SettingsError unless two reports are of the same captions in windows of the same size."""
    if one.report["window"] != other.report["window"]:
        raise SettingsError(
            f"{one.name} was scored at {one.report['window']} positions and {other.name} at {other.report['window']}: "
            "their losses cannot be compared"
        )
    texts, others = ([(c.zh, c.en) for c in entry.captions] for entry in (one, other))
    if texts == others:
        return
    alone, behind = (len(set(a) - set(b)) for a, b in ((texts, others), (others, texts)))
    raise SettingsError(
        f"{one.name} and {other.name} were scored on different captions ({alone} of the first's {len(texts)} and "
        f"{behind} of the second's {len(others)} are in one alone, or their order differs); score both on one corpus: "
        "`python -m trainer evaluate --artifact ... --corpus ... --report ...`"
    )


def side_by_side(title: str, entries: list[Entry], columns: Mapping[str, tuple[str, ...]]) -> Table:
    """Each report, then each floor once; twice where the reports do not share it. Columns are keys into a report."""
    rows = [(entry.name, "aligned", entry.report) for entry in entries] + floors(entries)
    texts = [[label, *(_figure(report, name, *keys) for keys in columns.values())] for label, name, report in rows]
    return Table(title, texts, ["", *columns])


def _figure(report: dict, predictor: str, part: str, *keys: str) -> str:
    if not keys:  # of the encoder alone
        return f"{report[part]:.3f}" if predictor == "aligned" else ""
    return f"{reduce(getitem, keys, by_predictor(report, part)[predictor]):.3f}"


def floors(entries: list[Entry]) -> list[tuple[str, str, dict]]:
    """(label, name, report) of every floor, once for all reports that share it; the others' labels say whose it is."""
    out = []
    for name, label in LABELS.items():
        owners: list[Entry] = []
        for entry in entries:
            losses = entry.report["baselines"].get(name)
            if losses and not any(_alike(losses, owner.report["baselines"][name]) for owner in owners):
                owners.append(entry)
        out += [(f"{label} ({one.name})" if len(owners) > 1 else label, name, one.report) for one in owners]
    return out


def _alike(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(abs(one[zone] - other[zone]) < 1e-5 for zone in one)


def differences(entries: list[Entry]) -> Table:
    """Each report less the first, figure by figure, with intervals and a word."""
    first = entries[0].figures()
    rows = []
    for other in entries[1:]:
        means, low, high = bootstrap(other.figures() - first)
        rows.append([other.name, *(_cell(*figure) for figure in zip(means, low, high, FIGURES.values()))])
    return Table(f"Against {entries[0].name}", rows, ["", *FIGURES])


def _cell(mean: float, low: float, high: float, more_is_better: bool) -> str:
    word = "within chance"
    if low > 0 or high < 0:
        word = "better" if (mean > 0) == more_is_better else "worse"
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) {word}"


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, K) -> (K,) means, and the ends of their 95 % intervals by resampling the rows."""
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
    body = "".join(f"<h2>{escape(title)}</h2>\n{table(rows, names)}" for title, rows, names in tables)
    return document(TITLE, f"<p>{escape(head)}</p>\n{body}<p>{escape(NOTE)}</p>")
