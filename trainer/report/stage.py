"""How close the aligned encoder comes, beside what needs no training to come as close."""

from __future__ import annotations

import json
import tempfile
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zhclip.artifact import Meta, load
from zhclip.models import kind_of, relative_layer
from zhclip.structure import Structure

from ..base.device import default_device
from ..base.files import read_json, write_text
from ..base.locks import hold
from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..base.settings import corpus_name, parse_recipe, public, require
from ..base.stage_settings import EvaluateSettings
from ..cache.builder import CacheBuilder
from ..cache.shards import Cache
from ..cache.stage import build
from ..cache.standardise import standardised_teacher
from ..corpus import stage as corpus
from ..corpus.pairs import Pair
from ..models.student import Student, load_student
from ..models.teacher import Teacher, load_teacher
from ..progress import Listener
from ..training import checkpoint
from ..training.opening import trained_student
from . import captions, curves
from .evaluation import Evaluation
from .floors import Floors, answers
from .markdown import to_markdown
from .page import page
from .scoring import BATCH, score

MOMENTS = ("mean", "std")  # of standardised vectors


@dataclass(frozen=True)
class Finished:
    """A trained run, as it is scored and exported: the student with its structure, PEFT's view of it for lora, the
    teacher, both standardised where the teacher's states are, and the cache of the training pairs."""

    student: Student
    adapter: Any
    teacher: Teacher
    cache: Cache

    @classmethod
    def open(cls, recipe: Recipe, device: str) -> Finished:
        """Raises SettingsError when training has not finished."""
        student, adapter, cache = trained_student(recipe, device)
        teacher = standardised_teacher(recipe, device)
        empty = teacher.encode([""])[0][0].cpu()  # (W, D)
        # Stored and not learnt. The student applies its own projection, which still learns.
        student.structure = Structure(
            position0=empty[0].clone() if teacher.causal else None,
            empty=empty,
            norms=cache.norms(),
            widths=teacher.widths,
        )
        pooled = teacher.encode_pooled([""])
        if pooled is not None:
            student.pooled = Structure(empty=pooled.cpu(), norms=cache.projected_norm())
        return cls(student, adapter, teacher, cache)

    def floors(self, recipe: Recipe) -> Floors:
        """What its losses are read against, from the run's training pairs."""
        pairs = corpus.read_pairs(recipe.folder / "corpus" / "train.tsv")
        return Floors.of(self.cache, recipe.train.ridge_lambda, answers(self.teacher, pairs))


def evaluate(settings: EvaluateSettings) -> None:
    """Stage `evaluate`: of an artifact, or of a run. Raises SettingsError when neither is given."""
    if settings.artifact:
        evaluation = evaluate_artifact(settings)
    elif settings.run:
        recipe = parse_recipe(Path(settings.run) / "recipe.yaml")
        recipe.run = settings.run  # the folder may have been moved
        with hold(recipe.folder, "--run"):
            evaluation = evaluate_run(recipe)
    else:
        raise SettingsError("give --artifact with --teacher.model and --corpus, or --run")
    if settings.report:
        write_report(Path(settings.report), evaluation)
    print(to_markdown(evaluation.report))


def evaluate_run(recipe: Recipe, progress: Listener | None = None) -> Evaluation:
    """Stage `evaluate` of a run: RUN/report.json, report.md, report.html, report.captions.tsv and RUN/logs/report."""
    logs, folder = recipe.folder / "logs", recipe.folder / "corpus"
    summary = read_json(folder / "summary.json", "delete it and run the corpus stage again")
    dev = {"name": corpus_name(recipe.corpus), "rejected": summary["dev"]["rejected"]}
    pairs = corpus.read_pairs(folder / "dev.tsv")
    shown = {"curves": curves.read(logs), "corpus": summary}
    evaluation = score_run(recipe, recipe.cache_folder / "dev", pairs, dev, **shown)
    write_report(recipe.folder / "report.json", evaluation)
    if "tensorboard" in recipe.train.report_to:
        curves.write(logs, evaluation.report, trained_steps(recipe))
    return evaluation


def score_run(recipe: Recipe, cached: Path, pairs: list[Pair], about: dict[str, Any], **beside: Any) -> Evaluation:
    """Score a trained run on cached pairs. `about` is what the report says of them, `beside` what else its page has."""
    run = Finished.open(recipe, default_device())
    scored = score(run.student, [(Cache.open(cached, run.student.depth, None), run.floors(recipe))], pairs)
    facts = {"baselines_from": "training pairs", "corpus": about, "strategy": strategy_name(recipe)}
    return replace(scored, report=scored.report | facts, recipe=public(recipe), **beside)


def trained_steps(recipe: Recipe) -> int:
    """The step at which the scored weights stood; 0 for ridge, which takes none."""
    path = checkpoint.final(recipe.folder / "checkpoints")
    return checkpoint.read(path).step if path.is_file() else 0


def strategy_name(recipe: Recipe) -> str:
    """unfreeze, lora or ridge, with the start where it is not the student."""
    train = recipe.train
    return f"ridge+{train.strategy}" if train.start == "ridge" and train.strategy != "ridge" else train.strategy


def evaluate_artifact(settings: EvaluateSettings) -> Evaluation:
    """Score an artifact on a corpus. Floors come from its run's cache when it lies in the run's folder; elsewhere each
    half of the scored pairs gets its floors from the other half.

    Raises SettingsError, CorpusError, ArtifactError, ModelError.
    """
    path = require(settings.artifact, "artifact", "the encoder to score")
    source = require(settings.corpus, "corpus", "the pairs to score it on")
    device = default_device()
    artifact = load(path)
    meta = artifact.meta
    student = Student.from_artifact(artifact).to(device)
    teacher = _teacher_beside(settings, meta, device)
    if "mean" in artifact.structure:
        own: dict[str, Any] = {name: artifact.structure[name] for name in MOMENTS}
        own |= {f"pooled_{name}": artifact.pooled.get(name) for name in MOMENTS}
        own = {name: None if moment is None else moment.float() for name, moment in own.items()}
        teacher = copy(teacher)
        vars(teacher).update(own)
        student.structure = student.structure.standardised()
        student.pooled = student.pooled.standardised() if student.pooled else None
    beside = recipe_beside(Path(path))
    untrained_model = settings.student.model or (beside.student.model if beside else None)
    untrained = load_student(require(untrained_model, "student.model", "the untrained student"), meta.window, device)
    cleaned = corpus.scorable(source, student.tokens.length, teacher.length, meta.window)
    penalty = float(meta.recipe.get("train", {}).get("ridge_lambda", TrainSettings.ridge_lambda))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        half = (len(cleaned.pairs) + 1) // 2
        halves = []
        for name, some in (("first", cleaned.pairs[:half]), ("second", cleaned.pairs[half:])):
            builder = CacheBuilder(teacher, untrained, some, untrained.depth, None, half, BATCH)
            build(Path(temporary, name), builder)
            halves.append(Cache.open(Path(temporary, name), untrained.depth, None))
        floors, origin = _floors(beside, teacher, halves, penalty)
        scored = score(student, list(zip(halves, floors, strict=True)), cleaned.pairs)
    about = {"name": Path(source).name, "rejected": cleaned.counts()}
    facts = {"baselines_from": origin, "corpus": about, "strategy": meta.strategy}
    return replace(scored, report=scored.report | facts, recipe=meta.recipe)


def _teacher_beside(settings: EvaluateSettings, meta: Meta, device: str) -> Teacher:
    model = require(settings.teacher.model, "teacher.model", "the artifact's teacher")
    own = meta.teacher
    layer = relative_layer(own.layer, kind_of(meta.keys).parts[0].layer)
    teacher = load_teacher(model, meta.window, layer, settings.teacher.tokenizer, device)
    # A converted encoder has no teacher: it is scored beside any that is as wide.
    if own.sha256 and teacher.sha256 != own.sha256:
        raise SettingsError(
            f"--teacher.model {model} has sha256 {teacher.sha256[:12]}, and {settings.artifact} was aligned to "
            f"{own.id} with {own.sha256[:12]}; give that teacher"
        )
    if teacher.width != own.width:
        raise SettingsError(f"--teacher.model {model} is {teacher.width} wide and {settings.artifact} {own.width}")
    return teacher


def recipe_beside(artifact: Path) -> Recipe | None:
    """The resolved recipe of the run in whose folder the artifact lies, or None."""
    path = artifact.parent / "recipe.yaml"
    return parse_recipe(path) if path.is_file() else None


def _floors(beside: Recipe | None, teacher: Teacher, halves: list[Cache], penalty: float) -> tuple[list[Floors], str]:
    if beside is not None and (beside.cache_folder / "train").is_dir():
        train = Cache.open(beside.cache_folder / "train", None, beside.train.pad_positions)
        pairs = corpus.read_pairs(beside.folder / "corpus" / "train.tsv")
        return [Floors.of(train, penalty, answers(teacher, pairs))] * 2, "training pairs"
    return [Floors.of(half, penalty) for half in reversed(halves)], "the other half of the scored pairs"


def write_report(path: Path, evaluation: Evaluation) -> None:
    """The report as JSON, as Markdown and as a page, and the table of its captions: R.json, R.md, R.html,
    R.captions.tsv."""
    captions.write(captions.beside(path), evaluation.captions)
    write_text(path.with_suffix(".html"), page(evaluation))
    write_text(path.with_suffix(".md"), to_markdown(evaluation.report))
    # Last: what stands beside it is then of the same encoder.
    write_text(path, json.dumps(evaluation.report, indent=1))
