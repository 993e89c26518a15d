"""Stage `sweep`: many recipes trained on one cache, and one table of them.

Each row of the grid with each seed is a run in SWEEP/ROW/SEED. Rows of one corpus, one pair of encoders and the same
cache settings share SWEEP/corpus and SWEEP/cache; others have theirs in SWEEP/corpora/ROW. A killed sweep resumes.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

from ..artifact.export import FILE
from ..base.device import processes
from ..base.errors import TrainerError
from ..base.files import hold, read_json, replacing_folder, write_text
from ..base.recipe import Recipe, SettingsError
from ..base.settings import check_settings, require
from ..base.stage_settings import SweepSettings
from ..corpus import stage as corpus
from ..pipeline import run_stage
from ..progress import Listener
from ..training.schedule import DivergedError
from .grid import Job, plan_jobs, read_grid, run_settings
from .table import Runs, summary, to_markdown

log = logging.getLogger(__name__)
DIVERGED, REPORT = "diverged.json", "report.json"


def run(recipe: Recipe, settings: SweepSettings, progress: Listener | None = None) -> None:
    """Stage `sweep`: the runs that are not finished, and RUN/sweep-GRID.md and .json after each of them.

    Raises BusyError, CorpusError, ModelError, SettingsError; for a wrong grid before anything runs. Cancelled by the
    listener.
    """
    if processes().num_processes > 1:
        raise SettingsError("a sweep makes its runs one by one: start it without a launcher")
    path = Path(require(settings.grid, "sweep.grid", "the rows"))
    jobs = plan_jobs(recipe, read_grid(path, recipe))
    with hold(recipe.folder, "--run"):
        for job in jobs:
            check_settings(job.recipe.folder, run_settings(job.recipe))
        for job in {job.shared: job for job in jobs}.values():
            corpus.run(replace(job.recipe, run=str(job.shared)), progress)
        for job in jobs:
            try:
                run_job(job, settings.export, progress)
            except TrainerError as error:
                raise type(error)(f"row {job.row}, seed {job.seed}: {error}") from error
            text = write_table(recipe.folder / f"sweep-{path.stem}", jobs)  # several grids can share a folder
    log.info("%s", text)


def run_job(job: Job, export: bool, progress: Listener | None) -> None:
    """The stages of `run` that are not done yet, with the corpus and the cache of the sweep."""
    folder = job.recipe.folder
    if (folder / DIVERGED).is_file():
        return
    if not (folder / "corpus").is_dir():
        with replacing_folder(folder / "corpus") as copy:
            shutil.copytree(job.shared / "corpus", copy, dirs_exist_ok=True)
    if not (folder / REPORT).is_file():
        try:
            for stage in ("cache", "train", "evaluate"):
                run_stage(stage, job.recipe, progress)
        except DivergedError as error:
            why = str(error).partition(": ")[0]  # after it follows advice for a single run
            write_text(folder / DIVERGED, json.dumps(why))
            return log.info("sweep: %s/%d diverged: %s", job.row, job.seed, error)
    if export and not (folder / FILE).is_file():
        run_stage("export", job.recipe, progress)
    for checkpoint in (folder / "checkpoints").glob("step-*.safetensors"):
        checkpoint.unlink()  # the final weights are beside; optimiser states are two thirds of a sweep's disk


def write_table(path: Path, jobs: list[Job]) -> str:
    """Write the finished runs' table to PATH.md and PATH.json. Returns the Markdown."""
    runs: Runs = {}
    unfinished = []
    for job in jobs:
        files = [job.recipe.folder / name for name in (DIVERGED, REPORT)]
        file = next((file for file in files if file.is_file()), None)
        if file:
            runs.setdefault(job.row, {})[job.seed] = read_json(file, f"delete {file.parent} and run the sweep again")
        else:
            unfinished.append(f"{job.row}/{job.seed}")
    table = {"unfinished": unfinished, **summary(runs)}
    text = to_markdown(f"Sweep {path.name.removeprefix('sweep-')}", table)
    write_text(path.with_name(f"{path.name}.json"), json.dumps(table, indent=1))
    write_text(path.with_name(f"{path.name}.md"), text)
    return text
