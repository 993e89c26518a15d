"""A sweep's grid: recipes by name in YAML, checked before anything runs, and the runs that they stand for.

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
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from ..base.errors import one_line
from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..base.settings import load_yaml, parse, public, recipe_parser, to_recipe, to_yaml

KEYS = {"rows", "seeds", "settings"}
NAME = re.compile(r"(?!(cache|corpora|corpus)$)\w[\w.+-]*", re.I)  # a row's folder, beside these three
RESERVED = {"cache.dir", "install", "run", "train.seed"}  # the sweep sets them


@dataclass(frozen=True)
class Job:
    """One row with one seed: its recipe, and the recipe in whose folder its corpus and cache are."""

    row: str
    seed: int
    recipe: Recipe
    home: Recipe

    @property
    def name(self) -> str:
        """ROW/SEED, its folder in the sweep's."""
        return f"{self.row}/{self.seed}"


@dataclass(frozen=True)
class Grid:
    """Recipes by row, and the seeds to train each with."""

    rows: dict[str, Recipe]
    seeds: list[int]


def read_grid(path: Path, placeholders: dict[str, str], base: Recipe) -> Grid:
    """Read a grid over the command line's recipe. `placeholders`: values of ${name} in the grid's texts.

    Raises SettingsError, which names the file and the row.
    """
    where = f"--sweep.grid {path}"
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, SettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: cannot be read ({one_line(error)})") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows or set(content) - KEYS:
        raise SettingsError(f"{where}: give rows by name, and if you like seeds and settings, and nothing else")
    recipes = {}
    for name, settings in rows.items():
        if not NAME.fullmatch(str(name)):
            raise SettingsError(f"{where}, row {str(name)[:80]}: use letters, digits and . + - _, and no folder's name")
        try:
            values = fill({**flat(content.get("settings") or {}), **flat(settings or {})}, placeholders)
            recipes[str(name)] = row_recipe(values, base, path.parent)
        except (AttributeError, KeyError, SettingsError, ValueError) as error:
            hint = f"give --sweep.set.{error.args[0]} VALUE" if isinstance(error, KeyError) else one_line(error)
            raise SettingsError(f"{where}, row {name}: {hint}") from error
    return Grid(recipes, read_seeds(content.get("seeds", 1), where))


def read_seeds(given: Any, where: str) -> list[int]:
    """A number of seeds or a list of them. Raises SettingsError."""
    seeds = list(range(min(given, 10_000))) if type(given) is int else given
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise SettingsError(f"{where}: seeds is {str(given)[:80]}; give how many, or a list such as [0, 1, 2]")
    return list(dict.fromkeys(seeds))


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


def fill(value: Any, placeholders: dict[str, str]) -> Any:
    """The value with the placeholders in its texts filled. Raises KeyError, ValueError."""
    if isinstance(value, dict):
        return {name: fill(each, placeholders) for name, each in value.items()}
    if isinstance(value, list):
        return [fill(each, placeholders) for each in value]
    return Template(value).substitute(placeholders) if isinstance(value, str) else value


def row_recipe(values: dict[str, Any], base: Recipe, folder: Path) -> Recipe:
    """The base with a row's settings by dotted name. A `config` replaces the command line's: what it does not name of
    the training is the default. Raises SettingsError."""
    if reserved := sorted(RESERVED & set(values)):
        raise SettingsError(f"{reserved[0]} is set by the sweep; leave it out")
    config = values.pop("config", None)
    arguments = ["--config", to_yaml(replace(base, train=TrainSettings()) if config else base)]
    arguments += ["--config", str(folder / config)] if config else []
    for name, value in values.items():
        arguments.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return to_recipe(parse(recipe_parser(), arguments))


def plan_jobs(base: Recipe, grid: Grid) -> list[Job]:
    """All runs, every row with the first seed before any with the second. Rows of another corpus, other encoders or
    other cache settings than the base's get a cache of their own in RUN/corpora/ROW."""
    homes = {cache_key(base): base}
    for row, recipe in grid.rows.items():
        folder = base.folder / "corpora" / row
        cache = replace(recipe.cache, dir=str(folder / "cache"))
        homes.setdefault(cache_key(recipe), replace(recipe, run=str(folder), cache=cache))
    jobs = []
    for seed in grid.seeds:
        for row, recipe in grid.rows.items():
            home = homes[cache_key(recipe)]
            run, cache = str(base.folder / row / str(seed)), replace(recipe.cache, dir=str(home.cache_folder))
            train = replace(recipe.train, seed=seed)
            jobs.append(Job(row, seed, replace(recipe, run=run, install=None, cache=cache, train=train), home))
    return jobs


def cache_key(recipe: Recipe) -> str:
    """The settings that determine a corpus and its cache, as JSON."""
    settings = public(recipe)
    return json.dumps(
        [settings["window"], settings["cache"], *map(repr, (recipe.corpus, recipe.student, recipe.teacher))]
    )


def run_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that determine a run's figures, by dotted name."""
    settings = public(recipe)
    del settings["cache"], settings["export"], settings["train"]["save_every"]
    return flat(settings)
