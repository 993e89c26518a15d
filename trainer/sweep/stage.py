"""Many recipes on one cache, and one table of them.

Each row of the grid with each seed is a run of its own in SWEEP/ROW/SEED, made by the stages that `run` goes through.
Rows of one corpus, one pair of encoders and one budget of disk share SWEEP/corpus and SWEEP/cache; a row with others
has them in SWEEP/corpora/ROW. A run is claimed by a lock file, so several processes can work on one sweep: what another
one holds is left to it, and a cache is made by one while the others wait.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..artifact.export import FILE, export_run
from ..base.device import processes
from ..base.files import DamagedError, scratch, write_text
from ..base.locks import BusyError, hold
from ..base.recipe import Recipe, SettingsError
from ..base.settings import check_settings, corpus_name, require, to_yaml
from ..base.stage_settings import SweepSettings
from ..cache import stage as cache
from ..corpus import stage as corpus
from ..corpus.lines import CorpusError
from ..models.load import ModelError
from ..report.further import cache_further, score_further
from ..report.stage import evaluate_run
from ..training import checkpoint
from ..training import stage as training
from ..training.schedule import DivergedError
from .grid import Job, plan, read_grid, shaping
from .table import Outcome, summary, to_markdown

DIVERGED = "diverged.json"
CLOCK = "seconds.json"
REPORT = "report.json"
LOCK = ".lock"  # as `run` names it


def run(recipe: Recipe, settings: SweepSettings) -> None:
    """Stage `sweep`: all runs that neither are finished nor another process's, then RUN/sweep-GRID.md and .json.

    Raises SettingsError, CorpusError, ModelError; for a wrong grid before anything runs.
    """
    if processes().num_processes > 1:
        raise SettingsError("a sweep's runs are made one by one; start `sweep` several times on one folder instead")
    path = Path(require(settings.grid, "sweep.grid", "the rows"))
    grid = read_grid(path, settings.set, recipe)
    also = _by_name(settings.also)
    jobs = plan(recipe, grid.rows, grid.seeds)
    with _alone(recipe.folder):
        for job in jobs:
            check_settings(job.recipe.folder, shaping(job.recipe))
    for home in {job.home.run: job.home for job in jobs}.values():
        with _alone(home.cache_folder):
            corpus.run(home)
            cache_further(home, also)
    # Named by the grid: several can share a folder, and the rows that they have in common.
    table = recipe.folder / f"sweep-{path.stem}.md"
    for job in jobs:
        made = not _done(job, also, settings.export) and _make(job, also, settings.export)
        if made:
            _write_table(table, jobs, also)
    print(_write_table(table, jobs, also))


def _by_name(paths: list[str]) -> dict[str, str]:
    named = {Path(path).stem: path for path in paths}
    if len(named) < len(paths):
        raise SettingsError(f"--sweep.also {' '.join(paths)}: two have the same name, and reports are named by it")
    return named


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, after any other process that holds it."""
    lock = FileLock(folder / LOCK)
    try:
        held = lock.acquire(timeout=1)
    except Timeout:
        print(f"sweep: waiting for another process that works in {folder}", flush=True)
        held = lock.acquire()
    with held:
        yield


def _make(job: Job, also: dict[str, str], exported: bool) -> bool:
    """Make a run, unless another process holds it. Returns whether this one made it."""
    try:
        with hold(job.recipe.folder / LOCK, job.name, "--run"):
            if _done(job, also, exported):
                return False
            _stages(job, also, exported)
    except BusyError:
        print(f"sweep: {job.name} is another process's", flush=True)
        return False
    except (CorpusError, DamagedError, ModelError, SettingsError) as error:
        raise type(error)(f"row {job.row}, seed {job.seed}: {error}") from error
    return True


def _done(job: Job, also: dict[str, str], exported: bool) -> bool:
    folder = job.recipe.folder
    wanted = [REPORT, *(f"also/{name}.json" for name in also), *([FILE] if exported else [])]
    return (folder / DIVERGED).is_file() or all((folder / name).is_file() for name in wanted)


def _stages(job: Job, also: dict[str, str], exported: bool) -> None:
    """What `run` does, with the corpus and the cache of the sweep, and the further pairs scored."""
    recipe = job.recipe
    _copy_corpus(job.home.folder / "corpus", recipe.folder / "corpus")
    write_text(recipe.folder / "recipe.yaml", to_yaml(recipe))
    if not (recipe.folder / REPORT).is_file():
        with _alone(recipe.cache_folder):
            cache.run(recipe)
        try:
            _train(recipe)
        except DivergedError as error:
            write_text(recipe.folder / DIVERGED, json.dumps({"error": str(error)}))
            print(f"sweep: {job.name} diverged: {error}", flush=True)
            return
        evaluate_run(recipe)
    for name in also:
        if not (recipe.folder / "also" / f"{name}.json").is_file():
            score_further(recipe, job.home, name)
    if exported:
        export_run(recipe)
    for old in (recipe.folder / "checkpoints").glob("step-*.safetensors"):
        old.unlink()  # the final weights stand beside, and the optimiser's state is two thirds of a sweep's disk
    report = _read(recipe.folder / REPORT)
    print(f"sweep: {job.name}: skill {report['skill']:.3f}, {_seconds(recipe.folder):.0f} s of training", flush=True)


def _copy_corpus(source: Path, target: Path) -> None:
    """Give a run its corpus, as `run` would have made it there: whole or not at all."""
    if not target.is_dir():
        with scratch(target) as folder:
            shutil.copytree(source, folder / target.name, copy_function=_link)
            (folder / target.name).replace(target)


def _link(source: str, target: str) -> None:
    # Such files are replaced and never written into, so that one on the disk serves all runs.
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _train(recipe: Recipe) -> None:
    """Stage `train`, and the seconds that it took. What a killed process did after its last checkpoint counts for
    nothing, since it is done again."""
    before, began = _seconds(recipe.folder), time.time()
    write_text(recipe.folder / CLOCK, json.dumps({"seconds": before, "since": began}))
    training.run(recipe)
    write_text(recipe.folder / CLOCK, json.dumps({"seconds": before + time.time() - began}))


def _seconds(folder: Path) -> float:
    if not (folder / CLOCK).is_file():
        return 0.0
    clock = _read(folder / CLOCK)
    newest = checkpoint.newest(folder / "checkpoints")
    if "since" not in clock or newest is None:
        return clock["seconds"]
    return clock["seconds"] + max(0.0, newest.stat().st_mtime - clock["since"])


def _write_table(path: Path, jobs: list[Job], also: dict[str, str]) -> str:
    """Write the table of all runs that are finished, as Markdown and beside it as JSON. Returns the former."""
    with _alone(path.parent):
        outcomes = [outcome for job in jobs if (outcome := _outcome(job, also))]
        finished = {(outcome.row, outcome.seed) for outcome in outcomes}
        missing = [job.name for job in jobs if (job.row, job.seed) not in finished]
        tables = summary(outcomes)
        text = to_markdown(f"Sweep {path.stem.removeprefix('sweep-')}", tables, missing)
        write_text(path.with_suffix(".json"), json.dumps({"unfinished": missing, "tables": tables}, indent=1))
        write_text(path, text)
    return text


def _outcome(job: Job, also: dict[str, str]) -> Outcome | None:
    folder = job.recipe.folder
    if (folder / DIVERGED).is_file():
        # The advice behind the colon is for whoever trains that row alone.
        why = _read(folder / DIVERGED)["error"].partition(": ")[0]
        return Outcome(job.row, job.seed, corpus_name(job.recipe.corpus), "", {}, 0.0, why)
    if not _done(job, also, False):
        return None
    own = corpus_name(job.recipe.corpus)
    reports = {Path(source).name: _read(folder / "also" / f"{name}.json") for name, source in also.items()}
    return Outcome(job.row, job.seed, own, job.home.run, {own: _read(folder / REPORT)} | reports, _seconds(folder))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
