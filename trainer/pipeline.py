"""The stages of a run in their order: locks, RUN/recipe.yaml, and what runs on which process."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from .artifact.export import export_run
from .base.device import processes, use_device
from .base.files import write_text
from .base.locks import hold
from .base.recipe import Recipe
from .base.settings import checked, to_yaml
from .cache import stage as cache
from .corpus import stage as corpus
from .plan import in_words, plan
from .progress import Listener, Progress
from .report.evaluate import evaluate_run
from .training import loop as training

logger = logging.getLogger(__name__)

STAGES = {
    "corpus": corpus.run,
    "cache": cache.run,
    "train": training.run,
    "evaluate": evaluate_run,
    "export": export_run,
}
DISTRIBUTED = ("cache", "train")  # stages that all processes of a launcher work on; the main process runs the others


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Plan the run, then run all stages in the folder `recipe.run`, continuing where an earlier call stopped.

    Before each stage the listener gets Progress("run", stages done, stages, seconds left of the whole run), whose
    metrics are the planned seconds of each stage.

    Raises TrainerError for what the caller can cure (settings, models, corpus, disk, another process in the folder),
    OSError, and what the listener raises, such as Cancelled.
    """
    recipe = checked(recipe)
    use_device(recipe.device)
    with hold(recipe.folder, "--run"):
        seconds: dict[str, float] = {}
        if processes().is_main_process:
            planned = plan(recipe, progress)
            logger.info(planned.text)
            seconds = planned.seconds
        processes().wait_for_everyone()
        _remember(recipe, again=False)
        for done, stage in enumerate(STAGES):
            if seconds:
                left = sum(list(seconds.values())[done:])
                logger.info(f"run: {stage}, about {in_words(left)} left")
                if progress:
                    progress(Progress("run", done, len(STAGES), left, seconds))
            _run_stage(stage, recipe, progress)
        _remember(recipe)


def run_stage(stage: str, recipe: Recipe, progress: Listener | None = None) -> None:
    """Run one of STAGES in the run's folder. Raises what `run` raises."""
    recipe = checked(recipe)
    use_device(recipe.device)
    with hold(recipe.folder, "--run"):
        _remember(recipe, again=False)
        _run_stage(stage, recipe, progress)
        _remember(recipe)


def _run_stage(stage: str, recipe: Recipe, progress: Listener | None) -> None:
    with hold(recipe.cache_folder, "--cache.dir") if stage == "cache" else nullcontext():
        if stage in DISTRIBUTED or processes().is_main_process:
            STAGES[stage](recipe, progress)
    processes().wait_for_everyone()


def _remember(recipe: Recipe, again: bool = True) -> None:
    """Write RUN/recipe.yaml; `again`: over another one. Only settings that the stages accepted replace older ones."""
    path = recipe.folder / "recipe.yaml"
    if processes().is_main_process and (again or not path.is_file()):
        write_text(path, to_yaml(recipe))
