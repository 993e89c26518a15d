"""The command line: stages, and how a recipe is read from YAML and flags."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from .recipe import Recipe, SettingsError
from .stage_settings import (
    CompareReportsSettings,
    CompareSettings,
    ConvertSettings,
    EvaluateSettings,
    PublishSettings,
    SweepSettings,
    Translation,
)

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # --help then says what stands below each setting

STAGES = {
    "corpus": "read, clean, deduplicate and split the pairs",
    "cache": "compute teacher targets and frozen student states, once",
    "train": "align the student",
    "export": "write the encoder's file, read back and compared",
    "run": "corpus, cache, train, evaluate and export, going on where an earlier call stopped",
}

SWEEP = "train a grid of recipes on one cache, and lay them side by side in one table"

# Stages outside a recipe, each with settings of its own.
OWN = {
    "evaluate": (EvaluateSettings, "score a run's checkpoint, or any artifact on any pairs, against floors"),
    "translate": (Translation, "make pairs from English captions, by a translation model"),
    "convert": (ConvertSettings, "turn a published Chinese encoder (Taiyi, Chinese-CLIP) into an encoder's file"),
    "compare-reports": (CompareReportsSettings, "lay reports side by side, and say which differences exceed chance"),
    "compare": (CompareSettings, "paint the same prompts through several encoders and one SD1.5, with figures"),
    "publish": (PublishSettings, "write a run's model card, and with --push send card and encoder to a model hub"),
}


def parser() -> ArgumentParser:
    """The whole command line."""
    root = ArgumentParser(prog="python -m trainer", description="Align a Chinese text encoder with SD1.5's.")
    stages = root.add_subcommands(metavar="STAGE")
    for stage, purpose in STAGES.items():
        stages.add_subcommand(stage, recipe_parser(purpose), help=purpose)
    stages.add_subcommand("sweep", _sweep_parser(), help=SWEEP)
    for stage, (settings, purpose) in OWN.items():
        made = ArgumentParser(description=purpose)
        switches = {f.name for f in fields(settings) if f.type == "bool"}
        made.add_class_arguments(settings, skip={*switches, "reports"})
        if stage == "compare-reports":
            made.add_argument(
                "reports", nargs="+", help="runs' folders, or report.json files; the first is the measure"
            )
        for name in switches:
            made.add_argument(f"--{name}", action="store_true")
        if stage == "compare":
            made.add_argument("--config", action="config", help="settings in YAML; flags after it win")
        stages.add_subcommand(stage, made, help=purpose)
    return root


def recipe_parser(purpose: str = "", exits: bool = True) -> ArgumentParser:
    """Flags of a Recipe, and --config. Without `exits` a wrong value raises argparse.ArgumentError."""
    made = ArgumentParser(description=purpose, exit_on_error=exits)
    made.add_argument("--config", action="config", help="a recipe in YAML; flags after it win")
    made.add_class_arguments(Recipe)
    return made


def _sweep_parser() -> ArgumentParser:
    """Flags of a Recipe, and of SweepSettings."""
    made = recipe_parser(SWEEP)
    made.add_class_arguments(SweepSettings, "sweep", skip={"also", "export"})
    made.add_argument("--sweep.also", nargs="*", default=[], metavar="FILE")
    made.add_argument("--sweep.export", action="store_true")
    return made


def to_sweep(values: Namespace) -> tuple[Recipe, SweepSettings]:
    """The dataclasses of parsed values of the stage `sweep`."""
    settings = SweepSettings(**vars(values.pop("sweep")))
    return to_recipe(values), settings


def parse_recipe(path: Path) -> Recipe:
    """A run's resolved recipe. Raises SettingsError when it is damaged."""
    try:
        return to_recipe(recipe_parser(exits=False).parse_args(["--config", str(path)]))
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        cure = "delete it, and give `python -m trainer run` the run's settings again"
        raise SettingsError(f"{path}: damaged, or no recipe ({reason}); {cure}") from error


def to_recipe(values: Namespace) -> Recipe:
    """The dataclasses of parsed values."""
    made = recipe_parser().instantiate(values)
    return Recipe(**{f.name: made[f.name] for f in fields(Recipe)})
