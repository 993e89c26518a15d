"""A recipe from YAML and flags, its public form, and what every stage asks of its settings."""

from __future__ import annotations

import functools
import json
import os
import re
from argparse import ArgumentError
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from .errors import one_line
from .files import read_json, write_text
from .legacy import renewed
from .recipe import LORA, STARTER, CorpusSettings, Recipe, SettingsError, Source

VALUES = 100_000  # of a recipe, which has some hundred: aliases (*name) may multiply a few into millions
# The least and the most of a setting; what is not here is a name, a path or any number.
ONE, MANY = 1, 2**31
RANGES: dict[str, tuple[float, float]] = {
    "window": (3, MANY),
    "corpus.dev_share": (0, 1),
    "corpus.limit": (ONE, MANY),
    "corpus.min_han": (0, 1),
    "corpus.min_latin": (0, 1),
    "corpus.near": (0, 1),
    "cache.shard_rows": (ONE, MANY),
    "cache.batch": (ONE, MANY),
    "cache.budget": (0, MANY),
    "train.layers": (0, MANY),
    "train.contrast": (0, MANY),
    "train.dev_every": (ONE, MANY),
    "train.patience": (ONE, MANY),
    "train.lr": (0, 1e300),
    "train.warmup": (0, MANY),
    "train.clip": (0, MANY),
    "train.weight_decay": (0, MANY),
    "train.batch": (ONE, MANY),
    "train.accumulate": (ONE, MANY),
    "train.steps": (0, MANY),
    "train.epochs": (0, MANY),
    "train.pad_positions": (0, MANY),
    "train.ridge_lambda": (0, MANY),
    "train.save_every": (ONE, MANY),
}


def _recipe_yaml(text: str) -> Any:
    """A value of the command line, or a recipe's file, whose settings may be an older version's."""
    try:
        value = get_loader("yaml")(text)
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise SettingsError(f"no recipe ({str(error)[:80]})") from error
    require_size(value)
    if isinstance(value, dict):
        for group in ("train", "teacher", "corpus"):
            if isinstance(value.get(group), dict):
                value[group] = renewed(value[group])
    return value


set_loader("recipe", _recipe_yaml, (yaml.YAMLError, SettingsError))
set_parsing_settings(docstring_parse_attribute_docstrings=True)  # --help then says what stands below each setting


class Parser(ArgumentParser):
    """jsonargparse's, for which whatever a recipe or a flag makes it throw is an error of that recipe or flag."""

    def parse_args(self, *given: Any, **how: Any) -> Any:
        """Raises SystemExit, or argparse.ArgumentError where it does not exit."""
        try:
            return super().parse_args(*given, **how)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError) as error:
            self.error(f"no recipe ({one_line(error)})", error)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say it, but not the whole of a value that is longer than a recipe."""
        super().error(message if len(message) < 600 else f"{message[:400]} ... {message[-150:]}", ex)


def recipe_parser(purpose: str = "", exits: bool = True) -> Parser:
    """Flags of a Recipe, and --config. Without `exits` a wrong value raises argparse.ArgumentError."""
    made = Parser(description=purpose, exit_on_error=exits, parser_mode="recipe")
    made.add_argument("--config", action="config", help="a recipe in YAML; flags after it win")
    made.add_class_arguments(Recipe)
    return made


def parse_recipe(path: Path) -> Recipe:
    """A run's resolved recipe. Raises SettingsError when it is damaged."""
    try:
        return to_recipe(recipe_parser(exits=False).parse_args(["--config", str(path)]))
    except (ArgumentError, SettingsError) as error:
        cure = "delete it, and give `python -m trainer run` the run's settings again"
        raise SettingsError(f"{path}: damaged, or no recipe ({one_line(error)}); {cure}") from error


def to_recipe(values: Namespace) -> Recipe:
    """The dataclasses of parsed values. Raises SettingsError for a number out of range, or what is no group."""
    try:
        made = _instantiator().instantiate(values)
    except TypeError as error:
        raise SettingsError(f"no recipe ({one_line(error)})") from error
    recipe = Recipe(**{f.name: made[f.name] for f in fields(Recipe)})
    recipe.train.lora = LORA | recipe.train.lora
    if not recipe.corpus.train and not recipe.corpus.english:
        recipe.corpus.train = STARTER
    _require_ranges(recipe)
    return recipe


@functools.cache  # which takes as long as reading a recipe
def _instantiator() -> Parser:
    return recipe_parser()


def require_size(value: Any) -> None:
    """Raise SettingsError for more values than a recipe has, each alias counted as what it stands for."""
    left, level = VALUES, [value]
    while level and left > 0:
        item = level.pop()
        left -= 1
        if isinstance(item, (dict, list)):
            level += [*item.values()] if isinstance(item, dict) else item
    if left <= 0:
        raise SettingsError(f"more than {VALUES} values, aliases (*name) counted as what they stand for; no recipe")


def _require_ranges(recipe: Recipe) -> None:
    """Raise SettingsError for the first number that no stage can work with."""
    for name, (least, most) in RANGES.items():
        group, _, key = name.rpartition(".")
        value = getattr(getattr(recipe, group) if group else recipe, key)
        if value is not None and not least <= value <= most:  # NaN is in no range
            span = f"{least} or more" if most >= MANY else f"{least} to {most}"
            raise SettingsError(f"--{name} {value}: give {span}")


class _Dumper(yaml.SafeDumper):
    """Quotes texts such as 1e5, which are a number to jsonargparse and none to YAML 1.1."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[\d._]+e[-+]?\d+$", re.I), list("-+.0123456789")
)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, readable by --config."""
    return yaml.dump(json.loads(json.dumps(asdict(recipe))), Dumper=_Dumper, sort_keys=False)


def public(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the artifact's header: settings that shape the encoder, and of a local path its name only."""
    settings = json.loads(json.dumps(asdict(recipe)))
    for name in ("run", "install"):
        del settings[name]
    settings["cache"].pop("dir")
    for group in ("student", "teacher"):
        settings[group]["model"] = public_name(settings[group]["model"])
    for key in ("train", "dev", "english"):
        given = settings["corpus"][key]
        if isinstance(given, list):
            settings["corpus"][key] = [source | {"path": public_name(source["path"])} for source in given]
        else:
            settings["corpus"][key] = public_name(given)
    return settings


def require(value: str | None, flag: str, what: str) -> str:
    """The value, or a SettingsError that names the flag."""
    if not value:
        raise SettingsError(f"--{flag} is not given; it names {what}")
    return value


def sources(given: list[Source] | str | None) -> list[Source]:
    """A corpus setting as a list of sources. Raises SettingsError for a weight that is no share."""
    if isinstance(given, str) and given.lstrip().startswith(("[", "{")):
        raise SettingsError(
            f"{given}: not a list of sources; each has a path, and may have weight, zh, en, config, split and revision"
        )
    found = [Source(given)] if isinstance(given, str) else given or []
    for source in found:
        if not 0 < source.weight <= 1:
            raise SettingsError(
                f"{source.path}: weight {source.weight:g} is no share of its rows; give 0 < weight <= 1"
            )
    return found


def corpus_name(corpus: CorpusSettings) -> str:
    """What the scored pairs are called in reports: file names or hub ids."""
    names = " + ".join(str(public_name(source.path)) for source in sources(corpus.dev or corpus.train))
    return names if corpus.dev else f"{names} (held out)"


def public_name(model: str | None) -> str | None:
    """A local path's last part, or the hub id as it is: a shared file should not carry its maker's folders."""
    return Path(model).name if model and os.path.exists(model) else model


def check_settings(folder: Path, settings: dict[str, Any], elsewhere: str = "--run") -> None:
    """Write `settings` to folder/settings.json, or raise SettingsError when other ones stand there.

    `elsewhere`: the flag that leads to another folder.
    """
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1, sort_keys=True))
        return
    found = renewed(read_json(path, f"delete {folder} and run the stage again"))
    if found.get("precision") == "auto":  # older code did not write down what that was
        found["precision"] = settings.get("precision")
    different = [
        f"{key} was {found.get(key)!r} and is now {settings.get(key)!r}"
        for key in sorted({*found, *settings})
        if found.get(key) != settings.get(key)
    ]
    if different:
        raise SettingsError(
            f"{folder} was made with other settings: {'; '.join(different)}. "
            f"Use the old settings, another {elsewhere}, or delete that folder."
        )
