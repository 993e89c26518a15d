"""The command line: a table of stages, their flags, progress bars, and one line for each expected error.

Process-wide switches (logging, malloc) are set here and nowhere else: a stage can run in another program's process.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate.utils.environment import get_int_from_env
from safetensors import SafetensorError
from tqdm import tqdm

from zhclip.io import ArtifactError

from .base import stage_settings as settings
from .base.device import processes
from .base.disk import full_disk
from .base.errors import TrainerError
from .base.recipe import Recipe, SettingsError
from .base.settings import new_parser, parse, recipe_parser, to_recipe
from .progress import Listener, Progress

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SWITCHES = ("--plan", "--push", "--sweep.export")  # flags that stand alone; all others take a value
MAIN_PROCESS = get_int_from_env(["RANK"], 0) == 0  # of those that `accelerate launch` or `torchrun` start


def _run(recipe: Recipe, progress: Listener | None, plan_only: bool = False) -> None:
    if plan_only:
        from .plan import plan

        return print(plan(recipe, progress).text)
    from .pipeline import run

    run(recipe, progress)


def _one_stage(name: str, recipe: Recipe, progress: Listener | None) -> None:
    from .pipeline import run_stage

    run_stage(name, recipe, progress)


def _sweep(given: tuple[Recipe, settings.SweepSettings], progress: Listener | None) -> None:
    from .sweep.stage import run

    run(*given, progress)


def _evaluate(given: settings.EvaluateSettings, progress: Listener | None) -> None:
    from .report.evaluate import evaluate

    evaluate(given, progress)


def _translate(given: settings.Translation, progress: Listener | None) -> None:
    from .translate.stage import run

    run(given, progress)


def _convert(given: settings.ConvertSettings, progress: Listener | None) -> None:
    from .artifact.convert import convert_published

    convert_published(given, progress)


def _compare_reports(given: settings.CompareReportsSettings, progress: Listener | None) -> None:
    from .report.compare import compare_reports

    compare_reports(given)


def _compare(given: settings.CompareSettings, progress: Listener | None) -> None:
    from diffusers.utils import logging as diffusers_logging

    from .pictures.compare import run

    diffusers_logging.set_verbosity_error()
    run(given, progress)


def _publish(given: settings.PublishSettings, progress: Listener | None) -> None:
    from .artifact.publish import publish_run

    publish_run(given)


class Stage(NamedTuple):
    """One stage of the command line; `function` is called with its settings and a listener."""

    help: str
    settings: Any
    function: Callable[..., None]


STAGES = {
    "corpus": Stage("read, clean, deduplicate and split the pairs", Recipe, partial(_one_stage, "corpus")),
    "cache": Stage("compute teacher targets and frozen student states", Recipe, partial(_one_stage, "cache")),
    "train": Stage("align the student", Recipe, partial(_one_stage, "train")),
    "export": Stage("write the encoder's file, read back and compared", Recipe, partial(_one_stage, "export")),
    "run": Stage("corpus, cache, train, evaluate, export; continues where an earlier call stopped", Recipe, _run),
    "sweep": Stage("train a grid of recipes on one cache; one table", settings.SweepSettings, _sweep),
    "evaluate": Stage("score a run or any artifact against baselines", settings.EvaluateSettings, _evaluate),
    "translate": Stage("make pairs from English captions by a translation model", settings.Translation, _translate),
    "convert": Stage("convert a published Chinese encoder, such as Taiyi", settings.ConvertSettings, _convert),
    "compare-reports": Stage("put reports side by side", settings.CompareReportsSettings, _compare_reports),
    "compare": Stage("paint the same prompts through several encoders", settings.CompareSettings, _compare),
    "publish": Stage("write a model card; with --push, upload", settings.PublishSettings, _publish),
}


def stage_parser(stage: Stage) -> ArgumentParser:
    """The flags of one stage."""
    if stage.settings in (Recipe, settings.SweepSettings):
        parser = recipe_parser(stage.help)
        if stage.settings is settings.SweepSettings:
            parser.add_class_arguments(settings.SweepSettings, "sweep")
        elif stage.function is _run:
            parser.add_argument("--plan", type=bool, default=False, help="print what the run will take, then stop")
        return parser
    parser = new_parser(description=stage.help)
    if stage.settings is settings.CompareReportsSettings:
        help = "runs' folders, or report.json files; the first is the one to compare with"
        parser.add_argument("reports", nargs="+", help=help)
        parser.add_class_arguments(stage.settings, skip={"reports"})
    else:
        parser.add_class_arguments(stage.settings)
    if stage.settings is settings.CompareSettings:
        parser.add_argument("--config", action="config", help="settings in YAML; flags after it win")
    return parser


def parse_command(arguments: list[str]) -> tuple[str, Callable[[Listener | None], None]]:
    """The stage's name, and its function with its settings. Raises SettingsError, and SystemExit after --help."""
    root = new_parser(prog="python -m trainer", description="Align a Chinese text encoder with a checkpoint's own.")
    commands = root.add_subcommands(metavar="STAGE")
    parsers = {name: stage_parser(stage) for name, stage in STAGES.items()}
    for name, parser in parsers.items():
        commands.add_subcommand(name, parser, help=STAGES[name].help)
    try:
        values = parse(root, [f"{text}=true" if text in SWITCHES else text for text in arguments])
    except SettingsError as error:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", str(error))
        if unknown and arguments[0] in parsers:
            known = re.findall(r"--[\w.]+", parsers[arguments[0]].format_help())
            similar = get_close_matches(unknown[1], known, 1)
            hint = f"did you mean {similar[0]}?" if similar else f"see python -m trainer {arguments[0]} --help"
            raise SettingsError(f"no flag {unknown[1]}; {hint}") from error
        raise
    name = values.subcommand
    stage, given = STAGES[name], values[name]
    if name == "run":
        return name, partial(stage.function, to_recipe(given), plan_only=given.plan)
    if stage.settings is Recipe:
        return name, partial(stage.function, to_recipe(given))
    if stage.settings is settings.SweepSettings:
        return name, partial(stage.function, (to_recipe(given), given.sweep))
    own = {field.name: given[field.name] for field in fields(stage.settings)}
    return name, partial(stage.function, stage.settings(**own))


def run_command(arguments: list[str] | None = None) -> int:
    """Run one stage. Returns the exit code: 0; 1 and 2 after one line that says what is wrong; 130 after Ctrl-C."""
    name = "python -m trainer"
    bars = Bars()
    try:
        try:
            name, function = parse_command(sys.argv[1:] if arguments is None else arguments)
        except SettingsError as error:
            return _fail(f"{name}: {error}", 2)
        set_up_process()
        function(bars if MAIN_PROCESS else None)
        if get_int_from_env(["WORLD_SIZE"], 1) > 1:
            processes().destroy_process_group()
    except KeyboardInterrupt:
        bars.close()
        return _fail(f"\n{name}: stopped; give the same command again to continue", 130) if MAIN_PROCESS else 130
    except (TrainerError, ArtifactError, OSError, SafetensorError) as error:
        bars.close()
        line = full_disk(error, Path.cwd())
        if line is None and isinstance(error, OSError):
            if not error.filename:
                raise
            line = f"{error.filename}: {error.strerror}"
        elif line is None and isinstance(error, SafetensorError):
            raise
        return _fail(f"{name}: {line or error}", 1)
    finally:
        bars.close()
    return 0


def _fail(line: str, code: int) -> int:
    tqdm.write(line, file=sys.stderr)
    return code


class Bars:
    """Draws progress events as one tqdm bar at a time."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: tqdm | None = None

    def __call__(self, event: Progress) -> None:
        if event.stage == "run":  # the number of finished stages, which the log says in words
            return
        if self.bar is None or self.stage != event.stage:
            self.close()
            self.stage = event.stage
            self.bar = tqdm(total=event.total, initial=event.done, desc=event.stage)
        if event.metrics:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in event.metrics.items()}, refresh=False)
        self.bar.update(event.done - self.bar.n)
        if 0 < event.total <= event.done:
            self.close()

    def close(self) -> None:
        """End the bar that is open."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class LogLines(logging.Handler):
    """Prints log messages above an open bar: warnings to stderr, the rest to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(record.getMessage(), file=stream)
        stream.flush()


def set_up_process() -> None:
    """Logging, transformers' verbosity and malloc."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger(__package__)
    logger.handlers = [LogLines()]
    logger.setLevel(logging.INFO if MAIN_PROCESS else logging.WARNING)
    transformers_logging.set_verbosity_error()
    # By default glibc returns large freed tensors to the system, which clears every page before the next tensor of the
    # same size: a sixth of the cache stage. Numbers from glibc's malloc.h; other C libraries are left as they are.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping for a single tensor
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
