"""Stage `sweep`: many recipes trained on one cache, and one table of them.

Each row of the grid with each seed is a run in SWEEP/ROW/SEED. Rows of one corpus, one pair of encoders and the same
cache settings share SWEEP/corpus and SWEEP/cache; others have theirs in SWEEP/corpora/ROW. A killed sweep resumes, and
several processes can work on one sweep: a run that another one holds is left to it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ..artifact.export import FILE, export_run
from ..base.device import processes
from ..base.errors import TrainerError
from ..base.files import read_json, replacing_folder, write_text
from ..base.locks import BusyError, hold
from ..base.recipe import Recipe, SettingsError
from ..base.settings import check_settings, require, to_yaml
from ..base.stage_settings import SweepSettings
from ..cache import stage as cache
from ..corpus import stage as corpus
from ..progress import Listener
from ..report.evaluate import evaluate_run
from ..training import loop as training
from ..training.schedule import DivergedError
from .grid import Job, plan_jobs, read_grid, run_settings
from .table import Outcome, summary, to_markdown

log = logging.getLogger(__name__)
DIVERGED, REPORT, SECONDS = "diverged.json", "report.json", "seconds.json"
LOCK = ".lock"


def run(recipe: Recipe, settings: SweepSettings, progress: Listener | None = None) -> None:
    """Stage `sweep`: the runs that are not finished, and RUN/sweep-GRID.md and .json after each of them.

    Raises CorpusError, ModelError, SettingsError; for a wrong grid before anything runs. Cancelled by the listener.
    """
    if processes().num_processes > 1:
        raise SettingsError(
            "a sweep makes its runs one by one: start it several times on one folder, without a launcher"
        )
    path = Path(require(settings.grid, "sweep.grid", "the rows"))
    jobs = plan_jobs(recipe, read_grid(path, settings.set, recipe))
    with waiting(recipe.folder):
        for job in jobs:
            check_settings(job.recipe.folder, run_settings(job.recipe))
    for home in {job.home.run: job.home for job in jobs}.values():
        with waiting(home.cache_folder):
            corpus.run(home, progress)
    table = recipe.folder / f"sweep-{path.stem}"  # several grids can share a folder, and the rows in common
    for job in jobs:
        try:
            with hold(job.recipe.folder, "--run"):
                if not is_done(job, settings.export):
                    run_job(job, settings.export, progress)
        except BusyError:
            log.info("sweep: another process works on %s", job.name)
        except TrainerError as error:
            raise type(error)(f"row {job.row}, seed {job.seed}: {error}") from error
        with waiting(recipe.folder):
            text = write_table(table, jobs)
    log.info("%s", text)


@contextmanager
def waiting(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, after any process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        yield


def is_done(job: Job, exported: bool) -> bool:
    """Whether nothing is left of a run: it diverged, or it has a report and, if asked for, its encoder."""
    folder = job.recipe.folder
    return (folder / DIVERGED).is_file() or (
        (folder / REPORT).is_file() and (not exported or (folder / FILE).is_file())
    )


def run_job(job: Job, exported: bool, progress: Listener | None) -> None:
    """The stages of `run`, with the corpus and the cache of the sweep."""
    recipe, folder = job.recipe, job.recipe.folder
    if not (folder / "corpus").is_dir():
        with replacing_folder(folder / "corpus") as copy:
            shutil.copytree(job.home.folder / "corpus", copy, dirs_exist_ok=True)
    write_text(folder / "recipe.yaml", to_yaml(recipe))
    if not (folder / REPORT).is_file():
        with waiting(recipe.cache_folder):
            cache.run(recipe, progress)
        resumed, began = (folder / "checkpoints").is_dir(), time.monotonic()
        try:
            training.run(recipe, progress)
        except DivergedError as error:
            write_text(folder / DIVERGED, json.dumps(str(error)))
            log.info("sweep: %s diverged: %s", job.name, error)
            return
        if not resumed:
            write_text(folder / SECONDS, json.dumps(time.monotonic() - began))
        evaluate_run(recipe, progress)
    if exported:
        export_run(recipe, progress)
    for checkpoint in (folder / "checkpoints").glob("step-*.safetensors"):
        checkpoint.unlink()  # the final weights are beside; optimiser states are two thirds of a sweep's disk
    log.info("sweep: %s: skill %.3f", job.name, read_json(folder / REPORT, "delete it")["skill"])


def write_table(path: Path, jobs: list[Job]) -> str:
    """Write the finished runs' table to PATH.md and PATH.json. Returns the Markdown."""
    outcomes = [outcome for job in jobs if (outcome := read_outcome(job))]
    finished = {(outcome.row, outcome.seed) for outcome in outcomes}
    unfinished = [job.name for job in jobs if (job.row, job.seed) not in finished]
    table = {"unfinished": unfinished, **summary(outcomes)}
    text = to_markdown(f"Sweep {path.name.removeprefix('sweep-')}", table)
    write_text(path.with_name(f"{path.name}.json"), json.dumps(table, indent=1))
    write_text(path.with_name(f"{path.name}.md"), text)
    return text


def read_outcome(job: Job) -> Outcome | None:
    """A run's report, or why it diverged; None for one that is not finished."""
    folder, cure = job.recipe.folder, f"delete the folder and run the sweep again: {job.name}"
    if (folder / DIVERGED).is_file():
        why = read_json(folder / DIVERGED, cure).partition(": ")[0]  # after it follows advice for a single run
        return Outcome(job.row, job.seed, job.home.run, diverged=why)
    if not is_done(job, False):
        return None
    seconds = read_json(folder / SECONDS, cure) if (folder / SECONDS).is_file() else None
    return Outcome(job.row, job.seed, job.home.run, read_json(folder / REPORT, cure), seconds)
