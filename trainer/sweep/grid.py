"""A sweep's grid: recipes by name, read from YAML and checked whole before anything runs, and the runs that they make.

seeds: 3                     # 0, 1 and 2; or a list
settings: {train.steps: 300} # of every row
rows:
  recommended: {}            # the command line's recipe
  hotter: {train.lr: 1.0e-3}
  paper: {config: ../paper-lora.yaml, train.batch: 128}
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from ..base.errors import one_line
from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..base.settings import public, require_size, to_recipe

KEYS = ("rows", "seeds", "settings")
NAME = re.compile(r"\w[\w.+-]*")
FOLDERS = ("also", "cache", "corpora", "corpus")  # beside the rows' own in the sweep's folder
MOST = 10_000  # seeds
OWN = ("cache.dir", "install", "run", "train.seed")  # the sweep's to say, not a row's


@dataclass(frozen=True)
class Job:
    """One row with one seed: its recipe in its own folder, and the recipe in whose folder lies what it shares."""

    row: str
    seed: int
    recipe: Recipe
    home: Recipe

    @property
    def name(self) -> str:
        """As messages call it, and its folder in the sweep's."""
        return f"{self.row}/{self.seed}"


class Grid(NamedTuple):
    """Rows in their order, each as the whole recipe that it stands for, and the seeds that each is trained with."""

    rows: dict[str, Recipe]
    seeds: list[int]


def read_grid(path: Path, given: dict[str, str], base: Recipe) -> Grid:
    """The grid of a file, over the command line's recipe. `given` fills placeholders such as ${captions}.

    Raises SettingsError, which names the file and the row.
    """
    where = f"--sweep.grid {path}"
    loaded = _mapping(path, where)
    unknown = sorted(set(loaded) - set(KEYS))
    if unknown:
        raise SettingsError(f"{where}: {unknown[0]} is none of its keys, which are {', '.join(KEYS)}")
    rows = loaded.get("rows")
    if not isinstance(rows, dict) or not rows:
        raise SettingsError(f"{where}: it has no rows; give `rows`, each a name with its settings, or {{}}")
    common = loaded.get("settings") or {}
    if not isinstance(common, dict):
        raise SettingsError(f"{where}: settings is {repr(common)[:80]}, not settings by name")
    made = {}
    for name, own in rows.items():
        at = f"{where}, row {str(name)[:80]}"
        if not NAME.fullmatch(str(name)) or str(name).lower() in FOLDERS:
            raise SettingsError(f"{at}: not a name for its folder; use letters, digits and . + - _, and no other's")
        if not isinstance(own or {}, dict):
            raise SettingsError(f"{at}: {repr(own)[:80]} is not settings by name, such as train.lr: 1.0e-3")
        filled = _fill({"common": common, "own": own or {}}, given, at)
        made[str(name)] = _recipe(filled["common"], filled["own"], base, path.parent, at)
    return Grid(made, _seeds(loaded.get("seeds", 1), where))


def _mapping(path: Path, where: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, thousands of digits or of brackets
        raise SettingsError(f"{where}: not YAML ({one_line(error)})") from error
    require_size(loaded)
    if not isinstance(loaded, dict):
        raise SettingsError(f"{where}: it holds no settings by name")
    return loaded


def _seeds(given: Any, where: str) -> list[int]:
    seeds = list(range(min(given, MOST + 1))) if type(given) is int else given
    good = isinstance(seeds, list) and 0 < len(seeds) <= MOST and all(type(s) is int and s >= 0 for s in seeds)
    if not good:
        raise SettingsError(f"{where}: seeds is {repr(given)[:80]}; give how many, or a list such as [0, 1, 2]")
    return list(dict.fromkeys(seeds))


def _fill(value: Any, given: dict[str, str], at: str) -> Any:
    """The value, with the placeholders in all of its texts filled."""
    if isinstance(value, dict):
        return {key: _fill(some, given, at) for key, some in value.items()}
    if isinstance(value, list):
        return [_fill(some, given, at) for some in value]
    if not isinstance(value, str):
        return value
    try:
        return Template(value).substitute(given)
    except KeyError as error:
        name = error.args[0]
        raise SettingsError(f"{at}: {value} is not filled; give --sweep.set.{name} VALUE") from error
    except ValueError as error:
        raise SettingsError(f"{at}: {value}: a placeholder is written ${{name}}, and a dollar sign $$") from error


def _recipe(common: dict, own: dict, base: Recipe, folder: Path, at: str) -> Recipe:
    """The base with a row's settings. `config` stands in for the command line's --config: what it doesn't say of the
    training is the default, and not what another recipe says."""
    values = json.loads(json.dumps(asdict(base)))
    if "config" in own:
        values["train"] = json.loads(json.dumps(asdict(TrainSettings())))
        config = folder / str(own["config"])
        _put(_dotted(_mapping(config, f"{at}, config {config}")), values, at)
    settings = _dotted(common) | _dotted({name: value for name, value in own.items() if name != "config"})
    taken = sorted(set(OWN) & set(settings))
    if taken:
        raise SettingsError(f"{at}: {taken[0]} is the sweep's own; leave it out")
    _put(settings, values, at)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        return to_recipe(parser.parse_object(values))
    except ArgumentError as error:
        raise SettingsError(f"{at}: {one_line(error)}") from error


def _dotted(settings: dict, before: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _dotted(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def _put(settings: dict[str, Any], values: dict, at: str) -> None:
    """Put settings by dotted name into nested values."""
    for name, value in settings.items():
        *groups, last = name.split(".")
        group = values
        for part in groups:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise SettingsError(f"{at}: {name}: {part} is one setting, not a group of them")
        if isinstance(group.get(last), dict):
            raise SettingsError(f"{at}: {name} is a group of settings; name one of {', '.join(group[last])}")
        group[last] = value


def plan(base: Recipe, rows: dict[str, Recipe], seeds: list[int]) -> list[Job]:
    """All runs, every row with the first seed before any with the second."""
    homes = {_made_of(base): base}
    for row, recipe in rows.items():
        key = _made_of(recipe)
        if key not in homes:
            folder = base.folder / "corpora" / row
            homes[key] = replace(recipe, run=str(folder), cache=replace(recipe.cache, dir=str(folder / "cache")))
            what = "another corpus, other encoders or another --cache.budget"
            print(f"sweep: row {row} is of {what} than --run's: its cache is in {folder}")
    jobs = []
    for seed in seeds:
        for row, recipe in rows.items():
            home = homes[_made_of(recipe)]
            own = replace(
                recipe,
                run=str(base.folder / row / str(seed)),
                install=None,
                cache=replace(recipe.cache, dir=str(home.cache_folder)),
                train=replace(recipe.train, seed=seed),
            )
            jobs.append(Job(row, seed, own, home))
    return jobs


def shaping(recipe: Recipe) -> dict[str, Any]:
    """By dotted name, the settings that a run's figures follow from."""
    groups = public(recipe)
    for name in ("cache", "export"):
        del groups[name]
    for name in ("report_to", "save_every"):
        del groups["train"][name]
    flat = {"window": groups.pop("window")}
    return flat | {f"{group}.{name}": value for group, some in groups.items() for name, value in some.items()}


def _made_of(recipe: Recipe) -> str:
    """What a corpus and its cache follow from; the trunk's depth has folders of its own inside. The budget is one: a
    row that has no room for the frozen layers' output would use another row's."""
    parts, cache = (recipe.corpus, recipe.student, recipe.teacher), recipe.cache
    settings = [recipe.window, cache.shard_rows, cache.budget, *(asdict(part) for part in parts)]
    return json.dumps(settings, sort_keys=True)
