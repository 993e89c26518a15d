"""The table of stages: what the command line, the locks and the messages know of each. A new stage is one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base.recipe import Recipe
from .base.stage_settings import (
    CompareReportsSettings,
    CompareSettings,
    ConvertSettings,
    EvaluateSettings,
    PublishSettings,
    SweepSettings,
    Translation,
)


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    purpose: str
    settings: type
    """Dataclass of its flags. Those of a Recipe belong to a run, whose folder is held while the stage works."""
    function: str = ""
    """ROOM.NAME that performs it with its settings, imported when it is asked for."""
    step: str = ""
    """ROOM.NAME that performs it with a Recipe, alone or within `run`."""
    output: str = "run"
    """The setting that says where it writes."""
    moves: str = ""
    """Flags that lead to another disk, where more than --OUTPUT does."""
    shared: bool = False
    """Whether the processes of a launcher do it together. Otherwise the main one does it alone."""
    fills_cache: bool = False
    """Whether it writes into the cache, which runs can share, and so holds that too."""
    resumes: Callable[[Any], str] | None = None
    """Where the same command goes on with it; by default at its start."""
    positional: str = ""
    """A setting that is given without a flag."""
    config: bool = False
    """Whether --config reads its settings from YAML."""


def _shards(recipe: Recipe) -> str:
    count = len(list(recipe.cache_folder.glob("*/*/*.safetensors")))
    return f"behind the {count} shards in {recipe.cache_folder}" if count else "with the cache stage from its start"


def _checkpoint(recipe: Recipe) -> str:
    newest = max(recipe.folder.glob("checkpoints/step-*.safetensors"), default=None)
    return f"from step {int(newest.stem.rpartition('-')[2])}" if newest else "with the train stage from its start"


def _translated(settings: Translation) -> str:
    parts = Path(f"{settings.translate.out}.parts")
    return f"behind the {len(list(parts.glob('*/*.jsonl')))} shards in {parts}"


def _pictures(settings: CompareSettings) -> str:
    folder = Path(settings.out) / "pictures"
    return f"behind the {len(list(folder.glob('*.png')))} pictures in {folder}"


DISKS = "--run or --cache.dir"
TABLE = (
    Stage("corpus", "read, clean, deduplicate and split the pairs", Recipe, step="corpus.stage.run", moves=DISKS),
    Stage(
        "cache",
        "compute teacher targets and frozen student states, once",
        Recipe,
        step="cache.stage.run",
        moves=DISKS,
        shared=True,
        fills_cache=True,
        resumes=_shards,
    ),
    Stage(
        "train", "align the student", Recipe, step="training.stage.run", moves=DISKS, shared=True, resumes=_checkpoint
    ),
    Stage(
        "export",
        "write the encoder's file, read back and compared",
        Recipe,
        step="artifact.export.export_run",
        moves=DISKS,
    ),
    Stage(
        "run", "corpus, cache, train, evaluate and export, going on where an earlier call stopped", Recipe, moves=DISKS
    ),
    Stage(
        "sweep",
        "train a grid of recipes on one cache, and lay them side by side in one table",
        SweepSettings,
        "sweep.stage.run",
    ),
    Stage(
        "evaluate",
        "score a run's checkpoint, or any artifact on any pairs, against floors",
        EvaluateSettings,
        "report.stage.evaluate",
        step="report.stage.evaluate_run",
        output="report",
        moves="--run or --report",
    ),
    Stage(
        "translate",
        "make pairs from English captions, by a translation model",
        Translation,
        "translate.stage.run",
        output="translate.out",
        resumes=_translated,
    ),
    Stage(
        "convert",
        "turn a published Chinese encoder (Taiyi, Chinese-CLIP) into an encoder's file",
        ConvertSettings,
        "artifact.convert.convert_published",
        output="out",
    ),
    Stage(
        "compare-reports",
        "lay reports side by side, and say which differences exceed chance",
        CompareReportsSettings,
        "report.differences.compare_reports",
        output="out",
        positional="reports",
    ),
    Stage(
        "compare",
        "paint the same prompts through several encoders and one SD1.5, with figures",
        CompareSettings,
        "pictures.stage.run",
        output="out",
        resumes=_pictures,
        config=True,
    ),
    Stage(
        "publish",
        "write a run's model card, and with --push send card and encoder to a model hub",
        PublishSettings,
        "artifact.publish.publish_run",
    ),
)
STAGES = {stage.name: stage for stage in TABLE}
RUN = tuple(STAGES[name] for name in ("corpus", "cache", "train", "evaluate", "export"))
