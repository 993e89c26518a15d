"""The command line, made from the table of stages."""

from __future__ import annotations

from dataclasses import fields

from .base.recipe import Recipe
from .base.settings import Parser, recipe_parser
from .base.stage_settings import SweepSettings
from .stages import TABLE, Stage


def parser() -> Parser:
    """The whole command line."""
    description = "Align a Chinese text encoder with SD1.5's."
    root = Parser(prog="python -m trainer", description=description, parser_mode="recipe")
    commands = root.add_subcommands(metavar="STAGE")
    for stage in TABLE:
        commands.add_subcommand(stage.name, _parser_of(stage), help=stage.purpose)
    return root


def _parser_of(stage: Stage) -> Parser:
    if stage.settings is Recipe:
        made = recipe_parser(stage.purpose)
        if not stage.step:
            made.add_argument("--plan", action="store_true", help="say what the run will take, and end there")
        return made
    sweep = stage.settings is SweepSettings
    made = recipe_parser(stage.purpose) if sweep else Parser(description=stage.purpose)
    prefix = "sweep." if sweep else ""
    switches = [field.name for field in fields(stage.settings) if field.type == "bool"]
    lists = [field.name for field in fields(stage.settings) if field.type == "list[str]"]
    made.add_class_arguments(stage.settings, prefix.rstrip(".") or None, skip={*switches, *lists})
    for name in lists:
        if name == stage.positional:
            made.add_argument(name, nargs="+", help="runs' folders, or report.json files; the first is the measure")
        else:
            made.add_argument(f"--{prefix}{name}", nargs="*", default=[], metavar="FILE")
    for name in switches:
        made.add_argument(f"--{prefix}{name}", action="store_true")
    if stage.config:
        made.add_argument("--config", action="config", help="settings in YAML; flags after it win")
    return made
