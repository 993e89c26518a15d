"""Runs a stage: its locks, what killed runs left behind, its errors in one line."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from safetensors import SafetensorError

from zhclip.artifact import ArtifactError

from .artifact.export import ExportError
from .artifact.publish import PublishError
from .base.allocator import keep_freed_memory
from .base.device import processes
from .base.errors import full_disk
from .base.failures import goes_on, say, stoppable
from .base.files import DamagedError, write_text
from .base.locks import BusyError, hold_cache, hold_run
from .base.recipe import Recipe, SettingsError
from .base.settings import to_recipe, to_yaml
from .base.stage_settings import SweepSettings
from .corpus.lines import CorpusError
from .models.load import ModelError
from .plan import left, plan
from .stages import RUN, STAGES, Stage
from .training.schedule import DivergedError

EXPECTED = (
    *(ArtifactError, BusyError, CorpusError, DamagedError, DivergedError, ExportError, ModelError, PublishError),
    SettingsError,
)


def perform(root: ArgumentParser, values: Namespace) -> int:
    """Run the stage that was asked for. Returns the exit code: 0, or 1 after one line that says what is wrong.

    Ctrl-C and SIGTERM end the process after one line that says where the same command goes on.
    """
    stage, given = STAGES[values.subcommand], values[values.subcommand]
    with stoppable(stage.name):
        try:
            if stage.settings is Recipe:
                plan_alone = bool(given.pop("plan", False))
                _run(stage, to_recipe(given), plan_alone)
            elif stage.settings is SweepSettings:
                keep_freed_memory()
                settings = SweepSettings(**vars(given.pop("sweep")))
                _function(stage.function)(to_recipe(given), settings)
            else:
                given.pop("config", None)
                settings = stage.settings(**vars(root.instantiate(values)[stage.name]))
                with goes_on(partial(_resumes, stage, settings)):
                    _function(stage.function)(settings)
        except (*EXPECTED, OSError, SafetensorError) as error:
            where = Path(given.get(stage.output) or given.get("run") or ".")
            said = full_disk(error, where)
            if said is None and not isinstance(error, EXPECTED):
                if not isinstance(error, OSError) or not error.filename:
                    raise
                said = f"{error.filename}: {error.strerror}"
            say(f"{stage.name}: {said or error}")
            return 1
    return 0


def _function(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(import_module(f".{module}", __package__), function)


def _resumes(stage: Stage, settings: Any) -> str:
    return stage.resumes(settings) if stage.resumes else f"with the {stage.name} stage from its start"


def _run(stage: Stage, recipe: Recipe, plan_alone: bool) -> None:
    """A stage of a recipe, or all of them for `run`, with the run's folder held."""
    keep_freed_memory()
    if plan_alone:
        print(plan(recipe)[0])
        return
    with hold_run(recipe):
        resolved = recipe.folder / "recipe.yaml"
        if processes().is_main_process and not resolved.is_file():
            write_text(resolved, to_yaml(recipe))
        seconds: dict[str, float] = {}
        if not stage.step and processes().is_main_process:
            text, seconds = plan(recipe)
            print(text, flush=True)
        processes().wait_for_everyone()
        for step in (stage,) if stage.step else RUN:
            if seconds:
                print(f"run: {step.name}, about {left(seconds, step.name)} left", flush=True)
            with goes_on(partial(_resumes, step, recipe)), ExitStack() as held:
                if step.fills_cache:
                    held.enter_context(hold_cache(recipe))
                if step.shared or processes().is_main_process:
                    _function(step.step)(recipe)
            processes().wait_for_everyone()
        # Written again only now: settings that a stage refused must not stand beside what the old ones made.
        if processes().is_main_process:
            write_text(resolved, to_yaml(recipe))
    if not stage.step and processes().is_main_process:
        print((recipe.folder / "report.md").read_text(encoding="utf-8"))
    processes().destroy_process_group()
