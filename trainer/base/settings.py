"""A recipe from YAML and flags, its checks, and its public form. jsonargparse is imported where a text is parsed."""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import one_line
from .files import read_json, write_text
from .recipe import LORA, STARTER, CorpusSettings, Recipe, SettingsError, Source

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

MANY = 2**31
# Least and most of a setting; a number that is not listed can be any.
LIMITS: dict[str, tuple[float, float]] = {
    "window": (3, MANY),
    "corpus.dev_share": (0, 1),
    "corpus.limit": (1, MANY),
    "corpus.near": (0, 1),
    "cache.shard_rows": (1, MANY),
    "cache.batch": (1, MANY),
    "cache.budget": (0, MANY),
    "train.layers": (0, MANY),
    "train.contrast": (0, MANY),
    "train.dev_every": (1, MANY),
    "train.lr": (0, 1e300),
    "train.warmup": (0, MANY),
    "train.clip": (0, MANY),
    "train.weight_decay": (0, MANY),
    "train.batch": (1, MANY),
    "train.accumulate": (1, MANY),
    "train.steps": (0, MANY),
    "train.epochs": (0, MANY),
    "train.pad_positions": (1, MANY),
    "train.ridge_lambda": (0, MANY),
    "train.save_every": (1, MANY),
}


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
    """A parser that raises its errors and takes no abbreviated flags. Docstrings of dataclass fields are its --help."""
    from jsonargparse import ArgumentParser, set_loader, set_parsing_settings

    set_loader("recipe", load_yaml, (SettingsError,))
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, parser_mode="recipe", **options)


def recipe_parser(description: str = "") -> ArgumentParser:
    """Flags of a Recipe, and --config."""
    parser = new_parser(description=description)
    parser.add_argument("--config", action="config", help="a recipe in YAML; flags after it win")
    parser.add_class_arguments(Recipe)
    return parser


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The values of a command line as dataclasses. Raises SettingsError."""
    with _settings_errors():
        return parser.instantiate(parser.parse_args(arguments))


def recipe_from(settings: dict[str, Any]) -> Recipe:
    """The recipe of settings as YAML gives them, nested by group. Raises SettingsError."""
    parser = recipe_parser()
    with _settings_errors():
        return to_recipe(parser.instantiate(parser.parse_object(settings)))


# What jsonargparse raises for odd values, beside ArgumentError.
ODD_VALUES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@contextmanager
def _settings_errors() -> Iterator[None]:
    """Turn what jsonargparse raises into SettingsError."""
    try:
        yield
    except (ArgumentError, *ODD_VALUES) as error:
        raise SettingsError(one_line(error)) from error


def parse_recipe(path: Path) -> Recipe:
    """A run's RUN/recipe.yaml. Raises SettingsError when it is damaged."""
    try:
        return recipe_from(load_yaml(path.read_text(encoding="utf-8")))
    except (SettingsError, UnicodeDecodeError) as error:
        hint = "delete it, and give `python -m trainer run` the run's settings again"
        raise SettingsError(f"{path}: damaged, or no recipe ({one_line(error)}); {hint}") from error


def to_recipe(values: Namespace) -> Recipe:
    """The recipe of a parser's instantiated values. Raises SettingsError for a number out of range."""
    return checked(Recipe(**{field.name: values[field.name] for field in fields(Recipe)}))


def checked(recipe: Recipe) -> Recipe:
    """A copy with the defaults that depend on other settings. Raises SettingsError for a number out of range."""
    for name, (least, most) in LIMITS.items():
        group, _, key = name.rpartition(".")
        value = getattr(getattr(recipe, group) if group else recipe, key)
        if value is not None and not least <= value <= most:  # NaN is in no range
            raise SettingsError(f"--{name} {value}: give {least} {'or more' if most >= MANY else f'to {most}'}")
    corpus = recipe.corpus
    if not corpus.train and not corpus.english:
        corpus = replace(corpus, train=STARTER)
    return replace(recipe, corpus=corpus, train=replace(recipe.train, lora=LORA | recipe.train.lora))


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
    for name in ("run", "install", "endpoint", "device"):
        del settings[name]
    settings["cache"].pop("dir")
    for group in ("student", "teacher"):
        settings[group]["model"] = public_name(settings[group]["model"])
    settings["teacher"]["tokenizer"] = public_name(settings["teacher"]["tokenizer"])
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
    """A local path's last part, or the hub id: a shared file should not carry its maker's folders."""
    if not model or not os.path.exists(model):
        return model
    cached = re.fullmatch(r"models--([^/]+)--([^/]+)/snapshots/[0-9a-f]{40}", "/".join(Path(model).parts[-3:]))
    return f"{cached[1]}/{cached[2]}" if cached else Path(model).name  # of a folder in the hub's cache its id


def check_settings(folder: Path, settings: dict[str, Any], elsewhere: str = "--run") -> None:
    """Write `settings` to folder/settings.json, or raise SettingsError when other ones stand there.

    `elsewhere`: the flag that leads to another folder.
    """
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1, sort_keys=True))
        return
    earlier = read_json(path, f"delete {folder} and run the stage again")
    different = [
        f"{key} was {earlier.get(key)!r} and is now {settings.get(key)!r}"
        for key in sorted({*earlier, *settings})
        if earlier.get(key) != settings.get(key)
    ]
    if different:
        raise SettingsError(
            f"{folder} was made with other settings: {'; '.join(different)}. "
            f"Use the old settings, another {elsewhere}, or delete that folder."
        )
