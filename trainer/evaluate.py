"""How close the aligned encoder comes, beside what needs no training to come as close."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from zhclip.artifact import load
from zhclip.structure import Structure, project

from . import corpus
from .cache import Cache, build, default_device, teacher_of
from .objective import ZONES, cosine_loss, unit, zone_masks
from .recipe import EvaluateSettings, Recipe, SettingsError, TrainSettings, corpus_name, require, write_text
from .report import to_markdown
from .rows import CorpusError, read
from .settings import parse_recipe
from .student import Ridge, Student, load_student, trunk_depth
from .teacher import Teacher, load_teacher
from .train import trained_student

BATCH = 64
RANKS = (1, 5, 10)
ORDINARY = ("constant", "nearest", "untrained", "ridge")


@dataclass(frozen=True)
class Floors:
    """Predictors that need no gradient, from a cache of other captions than those that are scored."""

    cache: Cache
    constant: torch.Tensor  # (W, D)
    ridge: Ridge
    centre: torch.Tensor  # (S,)
    bank: torch.Tensor  # (N, S), centred unit sentence vectors

    @classmethod
    def of(cls, cache: Cache, penalty: float) -> Floors:
        """Solve them from the cache's sums."""
        pooled = cache.column("pooled")
        centre = pooled.mean(dim=0)
        return cls(cache, cache.constant(), cache.ridge(penalty), centre, unit(pooled - centre))

    def predict(self, untrained: torch.Tensor, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, W, S) untrained output and (B, S) pooled -> (B, W, D) by predictor.

        `nearest` is the target of the training caption whose Chinese lies nearest by the untrained student.
        """
        nearest = (unit(pooled - self.centre) @ self.bank.T).argmax(dim=1).tolist()
        predictions = {
            "constant": self.constant.expand(len(untrained), -1, -1),
            "nearest": self.cache.rows("target", nearest).float(),
            "ridge": project(untrained, self.ridge.weight, self.ridge.bias),
        }
        if untrained.shape[-1] == self.constant.shape[-1]:
            predictions["untrained"] = untrained
        return predictions


class Sums:
    """Sums of losses and norms by zone, and sentence vectors for retrieval, of one predictor."""

    def __init__(self) -> None:
        self.loss = dict.fromkeys(ZONES, 0.0)
        self.norm = dict.fromkeys(ZONES, 0.0)
        self.target_norm = dict.fromkeys(ZONES, 0.0)
        self.count = dict.fromkeys(ZONES, 0)
        self.vectors: list[torch.Tensor] = []

    def add(self, z: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor) -> None:
        """One batch: (B, W, D) twice, teacher lengths (B,), and the (B, W) positions of the predictor's own text."""
        loss = cosine_loss(z, target)
        for zone, where in zone_masks(lengths, z.shape[1]).items():
            self.loss[zone] += float(loss[where].double().sum())
            self.norm[zone] += float(z.norm(dim=-1)[where].double().sum())
            self.target_norm[zone] += float(target.norm(dim=-1)[where].double().sum())
            self.count[zone] += int(where.sum())
        self.vectors.append(sentence(z, mask))

    def means(self) -> dict[str, float]:
        """Mean loss of each zone that occurs."""
        return {zone: self.loss[zone] / self.count[zone] for zone in ZONES if self.count[zone]}

    def norm_ratios(self) -> dict[str, float]:
        """Mean norm over the teacher's mean norm, in each zone that occurs."""
        return {zone: self.norm[zone] / self.target_norm[zone] for zone in ZONES if self.count[zone]}


def sentence(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, W, D), (B, W) bool -> (B, D): mean of the unit vectors over the text's positions."""
    return (unit(z.float()) * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def retrieval(zh: torch.Tensor, en: torch.Tensor) -> dict[str, dict[str, float]]:
    """(N, D) sentence vectors of both sides -> R@k in both directions. Each side is centred on its own mean first."""
    similarity = unit(zh - zh.mean(dim=0)) @ unit(en - en.mean(dim=0)).T
    return {"zh_to_en": _recalls(similarity), "en_to_zh": _recalls(similarity.T)}


def _recalls(similarity: torch.Tensor) -> dict[str, float]:
    own = similarity.diagonal()[:, None]
    # Ties count against: a constant predictor, to which all captions are equally near, must not score.
    rank = (similarity >= own).sum(dim=1) - 1
    return {f"R@{k}": float((rank < k).double().mean()) for k in RANKS}


@torch.inference_mode()
def score(student: Student, structure: Structure, cache: Cache, floors: list[Floors]) -> dict:
    """The report of a student over a cached corpus (all layers' states stored).

    `floors[i]` serve shard i, or floors[0] all shards. Returns the report as plain JSON values.
    """
    device = student.bert.device
    sums: dict[str, Sums] = {}
    en_vectors, rows = [], 0
    for index in range(len(cache.shards)):
        part, floor = cache.only(index), floors[index if len(floors) > 1 else 0]
        for some in torch.arange(len(part)).split(BATCH):
            chosen = some.tolist()
            ids, target = part.rows("ids", chosen).long(), part.rows("target", chosen).float()
            lengths, mask = part.rows("en_length", chosen), student.tokens.key_mask(ids)
            aligned = structure.apply(student(ids.to(device)), student.tokens.is_empty(ids)).cpu()
            predictions = floor.predict(part.rows("trunk", chosen).float(), part.rows("pooled", chosen))
            for name, z in {"aligned": aligned, **predictions}.items():
                sums.setdefault(name, Sums()).add(z, target, lengths, mask)
            en_vectors.append(sentence(target, torch.arange(target.shape[1])[None] < lengths[:, None]))
            rows += len(chosen)
    window = cache.shards[0]["target"].shape[1]
    en = torch.cat(en_vectors)
    found = {name: retrieval(torch.cat(s.vectors), en) for name, s in sums.items()}
    losses = {name: s.means() for name, s in sums.items()}
    ratios = sums["aligned"].norm_ratios()
    skills = {z: 1 - losses["aligned"][z] / c for z, c in losses["constant"].items() if c > 1e-6}
    return {
        "rows": rows,
        "window": window,
        "loss": losses["aligned"],
        "floors": {name: losses.get(name) for name in ORDINARY},
        "skill": skills["all"],
        "skill_zones": skills,
        "retrieval": found["aligned"],
        "floors_retrieval": {name: found.get(name) for name in ORDINARY},
        "norm_ratio": ratios["all"],
        "norm_ratio_zones": ratios,
    }


def structure_of(student: Student, teacher: Teacher, cache: Cache) -> Structure:
    """What is stored and not learnt: the norm table, the empty prompt and, for CLIP, position 0."""
    empty = teacher.encode([""])[0][0].cpu()  # (W, D)
    return Structure(
        proj_weight=None,  # the student applies its own projection, which still learns
        proj_bias=None,
        position0=empty[0].clone() if teacher.causal else None,
        empty=empty,
        norms=cache.norms(),
    )


def run(recipe: Recipe) -> dict:
    """Stage `evaluate` of a run: RUN/report.json and RUN/report.md."""
    device = default_device()
    student, _, cache = trained_student(recipe, device)
    teacher = teacher_of(recipe, device)
    dev = Cache.open(recipe.cache_folder / "dev", student.depth)
    floors = Floors.of(cache, recipe.train.ridge_lambda)
    report = score(student, structure_of(student, teacher, cache), dev, [floors])
    summary = json.loads((recipe.folder / "corpus" / "summary.json").read_text(encoding="utf-8"))
    report |= {
        "floors_from": "training pairs",
        "corpus": {"name": corpus_name(recipe.corpus), "rejected": summary["dev"]["rejected"]},
        "strategy": strategy_name(recipe),
    }
    write_report(recipe.folder / "report.json", report)
    return report


def strategy_name(recipe: Recipe) -> str:
    """unfreeze, lora or ridge, with the start where it is not the student."""
    train = recipe.train
    return f"ridge+{train.strategy}" if train.start == "ridge" and train.strategy != "ridge" else train.strategy


def of_artifact(settings: EvaluateSettings) -> dict:
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
        report = score(student, student.structure, cache, floors)
    report |= {
        "floors_from": origin,
        "corpus": {"name": Path(source).name, "rejected": cleaned.counts()},
        "strategy": meta.strategy,
    }
    return report


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


def write_report(path: Path, report: dict) -> None:
    """report.json, and the same as Markdown beside it."""
    write_text(path, json.dumps(report, indent=1))
    write_text(path.with_suffix(".md"), to_markdown(report))
