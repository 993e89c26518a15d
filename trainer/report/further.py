"""Further pairs that a run is scored on: cached once, and scored against the floors of its training pairs."""

from __future__ import annotations

import json
from pathlib import Path

from ..base.device import default_device
from ..base.files import read_json, write_text
from ..base.recipe import Recipe
from ..base.settings import require
from ..cache import stage as cache
from ..cache.making import Making
from ..cache.standard import standard_teacher
from ..corpus import stage as corpus
from ..models.student import load_student
from .stage import score_run, write_report


def cache_further(home: Recipe, sources: dict[str, str]) -> None:
    """Clean pairs as `evaluate --artifact` does, and cache what the teacher and the untrained student make of them: a
    corpus by name into HOME/also/NAME. Raises CorpusError."""
    if not sources:
        return
    device = default_device()
    model = require(home.student.model, "student.model", "the Chinese encoder")
    student, teacher = load_student(model, home.window, device), standard_teacher(home, device)
    for name, source in sources.items():
        folder = _folder(home, name)
        cleaned = corpus.scorable(source, student.tokens.length, teacher.length, home.window)
        making = Making(teacher, student, student.depth, None, home.cache.shard_rows, home.cache.batch)
        cache.build(folder, cleaned.pairs, making)
        corpus.write_pairs(folder / "pairs.tsv", cleaned.pairs)
        write_text(folder / "corpus.json", json.dumps({"name": Path(source).name, "rejected": cleaned.counts()}))


def score_further(recipe: Recipe, home: Recipe, name: str) -> None:
    """Score a trained run on the pairs of HOME/also/NAME: RUN/also/NAME.json and what stands beside a report."""
    folder = _folder(home, name)
    about = read_json(folder / "corpus.json", "delete its folder and start the sweep again")
    evaluation = score_run(recipe, folder, corpus.read_pairs(folder / "pairs.tsv"), about)
    write_report(recipe.folder / "also" / f"{name}.json", evaluation)


def _folder(home: Recipe, name: str) -> Path:
    return home.folder / "also" / name
