"""A trained run as it is scored and exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zhclip.structure import Structure

from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..cache.shards import POOLED, Cache
from ..cache.standardise import standardised_teacher
from ..models.student import Student
from ..models.teacher import Teacher
from ..progress import Listener
from . import checkpoint
from .schedule import total_steps
from .setup import open_student


@dataclass(frozen=True)
class TrainedRun:
    """The student with its final weights and structure, PEFT's model for lora, the teacher, and the training cache.

    Where the teacher's hidden states are standardised, the outputs of student and teacher are.
    """

    student: Student
    adapter: Any
    teacher: Teacher
    cache: Cache

    @classmethod
    def open(cls, recipe: Recipe, device: str, progress: Listener | None = None) -> TrainedRun:
        """Raises SettingsError when training has not finished."""
        path = checkpoint.final(recipe.folder / "checkpoints")
        learns = total_steps(recipe.train, rows=1) > 0
        if learns and not path.is_file():
            raise SettingsError(f"{path}: missing; run the train stage first, or the same `run` command to continue")
        student, adapter, cache = open_student(recipe, device, progress)
        if learns:
            checkpoint.restore(path, student)
        student.requires_grad_(False).train(False)
        teacher = standardised_teacher(recipe, device, progress)
        student.structure, student.pooled = build_structure(teacher, cache)
        return cls(student, adapter, teacher, cache)


def build_structure(teacher: Teacher, cache: Cache) -> tuple[Structure, Structure | None]:
    """What the file stores of the teacher's outputs beside the weights, for the hidden states and the pooled vector.

    The empty prompt's output; position 0, which a causal teacher has the same for every prompt; the mean norms.
    """
    targets, pooled = teacher.encode([""])
    empty = targets[0].cpu()  # (W, D)
    position0 = empty[0].clone() if teacher.causal else None
    structure = Structure(position0=position0, empty=empty, norms=cache.norms(), widths=teacher.widths)
    if pooled is None:
        return structure, None
    return structure, Structure(empty=pooled.cpu(), norms=cache.norms(POOLED))


def strategy_name(train: TrainSettings) -> str:
    """unfreeze, lora or ridge; preceded by `ridge+` where training starts from the ridge map."""
    return f"ridge+{train.strategy}" if train.start == "ridge" and train.strategy != "ridge" else train.strategy
