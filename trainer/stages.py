"""The table of stages, and what surrounds each: locks, leftovers, errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from safetensors import SafetensorError

from zhclip.artifact import ArtifactError

from . import cache, checkpoint, compare, compare_reports, convert, corpus, evaluate, export, publish, train, translate
from .allocator import keep_freed_memory
from .export import MAKING, ExportError
from .failures import full_disk, goes_on, say, stoppable
from .files import DamagedError, sweep
from .locks import BusyError, hold
from .publish import PublishError
from .recipe import Recipe, SettingsError, to_yaml, write_text
from .report import to_markdown
from .rows import CorpusError
from .settings import OWN, parse_recipe, to_recipe, to_sweep
from .stage_settings import EvaluateSettings, Translation
from .sweep import run as run_sweep
from .train import DivergedError
from .weights import ModelError

STAGES: dict[str, Callable[[Recipe], object]] = {
    "corpus": corpus.run,
    "cache": cache.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "export": export.run,
}
SHARED = ("cache", "train")  # what the processes of a launcher do together; one alone does the rest
EXPECTED = (
    *(ArtifactError, BusyError, CorpusError, DamagedError, DivergedError, ExportError, ModelError, PublishError),
    SettingsError,
)
PARTS = ("corpus", "checkpoints", "card")
# What a killed run can leave in its folder beside the stages' results, and in the cache's.
LEFT = (
    "recipe.yaml.tmp",
    MAKING,
    "report.*.tmp",
    ".adapter-*",
    ".report-*",
    *(f"{part}/*.tmp" for part in PARTS),
)
LEFT_IN_CACHE = ("train*/*/*.tmp", "dev*/*/*.tmp")
# The setting that says where a stage writes, and the flags that move it, for one that writes under --run alone.
OUTPUTS = {
    "evaluate": "report",
    "translate": "translate.out",
    "convert": "out",
    "compare": "out",
    "compare-reports": "out",
}
MOVES = {**dict.fromkeys([*STAGES, "run"], "--run or --cache.dir"), "evaluate": "--run or --report"}


def perform(root: ArgumentParser, values: Namespace) -> int:
    """Run the stage that was asked for. Returns the exit code: 0, or 1 after one line that says what is wrong.

    Ctrl-C and SIGTERM end the process after one line that says where the same command goes on.
    """
    stage = values.subcommand
    if stage not in OWN:
        keep_freed_memory()
    with stoppable(stage):
        try:
            if stage in OWN:
                values[stage].pop("config", None)
                OTHERS[stage](OWN[stage][0](**vars(root.instantiate(values)[stage])))
            elif stage == "sweep":
                run_sweep(*to_sweep(values[stage]))
            else:
                _run(stage, to_recipe(values[stage]))
        except (*EXPECTED, OSError, SafetensorError) as error:
            output = OUTPUTS.get(stage, "run")
            where = Path(values[stage].get(output) or values[stage].get("run") or ".")
            said = full_disk(error, where, MOVES.get(stage, f"--{output}"))
            if said is None and not isinstance(error, EXPECTED):
                if not isinstance(error, OSError) or not error.filename:
                    raise
                said = f"{error.filename}: {error.strerror}"
            say(f"{stage}: {said or error}")
            return 1
    return 0


def _run(stage: str, recipe: Recipe) -> None:
    with _held(recipe):
        resolved = recipe.folder / "recipe.yaml"
        if cache.processes().is_main_process and not resolved.is_file():
            write_text(resolved, to_yaml(recipe))
        for name in STAGES if stage == "run" else (stage,):
            with goes_on(partial(_kept, name, recipe)):
                if name in SHARED or cache.processes().is_main_process:
                    _stage(name, recipe)
            cache.processes().wait_for_everyone()
        # Written again only now: settings that a stage refused must not stand beside what the old ones made.
        if cache.processes().is_main_process:
            write_text(resolved, to_yaml(recipe))
    if stage == "run" and cache.processes().is_main_process:
        print((recipe.folder / "report.md").read_text(encoding="utf-8"))
    cache.processes().destroy_process_group()


@contextmanager
def _held(recipe: Recipe) -> Iterator[None]:
    """Hold a run's folder, cleared of what killed runs left there."""
    with hold(recipe.folder / ".lock", f"--run {recipe.run}", "--run"):
        if cache.processes().is_main_process:
            sweep(recipe.folder, *LEFT)
        yield


def _stage(name: str, recipe: Recipe) -> None:
    """One stage of a recipe. Runs can share a cache, so the stage that fills it holds that too."""
    with ExitStack() as held:
        if name == "cache":
            folder = recipe.cache_folder
            held.enter_context(hold(folder / ".lock", f"--cache.dir {folder}", "--cache.dir"))
            if cache.processes().is_main_process:
                sweep(folder, *LEFT_IN_CACHE)
        STAGES[name](recipe)


def _kept(stage: str, recipe: Recipe) -> str:
    """Where the same command goes on with an interrupted stage."""
    if stage == "train" and (newest := checkpoint.newest(recipe.folder / "checkpoints")):
        return f"from step {int(newest.stem.rpartition('-')[2])}"
    if stage == "cache" and (count := len(list(recipe.cache_folder.glob("*/*/*.safetensors")))):
        return f"behind the {count} shards in {recipe.cache_folder}"
    return f"with the {stage} stage from its start"


def _translate(settings: Translation) -> None:
    parts = Path(f"{settings.translate.out}.parts")
    with goes_on(lambda: f"behind the {len(list(parts.glob('*/*.jsonl')))} shards in {parts}"):
        translate.run(settings.translate)


def _evaluate(settings: EvaluateSettings) -> None:
    if settings.artifact:
        found = evaluate.of_artifact(settings)
    elif settings.run:
        recipe = parse_recipe(Path(settings.run) / "recipe.yaml")
        recipe.run = settings.run  # the folder may have been moved
        with _held(recipe):
            found = evaluate.run(recipe)
    else:
        raise SettingsError("give --artifact with --teacher.model and --corpus, or --run")
    if settings.report:
        evaluate.write_report(Path(settings.report), found)
    print(to_markdown(found.report))


OTHERS: dict[str, Callable[[Any], object]] = {
    "evaluate": _evaluate,
    "translate": _translate,
    "convert": convert.run,
    "compare-reports": compare_reports.run,
    "compare": compare.run,
    "publish": publish.run,
}
