"""Stage `sweep`: many recipes trained on one cache, and one table of them.

Each row of the grid with each seed is a run in SWEEP/ROW/SEED. Rows of one corpus, one pair of encoders and the same
cache settings share SWEEP/corpus and SWEEP/cache; others have theirs in SWEEP/corpora/ROW. A killed sweep resumes.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ..base.device import use_device
from ..base.errors import TrainerError
from ..base.files import hold, read_json, temporary_folder, write_text
from ..base.recipe import Recipe
from ..base.settings import check_settings, public_settings, require
from ..base.stage_settings import SweepSettings
from ..corpus import stage as corpus
from ..pipeline import run_stage
from ..plan import format_bytes, format_seconds, plan
from ..progress import Listener, Progress
from ..report.tables import LABELS, by_predictor, markdown_table
from ..training.schedule import DivergedError
from .grid import Job, flat, read_grid

log = logging.getLogger(__name__)
DIVERGED, REPORT = "diverged.txt", "report.json"


def run(recipe: Recipe, settings: SweepSettings, progress: Listener | None = None) -> None:
    """Stage `sweep`: the runs that are not finished, and RUN/sweep-GRID.md after each of them.

    Raises BusyError, CorpusError, ModelError, SettingsError; for a wrong grid before anything runs. Cancelled by the
    listener.
    """
    path = Path(require(settings.grid, "sweep.grid", "the rows"))
    jobs = read_grid(path, recipe)
    with hold(recipe.folder, "--run"):
        for job in jobs:
            check_settings(job.recipe.folder, run_settings(job.recipe))
        for job in {job.shared: job for job in jobs}.values():
            corpus.run(replace(job.recipe, run=str(job.shared)), progress)
        began, trained = time.monotonic(), 0
        for number, job in enumerate(jobs, 1):
            try:
                trained += run_job(job, progress)
            except TrainerError as error:
                raise type(error)(f"row {job.row}, seed {job.seed}: {error}") from error
            text = table(f"Sweep {path.stem}, {number} of {len(jobs)} runs", jobs)
            write_text(recipe.folder / f"sweep-{path.stem}.md", text)  # several grids can share a folder
            left = (time.monotonic() - began) / trained * (len(jobs) - number) if trained else None
            log.info(f"sweep: {number} of {len(jobs)}" + (f", {format_seconds(left)} left" if left else ""))
            if progress:
                progress(Progress("sweep", number, len(jobs), left))
    log.info("%s", text)


def log_plan(recipe: Recipe, settings: SweepSettings, progress: Listener | None = None) -> None:
    """`sweep --plan`: in the log the time that each row takes, and all of them. Raises what `run` raises."""
    jobs = read_grid(Path(require(settings.grid, "sweep.grid", "the rows")), recipe)
    use_device(recipe.device)
    total, caches = 0.0, {}
    for job in jobs:
        if job.seed == 0:
            planned = plan(job.recipe, progress)
            once = planned.seconds.pop("corpus") + planned.seconds.pop("cache")
            total += 0.0 if job.shared in caches else once
            caches[job.shared] = planned.sizes["cache"]
            seeds, seconds = sum(other.row == job.row for other in jobs), sum(planned.seconds.values())
            total += seeds * seconds
            log.info("plan: row %s: %s, seeds: %d", job.row, format_seconds(seconds), seeds)
    disk = format_bytes(sum(caches.values()))
    log.info("plan: %d runs and their caches, %s: %s", len(jobs), disk, format_seconds(total))


def run_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that determine a run's figures, by dotted name."""
    settings = public_settings(recipe)
    del settings["cache"], settings["export"], settings["train"]["save_every"]
    return flat(settings)


def run_job(job: Job, progress: Listener | None) -> bool:
    """Train and score a run unless it is finished, on the corpus and the cache of the sweep; whether it had to."""
    folder = job.recipe.folder
    if (folder / DIVERGED).is_file() or (folder / REPORT).is_file():
        return False
    if not (folder / "corpus").is_dir():
        with temporary_folder(folder / "corpus") as temporary:
            shutil.copytree(job.shared / "corpus", temporary / "corpus").replace(folder / "corpus")
    try:
        for stage in ("cache", "train", "evaluate"):
            run_stage(stage, job.recipe, progress)
    except DivergedError as error:
        write_text(folder / DIVERGED, str(error).partition(": ")[0])  # after it follows advice for a single run
    for checkpoint in (folder / "checkpoints").glob("step-*.safetensors"):
        checkpoint.unlink()  # the final weights are beside; optimiser states are two thirds of a sweep's disk
    return True


def table(title: str, jobs: list[Job]) -> str:
    """The finished runs in Markdown. Raises DamagedError."""
    reports: dict[str, list[Any]] = {}
    for job in jobs:
        report, diverged = (job.recipe.folder / name for name in (REPORT, DIVERGED))
        if report.is_file():
            hint = f"delete {report.parent} and run the sweep again"
            reports.setdefault(job.row, []).append(read_json(report, hint))
        elif diverged.is_file():
            why = diverged.read_text(encoding="utf-8")
            reports.setdefault(job.row, []).append(f"diverged with seed {job.seed}: {why}")
    return to_markdown(title, reports)


def report_figures(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """A report's figures by column, for the encoder (`aligned`) and each baseline."""
    losses, recalls, content = (by_predictor(report, part) for part in ("loss", "retrieval", "retrieval_content"))
    return {
        name: {
            **{"loss" if zone == "all" else zone: value for zone, value in loss.items()},
            "skill": 1 - loss["all"] / losses["constant"]["all"],
            "R@1 zh to en": recalls[name]["zh_to_en"]["R@1"],
            "R@1 en to zh": recalls[name]["en_to_zh"]["R@1"],
            "R@1 zh to en, content": content[name]["zh_to_en"]["R@1"],
        }
        for name, loss in losses.items()
    }


def to_markdown(title: str, runs: dict[str, list[Any]]) -> str:
    """The table in Markdown. runs: by row, a report for each seed, or a text that says why it has none."""
    reports = {row: [run for run in each if isinstance(run, dict)] for row, each in runs.items()}
    scored = {row: [report_figures(report) for report in each] for row, each in reports.items()}
    columns = list(dict.fromkeys(name for each in scored.values() for seed in each for name in seed["aligned"]))
    lines = []
    baselines: dict[str, dict[str, Any]] = {}
    for row, each in scored.items():
        values = [[seed["aligned"][name] for seed in each if name in seed["aligned"]] for name in columns]
        label = "; ".join([row, *(run for run in runs[row] if isinstance(run, str))])
        lines.append([label, str(len(each)), *map(cell, values)])
        for seed in each:
            own = {name: figure for name, figure in seed.items() if name != "aligned"}
            if own not in baselines.values():
                baselines[row] = own
    for row, predictors in baselines.items():
        for name, figure in predictors.items():
            label = LABELS[name] if len(baselines) == 1 else f"{LABELS[name]} ({row})"
            cells = [cell([figure[column]] if column in figure else []) for column in columns]
            lines.append([f"*{label}*", "", *cells])
    pairs = next((report["rows"] for each in reports.values() for report in each), 0)
    text = (
        "Mean over the seeds, and in brackets the largest value minus the smallest. Loss is mean cosine loss, skill is "
    )
    text += "1 - loss / constant. Rows in italics are baselines."
    return f"# {title}: {pairs} pairs\n\n{text}\n\n{markdown_table(lines, ['', 'seeds', *columns])}\n"


def cell(values: Sequence[float]) -> str:
    """The mean and, of several values, the largest minus the smallest."""
    if not values:
        return ""
    spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
    return f"{round(fmean(values), 3) + 0.0:.3f}{spread}"  # + 0.0: no -0.000
