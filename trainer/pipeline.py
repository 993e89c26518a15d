"""The stages of a run in their order: locks, RUN/recipe.yaml, and what runs on which process."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from dataclasses import replace

from zhclip.models import SDXL

from .artifact.export import export_run
from .base.device import processes, single_process, use_device
from .base.files import hold, read_json, write_text
from .base.recipe import CLIP, Recipe
from .base.settings import resolved, to_yaml
from .cache import stage as cache
from .corpus import stage as corpus
from .models.teacher import teacher_kind
from .plan import format_seconds, plan
from .progress import Listener, Progress
from .report.evaluate import evaluate_run
from .training import loop as training
from .training.setup import train_processes

logger = logging.getLogger(__name__)

STAGES = {
    "corpus": corpus.run,
    "cache": cache.run,
    "train": training.run,
    "evaluate": evaluate_run,
    "export": export_run,
}
PLAN = "plan.json"  # planned seconds of each stage


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Plan the run, then run all stages in the folder `recipe.run`, continuing where an earlier call stopped.

    Before each stage the listener gets Progress("run", stages done, stages, seconds left of the whole run), whose
    metrics are the planned seconds of each stage. Raises TrainerError for what the caller can cure (settings, models,
    corpus, disk, another process in the folder), OSError, and what the listener raises, such as Cancelled.
    """
    recipe = with_folder(resolved(recipe))
    path = recipe.folder / "recipe.yaml"
    use_device(recipe.device)
    with hold(recipe.folder, "--run"):
        estimate, earlier = recipe.folder / PLAN, path.read_text(encoding="utf-8") if path.is_file() else None
        # A run that continues with the same settings is not planned again, which takes some ten seconds.
        if processes().is_main_process and not (estimate.is_file() and earlier == to_yaml(recipe)):
            planned = plan(recipe, progress)
            logger.info(planned.text)
            write_text(estimate, json.dumps(planned.seconds))
            if earlier is None:  # other settings are written when all stages have accepted them
                write_text(path, to_yaml(recipe))
        processes().wait_for_everyone()
        seconds: dict[str, float] = read_json(estimate, "delete it, and give the same command again")
        for done, stage in enumerate(STAGES):
            left = sum(list(seconds.values())[done:])
            logger.info(f"run: {stage}, about {format_seconds(left)} left")
            if progress:
                progress(Progress("run", done, len(STAGES), left, seconds))
            _run_stage(stage, recipe, progress)
        write_recipe(recipe)


def run_stage(stage: str, recipe: Recipe, progress: Listener | None = None) -> None:
    """Run one of STAGES in the run's folder. Raises what `run` raises."""
    recipe = with_folder(resolved(recipe))
    use_device(recipe.device)
    with hold(recipe.folder, "--run"):
        _run_stage(stage, recipe, progress)
        write_recipe(recipe)


def with_folder(recipe: Recipe) -> Recipe:
    """The recipe with `run` set: by default runs/sd15, or runs/sdxl with SDXL's text encoders. Raises ModelError."""
    model = recipe.teacher.model
    if recipe.run is None and model and model != CLIP and teacher_kind(model) is SDXL:
        return replace(recipe, run="runs/sdxl")
    return replace(recipe, run=str(recipe.folder))


def _run_stage(stage: str, recipe: Recipe, progress: Listener | None) -> None:
    shared = stage == "cache" or (stage == "train" and train_processes(recipe.train) > 1)
    with hold(recipe.cache_folder, "--cache.dir") if stage == "cache" else nullcontext():
        if shared:
            STAGES[stage](recipe, progress)
        elif processes().is_main_process:
            with single_process():
                STAGES[stage](recipe, progress)
    processes().wait_for_everyone()


def write_recipe(recipe: Recipe) -> None:
    """Write RUN/recipe.yaml with settings that the stages accepted. A stage that is called alone reads it."""
    if processes().is_main_process:
        write_text(recipe.folder / "recipe.yaml", to_yaml(recipe))
