"""Recipes from YAML and flags: parsing, ranges, defaults, and what an artifact's header shows of them.

jsonargparse is imported where a text is parsed, since ComfyUI's node does without it.
"""

from __future__ import annotations

import json
import math
import os
import re
from argparse import SUPPRESS, ArgumentError
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import one_line
from .files import read_json, write_text
from .recipe import LORA, CorpusSettings, Recipe, SettingsError, Source

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

# Smallest values; that of the numbers that are not named is 0.
POSITIVE = ["corpus.limit", "cache.shard_rows", "cache.batch", "train.dev_every", "train.batch", "train.accumulate"]
POSITIVE += ["train.pad_positions", "train.save_every"]
MINIMUM = dict.fromkeys(POSITIVE, 1) | {"window": 3, "train.seed": -math.inf}
SHARES = ("corpus.dev_share", "corpus.join", "corpus.tags", "corpus.near")  # at most 1
# What jsonargparse raises for odd values.
PARSE_ERRORS = (ArgumentError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
LOCAL = ("run", "install", "device")  # settings of the machine, which do not change the encoder


def load_yaml(text: str) -> Any:
    """The value of a YAML text without aliases, which could expand without end. Raises SettingsError."""
    from jsonargparse import get_loader

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise SettingsError("aliases (*name) are not allowed")
        return get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: thousands of digits, or of brackets
        raise SettingsError(f"not YAML ({one_line(error)})") from error


def new_parser(**options: Any) -> ArgumentParser:
    """A parser with --config that raises its errors and takes no abbreviated flags.

    Docstrings of dataclass fields are its --help.
    """
    from jsonargparse import ArgumentParser, set_loader, set_parsing_settings

    set_loader("recipe", load_yaml, (SettingsError,))
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    options |= {"exit_on_error": False, "allow_abbrev": False, "print_config": None, "parser_mode": "recipe"}
    parser = ArgumentParser(**options)
    parser.add_argument("--config", action="config", help="settings in YAML; flags after it win")
    return parser


def hide_flags(parser: ArgumentParser, shown: set[str]) -> None:
    """Leave all other flags out of --help, and say so at its end."""
    for action in parser._actions:
        if action.dest not in shown:
            action.help = SUPPRESS
    for group in parser._action_groups:
        if all(action.help == SUPPRESS for action in group._group_actions):
            group.title = group.description = None
    parser.epilog = "--help-all lists all flags."


def recipe_parser(**options: Any) -> ArgumentParser:
    """A parser of a Recipe's flags."""
    parser = new_parser(**options)
    parser.add_class_arguments(Recipe)
    return parser


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The values of a command line as dataclasses. Raises SettingsError."""
    try:
        return parser.instantiate(parser.parse_args(arguments))
    except PARSE_ERRORS as error:
        raise SettingsError(parse_message(error)) from error


def parse_message(error: BaseException) -> str:
    """jsonargparse's error as the flag, its value and the types that it may have."""
    text = " ".join(str(error).split())
    key, value = re.search(r'[Kk]ey "([\w.]+)"', text), re.search(r"(?:Got|Given) value: (.*)$", text)
    types = re.findall(r"Expected a (?:typing\.Literal\[([^]]*)\]|<class '(\w+)'>)", text)
    if key is None:
        return one_line(error)
    if value is None or not types:
        return f"--{key[1]}: {one_line(error).partition(': ')[2]}"
    choices = " or ".join(literals or name.replace("NoneType", "null") for literals, name in types)
    return f"--{key[1]} {value[1][:100]}: give {choices}"


def parse_recipe(path: Path) -> Recipe:
    """A run's RUN/recipe.yaml. Raises SettingsError when there is none or it is damaged."""
    if not path.is_file():
        raise SettingsError(f"{path}: there is no such file; give the folder of a run")
    try:
        return to_recipe(parse(recipe_parser(), ["--config", str(path)]))
    except (SettingsError, UnicodeDecodeError) as error:
        hint = "delete it, and give `python -m trainer run` the run's settings again"
        raise SettingsError(f"{path}: damaged, or no recipe ({one_line(error)}); {hint}") from error


def to_recipe(values: Namespace) -> Recipe:
    """The recipe of a parser's values. Raises SettingsError for a number out of range."""
    return resolved(Recipe(**{field.name: values[field.name] for field in fields(Recipe)}))


def resolved(recipe: Recipe) -> Recipe:
    """A copy with the defaults of LoRA that it does not name. Raises SettingsError for a number out of range."""
    numbers = {"window": recipe.window}
    for group in ("corpus", "cache", "train"):
        numbers |= {f"{group}.{key}": value for key, value in vars(getattr(recipe, group)).items()}
    for name, value in numbers.items():
        least, most = MINIMUM.get(name, 0), 1 if name in SHARES else math.inf
        if isinstance(value, (int, float)) and not (least <= value <= most and value < math.inf):  # NaN is in no range
            raise SettingsError(f"--{name} {value}: give {least} {'or more' if most > 1 else 'to 1'}")
    return replace(recipe, train=replace(recipe.train, lora=LORA | recipe.train.lora))


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, readable by --config."""
    return yaml.safe_dump(json.loads(json.dumps(asdict(recipe))), sort_keys=False)


def public_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the artifact's header: settings that shape the encoder, and of a local path its name only."""
    settings = {name: value for name, value in asdict(recipe).items() if name not in LOCAL}
    del settings["cache"]["dir"]
    return json.loads(json.dumps(settings), object_hook=_without_folders)


def _without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: public_name(value) if isinstance(value, str) else value for name, value in settings.items()}


def public_name(model: str) -> str:
    """A local path's last part, or the hub id: a shared file should not carry its maker's folders."""
    if not model or not os.path.exists(model):
        return model
    cached = re.fullmatch(r"models--([^/]+)--([^/]+)/snapshots/[0-9a-f]{40}", "/".join(Path(model).parts[-3:]))
    return f"{cached[1]}/{cached[2]}" if cached else Path(model).name  # of a folder in the hub's cache its id


def require(value: str | None, flag: str, what: str) -> str:
    """The value, or a SettingsError that names the flag."""
    if not value:
        raise SettingsError(f"--{flag} is not given; it names {what}")
    return value


def sources(setting: list[Source] | str | None) -> list[Source]:
    """A corpus setting as a list of sources. Raises SettingsError for a weight that is no share."""
    listed = [Source(setting)] if isinstance(setting, str) else setting or []
    for source in listed:
        if not 0 < source.weight <= 1:
            raise SettingsError(f"{source.path}: weight {source.weight:g}; give the share of its rows, 0 < weight <= 1")
    return listed


def corpus_name(corpus: CorpusSettings) -> str:
    """What the scored pairs are called in reports: file names or hub ids."""
    names = " + ".join(public_name(source.path) for source in sources(corpus.dev or corpus.train))
    return names if corpus.dev else f"{names} (held out)"


def check_settings(folder: Path, settings: dict[str, Any], flag: str = "--run") -> None:
    """Write `settings` to folder/settings.json, or raise SettingsError when it has others. `flag` names the folder."""
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1, sort_keys=True))
        return
    earlier = read_json(path, f"delete {folder} and run the stage again")
    pairs = [(key, earlier.get(key), settings.get(key)) for key in sorted({*earlier, *settings})]
    changes = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, old, new in pairs if old != new)
    if changes:
        hint = f"use the old settings, another {flag}, or delete that folder"
        raise SettingsError(f"{folder} was made with other settings: {changes}; {hint}")
