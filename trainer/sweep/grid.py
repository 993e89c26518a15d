"""A sweep's grid: recipes by name in YAML, checked before anything runs, and the runs that they stand for.

seeds: 3                     # 0, 1 and 2
settings: {train.steps: 300} # of every row
rows:
  recommended: {}            # the command line's recipe
  hotter: {train.lr: 1.0e-3}
  paper: {config: ../paper-lora.yaml, train.batch: 128}
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..base.errors import one_line
from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..base.settings import load_yaml, parse, public_settings, recipe_parser, to_recipe, to_yaml

NAME = re.compile(r"(?!(cache|corpora|corpus)$)\w[\w.+-]*", re.I)  # a row's folder, beside these three
RESERVED = {"cache.dir", "install", "run", "train.seed"}  # the sweep sets them


class Job(NamedTuple):
    """One run of a sweep: a row with one seed. `shared`: the folder whose corpus it trains on."""

    row: str
    seed: int
    recipe: Recipe
    shared: Path


def read_grid(path: Path, base: Recipe) -> list[Job]:
    """The runs of a grid over the command line's recipe, every row with the first seed before any with the second.

    Rows of another corpus, other encoders or other cache settings than the base's get a cache of their own in
    RUN/corpora/ROW. Raises SettingsError, which names the file and the row.
    """
    where = f"--sweep.grid {path}"
    try:
        grid = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, SettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: cannot be read ({one_line(error)})") from error
    rows = grid.get("rows") if isinstance(grid, dict) else None
    if not isinstance(rows, dict) or not rows or set(grid) - {"rows", "seeds", "settings"}:
        raise SettingsError(f"{where}: give rows by name, and if you like seeds and settings, and nothing else")
    seeds = grid.get("seeds", 1)
    if type(seeds) is not int or not 0 < seeds <= 1000:
        raise SettingsError(f"{where}: seeds is {str(seeds)[:80]}; give how many")
    shared = {cache_key(base): (base.folder, base.cache_folder)}
    jobs = []
    for name, settings in rows.items():
        if not NAME.fullmatch(str(name)):
            raise SettingsError(f"{where}, row {str(name)[:80]}: use letters, digits and . + - _, and no folder's name")
        try:
            recipe = row_recipe({**flat(grid.get("settings") or {}), **flat(settings or {})}, base, path.parent)
        except (AttributeError, SettingsError) as error:
            raise SettingsError(f"{where}, row {name}: {one_line(error)}") from error
        own = base.folder / "corpora" / str(name)
        folder, cache_folder = shared.setdefault(cache_key(recipe), (own, own / "cache"))
        for seed in range(seeds):
            cache, train = replace(recipe.cache, dir=str(cache_folder)), replace(recipe.train, seed=seed)
            run = str(base.folder / str(name) / str(seed))
            job_recipe = replace(recipe, run=run, install=None, cache=cache, train=train)
            jobs.append(Job(str(name), seed, job_recipe, folder))
    return sorted(jobs, key=lambda job: job.seed)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


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


def cache_key(recipe: Recipe) -> str:
    """The settings that determine a corpus and its cache, as text."""
    return repr((recipe.window, public_settings(recipe)["cache"], recipe.corpus, recipe.student, recipe.teacher))
