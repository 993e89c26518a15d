"""How close the aligned encoder comes, beside what needs no training to come as close."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zhclip.artifact import load
from zhclip.calibration import sentence
from zhclip.structure import Structure

from . import captions, checkpoint, corpus, curves
from .cache import Cache, build, default_device, teacher_of
from .captions import Caption
from .corpus import Pair
from .files import read_json
from .floors import ORDINARY, Floors
from .objective import ZONES, cosine_loss, zone_masks
from .recipe import EvaluateSettings, Recipe, SettingsError, TrainSettings, corpus_name, public, require, write_text
from .report import to_markdown
from .report_page import Sources, page
from .retrieval import likeness, neighbours, ranks, retrieval
from .rows import CorpusError, read
from .settings import parse_recipe
from .student import Student, load_student, trunk_depth
from .teacher import Teacher, load_teacher
from .train import trained_student

BATCH = 64
MAPPED = 20  # captions in the page's heat map


class Sums:
    """Sums of losses by zone, and sentence vectors for retrieval, of one predictor."""

    def __init__(self) -> None:
        self.loss = dict.fromkeys(ZONES, 0.0)
        self.count = dict.fromkeys(ZONES, 0)
        self.vectors: list[torch.Tensor] = []
        self.content: list[torch.Tensor] = []

    def add(self, z: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One batch: (B, W, D) twice, teacher lengths (B,), and the (B, W) positions of the predictor's own text.

        Returns the (B, W) losses.
        """
        loss = cosine_loss(z, target)
        for zone, where in zone_masks(lengths, z.shape[1]).items():
            self.loss[zone] += float(loss[where].double().sum())
            self.count[zone] += int(where.sum())
        self.vectors.append(sentence(z, mask))
        self.content.append(sentence(z, content(mask.sum(dim=1), z.shape[1])))
        return loss

    def means(self) -> dict[str, float]:
        """Mean loss of each zone that occurs."""
        return {zone: self.loss[zone] / self.count[zone] for zone in ZONES if self.count[zone]}


class Norms:
    """Sums of norms by zone, the predictor's and the teacher's."""

    def __init__(self) -> None:
        self.own = dict.fromkeys(ZONES, 0.0)
        self.target = dict.fromkeys(ZONES, 0.0)

    def add(self, z: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> None:
        """One batch: (B, W, D) twice, and teacher lengths (B,)."""
        own, goal = z.norm(dim=-1), target.norm(dim=-1)
        for zone, where in zone_masks(lengths, z.shape[1]).items():
            self.own[zone] += float(own[where].double().sum())
            self.target[zone] += float(goal[where].double().sum())

    def ratios(self) -> dict[str, float]:
        """Mean norm over the teacher's mean norm, in each zone that occurs."""
        return {zone: self.own[zone] / self.target[zone] for zone in ZONES if self.target[zone]}


def content(lengths: torch.Tensor, window: int) -> torch.Tensor:
    """Lengths (B,), start and end included -> (B, window) bool: the positions between those two."""
    return zone_masks(lengths, window)["content"]


@dataclass(frozen=True)
class Scored:
    """A report as plain JSON values, and what it was made from, caption by caption."""

    report: dict
    loss: torch.Tensor  # (N,) over all positions
    loss_content: torch.Tensor  # (N,)
    likeness: torch.Tensor  # (N, N) zh by en
    likeness_content: torch.Tensor  # (N, N) by content positions alone

    def captions(self, pairs: Sequence[Pair]) -> list[Caption]:
        """The table of the scored pairs."""
        columns = (self.loss, self.loss_content, ranks(self.likeness), ranks(self.likeness_content))
        nearest = [pairs[i].en for i in neighbours(self.likeness).tolist()]
        rows = zip(pairs, *(column.tolist() for column in columns), nearest, strict=True)
        return [Caption(pair.zh, pair.en, *figures) for pair, *figures in rows]

    def map(self) -> tuple[list[int], list[list[float]]]:
        """Captions from all over the table, and how alike they are, zh by en."""
        chosen = torch.linspace(0, len(self.loss) - 1, min(MAPPED, len(self.loss))).long()
        return chosen.tolist(), self.likeness[chosen][:, chosen].tolist()


def score(student: Student, structure: Structure, cache: Cache, floors: list[Floors]) -> dict:
    """The report of a student over a cached corpus (all layers' states stored).

    `floors[i]` serve shard i, or floors[0] all shards. Returns the report as plain JSON values.
    """
    return scored(student, structure, cache, floors).report


@torch.inference_mode()
def scored(student: Student, structure: Structure, cache: Cache, floors: list[Floors]) -> Scored:
    """`score`, and the figures of each caption in the cache's order."""
    device = student.bert.device
    sums: dict[str, Sums] = {}
    norms = Norms()
    en, en_content, losses, losses_content = [], [], [], []
    window = cache.shards[0]["target"].shape[1]
    for index in range(len(cache.shards)):
        part, floor = cache.only(index), floors[index if len(floors) > 1 else 0]
        nearest = floor.nearest(part.column("pooled"))
        for some in torch.arange(len(part)).split(BATCH):
            chosen = some.tolist()
            ids, target = part.rows("ids", chosen).long(), part.rows("target", chosen).float()
            lengths, mask = part.rows("en_length", chosen), student.tokens.key_mask(ids)
            aligned = structure.apply(student(ids.to(device)), student.tokens.is_empty(ids)).cpu()
            predictions = floor.predict(part.rows("trunk", chosen).float(), [nearest[i] for i in chosen])
            loss = sums.setdefault("aligned", Sums()).add(aligned, target, lengths, mask).double()
            norms.add(aligned, target, lengths)
            for name, z in predictions.items():
                sums.setdefault(name, Sums()).add(z, target, lengths, mask)
            within = content(lengths, window)
            losses.append(loss.mean(dim=1))
            losses_content.append((loss * within).sum(dim=1) / within.sum(dim=1).clamp_min(1))
            en.append(sentence(target, torch.arange(window)[None] < lengths[:, None]))
            en_content.append(sentence(target, within))
    found = {name: retrieval(torch.cat(s.vectors), torch.cat(en)) for name, s in sums.items()}
    found_content = {name: retrieval(torch.cat(s.content), torch.cat(en_content)) for name, s in sums.items()}
    means = {name: s.means() for name, s in sums.items()}
    ratios = norms.ratios()
    skills = {z: 1 - means["aligned"][z] / c for z, c in means["constant"].items() if c > 1e-6}
    report = {
        "rows": len(cache),
        "window": window,
        "loss": means["aligned"],
        "floors": {name: means.get(name) for name in ORDINARY},
        "skill": skills["all"],
        "skill_zones": skills,
        "retrieval": found["aligned"],
        "floors_retrieval": {name: found.get(name) for name in ORDINARY},
        "retrieval_content": found_content["aligned"],
        "floors_retrieval_content": {name: found_content.get(name) for name in ORDINARY},
        "norm_ratio": ratios["all"],
        "norm_ratio_zones": ratios,
    }
    return Scored(
        report,
        loss=torch.cat(losses),
        loss_content=torch.cat(losses_content),
        likeness=likeness(torch.cat(sums["aligned"].vectors), torch.cat(en)),
        likeness_content=likeness(torch.cat(sums["aligned"].content), torch.cat(en_content)),
    )


def structure_of(teacher: Teacher, cache: Cache, learnt_norms: bool = False) -> Structure:
    """What is stored and not learnt: the norm table, the empty prompt and, for CLIP, position 0."""
    empty = teacher.encode([""])[0][0].cpu()  # (W, D)
    return Structure(
        proj_weight=None,  # the student applies its own projection, which still learns
        proj_bias=None,
        position0=empty[0].clone() if teacher.causal else None,
        empty=empty,
        norms=None if learnt_norms else cache.norms(),
    )


@dataclass(frozen=True)
class Head:
    """One of a run's two answers, the last layer's or clip skip's: who gives it, and the pairs it is scored on."""

    student: Student
    structure: Structure
    train: Cache
    dev: Cache


def heads(recipe: Recipe, student: Student, cache: Cache, teacher: Teacher) -> list[Head]:
    """The last layer's answer and, where the recipe has a target for it, that of the layer before."""
    folder, norms = recipe.cache_folder, recipe.train.norm > 0
    last = Head(student, structure_of(teacher, cache, norms), cache, Cache.open(folder / "dev", student.depth))
    if not recipe.teacher.skip:
        return [last]
    cut, before = student.without_last(), replace(teacher, layer=teacher.layer - 1)
    skip = Cache.open(folder / "train-skip", None)
    return [last, Head(cut, structure_of(before, skip), skip, Cache.open(folder / "dev-skip", cut.depth))]


@dataclass(frozen=True)
class Evaluation:
    """What is written about an encoder: the report, the scored captions one by one, and what the page shows beside."""

    report: dict
    captions: list[Caption]
    sources: Sources


def run(recipe: Recipe) -> Evaluation:
    """Stage `evaluate` of a run: RUN/report.json, report.md, report.html, report.captions.tsv and RUN/logs/report."""
    device = default_device()
    student, _, cache = trained_student(recipe, device)
    teacher = teacher_of(recipe, device)
    found, *skip = (
        scored(head.student, head.structure, head.dev, [Floors.of(head.train, recipe.train.ridge_lambda)])
        for head in heads(recipe, student, cache, teacher)
    )
    pairs = corpus.read_pairs(recipe.folder / "corpus" / "dev.tsv")
    summary = read_json(recipe.folder / "corpus" / "summary.json", "delete it and run the corpus stage again")
    report = found.report | {
        "floors_from": "training pairs",
        "corpus": {"name": corpus_name(recipe.corpus), "rejected": summary["dev"]["rejected"]},
        "strategy": strategy_name(recipe),
    }
    if skip:
        report["skip"] = skip[0].report
    logs = recipe.folder / "logs"
    sources = Sources(*found.map(), recipe=public(recipe), curves=curves.read(logs), corpus=summary)
    evaluation = Evaluation(report, found.captions(pairs), sources)
    write_report(recipe.folder / "report.json", evaluation)
    if "tensorboard" in recipe.train.report_to:
        curves.write(logs, report, trained_steps(recipe))
    return evaluation


def trained_steps(recipe: Recipe) -> int:
    """The step at which the scored weights stood; 0 for ridge, which takes none."""
    path = checkpoint.final(recipe.folder / "checkpoints")
    return checkpoint.read(path).step if path.is_file() else 0


def strategy_name(recipe: Recipe) -> str:
    """unfreeze, lora or ridge, with the start where it is not the student."""
    train = recipe.train
    return f"ridge+{train.strategy}" if train.start == "ridge" and train.strategy != "ridge" else train.strategy


def of_artifact(settings: EvaluateSettings) -> Evaluation:
    """Score an artifact on a corpus. Floors come from its run's cache when it lies in the run's folder; elsewhere each
    half of the scored pairs gets its floors from the other half.

    Raises SettingsError, CorpusError, ArtifactError, ModelError.
    """
    path = require(settings.artifact, "artifact", "the encoder to score")
    source = require(settings.corpus, "corpus", "the pairs to score it on")
    model = require(settings.teacher.model, "teacher.model", "the artifact's teacher")
    device = default_device()
    artifact = load(path)
    meta = artifact.meta
    student = Student.from_artifact(artifact).to(device)
    teacher = load_teacher(model, meta.window, meta.teacher.layer, settings.teacher.tokenizer, device)
    # A converted encoder has no teacher: it is scored beside any that is as wide.
    if meta.teacher.sha256 and teacher.sha256() != meta.teacher.sha256:
        raise SettingsError(
            f"--teacher.model {model} has sha256 {teacher.sha256()[:12]}, and {path} was aligned to {meta.teacher.id} "
            f"with {meta.teacher.sha256[:12]}; give that teacher"
        )
    if teacher.width != meta.teacher.width:
        raise SettingsError(f"--teacher.model {model} is {teacher.width} wide and {path} {meta.teacher.width}")
    beside = recipe_beside(Path(path))
    untrained_model = settings.student.model or (beside.student.model if beside else None)
    untrained = load_student(require(untrained_model, "student.model", "the untrained student"), meta.window, device)
    cleaned = corpus.clean(read(source), student.tokens.length, teacher.length, meta.window)
    if len(cleaned.pairs) < 4:
        raise CorpusError(f"{source}: {len(cleaned.pairs)} usable pairs; rejected: {cleaned.counts()}")
    penalty = float(meta.recipe.get("train", {}).get("ridge_lambda", TrainSettings.ridge_lambda))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        half = (len(cleaned.pairs) + 1) // 2
        build(Path(temporary), cleaned.pairs, teacher, untrained, untrained.depth, half, BATCH)
        cache = Cache.open(Path(temporary), untrained.depth)
        floors, origin = _floors(beside, untrained, cache, penalty)
        found = scored(student, student.structure, cache, floors)
    report = found.report | {
        "floors_from": origin,
        "corpus": {"name": Path(source).name, "rejected": cleaned.counts()},
        "strategy": meta.strategy,
    }
    sources = Sources(*found.map(), recipe=meta.recipe, curves={}, corpus={})
    return Evaluation(report, found.captions(cleaned.pairs), sources)


def recipe_beside(artifact: Path) -> Recipe | None:
    """The resolved recipe of the run in whose folder the artifact lies, or None."""
    path = artifact.parent / "recipe.yaml"
    if not path.is_file():
        return None
    return parse_recipe(path)


def _floors(beside: Recipe | None, untrained: Student, cache: Cache, penalty: float) -> tuple[list[Floors], str]:
    if beside is not None and (beside.cache_folder / "train").is_dir():
        train = Cache.open(beside.cache_folder / "train", trunk_depth(beside.train, untrained.depth))
        return [Floors.of(train, penalty)], "training pairs"
    halves = [Floors.of(cache.only(1), penalty), Floors.of(cache.only(0), penalty)]
    return halves, "the other half of the scored pairs"


def write_report(path: Path, evaluation: Evaluation) -> None:
    """The report as JSON, as Markdown and as a page, and the table of its captions: R.json, R.md, R.html,
    R.captions.tsv."""
    captions.write(captions.beside(path), evaluation.captions)
    write_text(path.with_suffix(".html"), page(evaluation.report, evaluation.captions, evaluation.sources))
    write_text(path.with_suffix(".md"), to_markdown(evaluation.report))
    # Last: what stands beside it is then of the same encoder.
    write_text(path, json.dumps(evaluation.report, indent=1))
