"""The command line: a table of stages, their flags, progress bars, and one line for each expected error.

Process-wide switches (logging, malloc) are set here and nowhere else: a stage can run in another program's process.
"""

from __future__ import annotations

import ctypes
import logging
import re
import signal
import sys
import threading
from dataclasses import fields, replace
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from zhclip.io import ArtifactError

from .base import stage_settings as settings
from .base.device import processes
from .base.errors import TrainerError
from .base.recipe import SettingsError
from .base.settings import hide_flags, new_parser, parse, recipe_parser, to_recipe
from .progress import Progress

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


class Stage(NamedTuple):
    """A stage's line in --help, its function as MODULE:NAME, and the class of its settings beside a recipe's.

    The function is imported when it is called. It takes the settings and a listener of progress events.
    """

    help: str
    function: str = "pipeline:run_stage"  # of the parts of `run`
    settings: Any = None


STAGES = {
    "run": Stage("corpus, cache, train, evaluate, export; continues where an earlier call stopped", "pipeline:run"),
    "corpus": Stage("read, clean, deduplicate and split the pairs"),
    "cache": Stage("compute teacher targets and frozen student states"),
    "train": Stage("align the student"),
    "evaluate": Stage("score a run or any artifact", "report.evaluate:evaluate", settings.EvaluateSettings),
    "export": Stage("write the encoder's file, read back and compared"),
    "publish": Stage("write a model card; upload", "artifact.publish:publish_run", settings.PublishSettings),
    "sweep": Stage("train a grid of recipes; one table", "sweep.stage:run", settings.SweepSettings),
    "translate": Stage("translate captions", "translate.stage:run", settings.TranslateSettings),
    "convert": Stage("convert a published encoder", "artifact.convert:convert_published", settings.ConvertSettings),
    "compare": Stage("paint prompts by several encoders", "pictures.compare:run", settings.CompareSettings),
    "compare-reports": Stage(
        "put reports side by side", "report.compare:compare_reports", settings.CompareReportsSettings
    ),
}
PLANS = {"run": "plan:log_plan", "sweep": "sweep.stage:log_plan"}  # the functions of --plan
# Flags of a recipe that --help lists; --help-all lists the rest, too.
COMMON = {"help", "config", "plan", "run", "device", "install", "student.model", "teacher.model", "corpus.train"}
COMMON |= {"corpus.dev", "corpus.limit", "train.strategy", "train.epochs", "train.steps", "train.batch", "train.lr"}
COMMON |= {"export.licence", "sweep.grid"}


def parse_stage(name: str, arguments: list[str]) -> tuple[str, list[Any]]:
    """The function of a stage as MODULE:NAME, and its arguments but the listener.

    A stage called alone continues with the settings in RUN/recipe.yaml, over which flags win. Raises SettingsError, and
    SystemExit after --help.
    """
    stage, options = STAGES[name], {"usage": f"python -m trainer {name} [--FLAG VALUE ...]"}
    has_recipe, prefix = stage.settings is None or name == "sweep", name if name in ("sweep", "translate") else None
    parser = (recipe_parser if has_recipe else new_parser)(description=stage.help, **options)
    if name in PLANS:
        parser.add_argument("--plan", type=bool, default=False, help="print what the stage will take, then stop")
    if name == "compare-reports":
        parser.add_argument("reports", nargs="+", help="runs' folders, or report.json files; the first is the base")
    if stage.settings:
        parser.add_class_arguments(stage.settings, prefix, skip={"reports"})
    if "--help-all" in arguments:
        arguments = ["--help"]
    elif has_recipe and {"-h", "--help"} & set(arguments):
        hide_flags(parser, COMMON)
    arguments = [f"{text}=true" if text in ("--plan", "--push") else text for text in arguments]
    values = parse_flags(name, parser, arguments)
    own_settings = [values[prefix]] if prefix else []
    if stage.settings and not prefix:
        own_settings = [stage.settings(**{field.name: values[field.name] for field in fields(stage.settings)})]
    if not has_recipe:
        return stage.function, own_settings
    recipe = to_recipe(values)
    from .pipeline import with_folder  # imports models' libraries, for which a wrong flag should not wait

    recipe = with_folder(recipe)
    if name in PLANS:
        return PLANS[name] if values.plan else stage.function, [recipe, *own_settings]
    earlier = recipe.folder / "recipe.yaml"
    if earlier.is_file() and not values.config:
        values = parse_flags(name, parser, ["--config", str(earlier), *arguments])
        recipe = replace(to_recipe(values), run=recipe.run)  # the folder may have been moved
    return stage.function, [name, recipe]


def parse_flags(name: str, parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The values of a stage's flags. Raises SettingsError, which suggests a flag for an unknown one."""
    try:
        return parse(parser, arguments)
    except SettingsError as error:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", str(error))
        if not unknown:
            raise
        similar = get_close_matches(unknown[1], re.findall(r"--[\w.]+", parser.format_help()), 1)
        hint = f"did you mean {similar[0]}?" if similar else f"see python -m trainer {name} --help-all"
        raise SettingsError(f"no flag {unknown[1]}; {hint}") from error


def run_command(arguments: list[str] | None = None) -> int:
    """Run one stage. Returns the exit code: 0; 1 and 2 after one line that says what is wrong; 130 after Ctrl-C."""
    name, *flags = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "--help-all"):
        print("usage: python -m trainer STAGE [--FLAG VALUE ...]\n\nAlign a Chinese text encoder with an English one.")
        print("python -m trainer STAGE --help lists a stage's usual flags, --help-all all of them.\n\nSTAGE:")
        print(*(f"  {name:16} {stage.help}" for name, stage in STAGES.items()), sep="\n")
        return 0
    bars, code = Bars(), 2
    try:
        if name not in STAGES:
            raise SettingsError(f"no such stage; there are {', '.join(STAGES)}")
        function, settings = parse_stage(name, flags)
        code = 1
        set_up_process()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, bars.interrupt)
        module, _, function = function.partition(":")
        if processes().num_processes > 1 and module not in ("pipeline", "plan"):
            raise SettingsError("this stage works in one process; start it without a launcher")
        call = getattr(import_module(f".{module}", __package__), function)
        call(*settings, bars if processes().is_main_process else None)
        if processes().num_processes > 1:
            processes().destroy_process_group()
        return 0
    except KeyboardInterrupt:
        line, code = f"\n{name}: stopped; give the same command again to continue", 130
    except (TrainerError, ArtifactError, OSError) as error:
        if isinstance(error, OSError) and not error.filename:
            raise
        line = f"{name}: {error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{name}: {error}"
    finally:
        bars.close()
    tqdm.write(line, file=sys.stderr)
    return code


class Bars:
    """Draws progress events as one tqdm bar at a time."""

    stage = ""
    bar: tqdm | None = None
    interrupted = False

    def interrupt(self, *_: object) -> None:
        """Handle SIGINT. The next event raises it again, since some libraries swallow a KeyboardInterrupt."""
        self.interrupted = True
        raise KeyboardInterrupt

    def __call__(self, event: Progress) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        if event.stage in ("plan", "run", "sweep"):  # of which the log says more, in words
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


class LogHandler(logging.Handler):
    """Prints log messages above an open bar: warnings to stderr, the rest to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(record.getMessage(), file=stream)
        stream.flush()


def set_up_process() -> None:
    """Logging, transformers' verbosity and malloc."""
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()
    logger = logging.getLogger(__package__)
    logger.handlers = [LogHandler()]
    logger.setLevel(logging.INFO if processes().is_main_process else logging.WARNING)
    # By default glibc returns large freed tensors to the system, which clears every page before the next tensor of the
    # same size: a sixth of the cache stage. Numbers from glibc's malloc.h; other C libraries are left as they are.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping for a single tensor
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
