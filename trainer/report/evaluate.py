"""Stage `evaluate`: how close an encoder's output is to the teacher's, beside baselines."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from zhclip.artifact import Artifact, load
from zhclip.models import kind_of, relative_layer
from zhclip.prompt import normalise

from ..base.device import default_device
from ..base.files import hold, read_json, write_text
from ..base.recipe import CacheSettings, Recipe, SettingsError, TrainSettings
from ..base.settings import corpus_name, parse_recipe, public_name, public_settings, require
from ..base.stage_settings import EvaluateSettings, TranslateSettings
from ..cache.builder import CacheBuilder
from ..cache.shards import Cache
from ..cache.stage import build
from ..cache.standardise import with_statistics
from ..corpus.lines import Row
from ..corpus.pairs import Pair, clean, read_pairs
from ..corpus.readers import read_rows
from ..corpus.stage import split_rows
from ..models.student import Student, load_student
from ..models.teacher import Teacher, load_teacher
from ..progress import Listener
from ..training import metrics
from ..training.setup import TrainedRun, strategy_name
from . import captions
from .captions import Caption
from .page import page
from .score import Baselines, Translations, score, teacher_targets
from .tables import to_markdown

TIMED = 16  # prompts, one at a time
logger = logging.getLogger(__name__)


def evaluate(settings: EvaluateSettings, progress: Listener | None = None) -> None:
    """Stage `evaluate`: of an artifact, or of a run. Raises SettingsError when neither is given."""
    if settings.artifact:
        evaluate_artifact(settings, progress)
    elif settings.run:
        recipe = parse_recipe(Path(settings.run) / "recipe.yaml")
        recipe.run = settings.run  # the folder may have been moved
        with hold(recipe.folder, "--run"):
            evaluate_run(recipe, progress, settings.translator)
    else:
        raise SettingsError("give --artifact with --teacher.model and --corpus, or --run")


def evaluate_run(recipe: Recipe, progress: Listener | None = None, translator: str | None = None) -> None:
    """Score a trained run on its dev pairs: RUN/report.json, report.md, report.html and report.captions.tsv.

    Raises SettingsError when training has not finished.
    """
    run, folder = TrainedRun.open(recipe, default_device(), progress), recipe.folder / "corpus"
    summary = read_json(folder / "summary.json", "delete it and run the corpus stage again")
    targets = teacher_targets(run.teacher, read_pairs(folder / "train.tsv"))
    baselines = Baselines(run.cache, recipe.train.ridge_lambda, targets)
    dev = Cache.open(recipe.cache_folder / "dev", run.student.depth, None)
    pairs = read_pairs(folder / "dev.tsv")
    translations, times = translate(translator, split_rows(recipe.corpus, "dev"), pairs, run.teacher, run.student)
    report, rows = score(run.student, [(dev, baselines)], pairs, progress, translations)
    report |= times | {
        "baselines_from": "training pairs",
        "corpus": {"name": corpus_name(recipe.corpus), "rejected": summary["dev"]["rejected"]},
        "strategy": strategy_name(recipe.train),
    }
    name, logged = recipe.folder.resolve().name, metrics.read(recipe.folder / metrics.FILE)
    html = page(report, rows, name, public_settings(recipe), logged, summary)
    write_report(recipe.folder / "report.json", report, rows, html)


def evaluate_artifact(settings: EvaluateSettings, progress: Listener | None = None) -> None:
    """Score an artifact on a corpus, for the log and, with --report, files.

    Baselines come from its run's cache if it lies in the run's folder; else those of each half of the scored pairs come
    from the other half. Raises SettingsError, CorpusError, ArtifactError, ModelError.
    """
    path = Path(require(settings.artifact, "artifact", "the encoder to score"))
    source = require(settings.corpus, "corpus", "the pairs to score it on")
    device, artifact = default_device(), load(path)
    meta, recipe_path = artifact.meta, path.parent / "recipe.yaml"
    student = Student.from_artifact(artifact).to(device)
    teacher = load_own_teacher(settings, artifact, device, progress)
    student.structure = student.structure.standardised()
    student.pooled = student.pooled.standardised() if student.pooled else None
    run = parse_recipe(recipe_path) if recipe_path.is_file() else None
    model = settings.student.model or (run.student.model if run else None)
    model = require(model, "student.model", "the untrained student")
    untrained = load_student(model, meta.window, device, progress=progress)
    cleaned = clean(read_rows(source), student.tokens.length, teacher.length, meta.window)
    penalty = float(meta.recipe.get("train", {}).get("ridge_lambda", TrainSettings.ridge_lambda))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        pairs = cleaned.require(4, source)
        caches = cache_halves(Path(temporary), pairs, teacher, untrained)
        if run is not None and (run.cache_folder / "train").is_dir():
            train = Cache.open(run.cache_folder / "train", None, run.train.pad_positions)
            targets = teacher_targets(teacher, read_pairs(run.folder / "corpus" / "train.tsv"))
            baselines, origin = [Baselines(train, penalty, targets)] * 2, "training pairs"
        else:
            baselines = [Baselines(half, penalty) for half in reversed(caches)]
            origin = "the other half of the scored pairs"
        translations, times = translate(settings.translator, read_rows(source), pairs, teacher, student)
        report, rows = score(student, list(zip(caches, baselines)), pairs, progress, translations)
    about = {"name": Path(source).name, "rejected": cleaned.counts()}
    report |= times | {"baselines_from": origin, "corpus": about, "strategy": meta.strategy}
    html = page(report, rows, path.stem, meta.recipe)
    write_report(Path(settings.report) if settings.report else None, report, rows, html)


def translate(
    model: str | None, rows: Iterable[Row], pairs: list[Pair], teacher: Teacher, student: Student
) -> tuple[Translations | None, dict[str, Any]]:
    """A translator's English of the pairs' Chinese as the rows have it, since normalising folds the punctuation that a
    translator reads; and the report's `translator`: its name, and the median milliseconds that one prompt takes,
    translated and encoded by the teacher, and encoded by the student.

    Nothing without a model. A prompt that is too long for the translator has no words. Raises ModelError.
    """
    if model is None:
        return None, {}
    from ..translate.stage import open_model
    from ..translate.translator import Translator

    translator = Translator(
        open_model(model, "translator"), TranslateSettings(), default_device(), "translator", ("zh", "en")
    )

    def english(texts: list[str]) -> list[str]:
        return [translation.text for translation in translator.translate(texts)]

    original = {pair.zh: pair.zh for pair in pairs}  # for pairs that the source has lost since
    original |= {zh: row.zh for row in rows if (zh := normalise(row.zh)) in original}
    texts = [original[pair.zh] for pair in pairs]
    times = {
        "translator": milliseconds(lambda text: teacher.encode(english([text]))[0].cpu(), texts[:TIMED]),
        "aligned": milliseconds(lambda text: student.encode([text]).cpu(), texts[:TIMED]),
    }
    return Translations(english(texts), teacher), {"translator": {"model": public_name(model), **times}}


def milliseconds(encode: Callable[[str], object], texts: list[str]) -> float:
    """Median milliseconds of a call with one text, after a first one that is not counted."""
    encode(texts[0])
    seconds = []
    for text in texts:
        began = time.perf_counter()
        encode(text)
        seconds.append(time.perf_counter() - began)
    return 1000 * median(seconds)


def cache_halves(folder: Path, pairs: list[Pair], teacher: Teacher, untrained: Student) -> list[Cache]:
    """Both halves of the pairs as caches of all positions and all the untrained student's layers."""
    half = (len(pairs) + 1) // 2
    caches = []
    for name, chosen in (("first", pairs[:half]), ("second", pairs[half:])):
        build(folder / name, CacheBuilder(teacher, untrained, chosen, untrained.depth, None, half, CacheSettings.batch))
        caches.append(Cache.open(folder / name, untrained.depth, None))
    return caches


def load_own_teacher(settings: EvaluateSettings, artifact: Artifact, device: str, progress: Listener | None) -> Teacher:
    """The artifact's teacher, whose outputs are standardised as the artifact's were in training."""
    model = require(settings.teacher.model, "teacher.model", "the artifact's teacher")
    meta, own = artifact.meta, artifact.meta.teacher
    layer = relative_layer(own.layer, kind_of(meta.keys).parts[0].layer)
    teacher = load_teacher(model, meta.window, layer, settings.teacher.tokenizer, device, progress=progress)
    # A converted encoder names no teacher and can be scored beside any of its width.
    if own.sha256 and teacher.sha256 != own.sha256:
        wanted = f"{own.id} with sha256 {own.sha256[:12]}, to which {settings.artifact} was aligned"
        raise SettingsError(f"--teacher.model {model} has sha256 {teacher.sha256[:12]}; give {wanted}")
    if teacher.width != own.width:
        raise SettingsError(f"--teacher.model {model} is {teacher.width} wide and {settings.artifact} {own.width}")
    groups, names = {"": artifact.structure, "pooled_": artifact.pooled}, ("mean", "std")
    return with_statistics(teacher, {p + n: t[n].float() for p, t in groups.items() for n in names if n in t})


def write_report(path: Path | None, report: dict[str, Any], rows: list[Caption], html: str) -> None:
    """Log the report; with a path R.json write R.captions.tsv, R.html, R.md and, last, R.json, so that files beside a
    report are of the same encoder."""
    text = to_markdown(report)
    if path:
        captions.write(captions.path_beside(path), rows)
        write_text(path.with_suffix(".html"), html)
        write_text(path.with_suffix(".md"), text)
        write_text(path, json.dumps(report, indent=1))
    logger.info(text)
