"""Opens a training, the student prepared for its strategy and all that a step reads and changes; and a trained run."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from zhclip.device import best_precision
from zhclip.structure import Structure

from ..base.device import processes
from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..base.settings import check_settings
from ..cache.shards import POOLED, Cache
from ..cache.standardise import standardised_teacher
from ..models.freezing import frozen_depth, set_trainable
from ..models.student import Student, student_from_recipe
from ..models.teacher import Teacher
from ..progress import Listener
from . import checkpoint
from .data import Batch, caption_batch, microbatches, read_ahead
from .dev import DevMetrics
from .losses import Loss
from .schedule import total_steps

MIN_SHARE = 64  # captions of a GPU from which several train together


@dataclass
class Training:
    """What the loop reads and changes.

    steps: in all; first: those already done, from a checkpoint. dev: None without dev_every and outside of the main
    process.
    """

    recipe: Recipe
    accelerator: Accelerator
    student: Student
    cache: Cache
    steps: int
    optimiser: torch.optim.Optimizer
    loss: Loss
    dev: DevMetrics | None
    first: int

    @classmethod
    def open(cls, recipe: Recipe, progress: Listener | None = None) -> Training | None:
        """The training of a recipe from its newest checkpoint on, or None if it is finished. Raises SettingsError."""
        train, folder = recipe.train, recipe.folder / "checkpoints"
        accelerator = make_accelerator(train)
        check_batch(train, accelerator.num_processes)
        student, _, cache = open_student(recipe, accelerator.device, progress)
        steps = total_steps(train, len(cache))
        with accelerator.main_process_first():
            check_settings(folder, _settings(recipe, cache, steps))
        if steps == 0 or checkpoint.final(folder).is_file():
            return None
        parameters = checkpoint.trainable(student).values()
        optimiser = torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
        has_dev = train.dev_every and accelerator.is_main_process
        dev = DevMetrics(recipe, cache, student) if has_dev else None
        newest = checkpoint.newest(folder)
        first = checkpoint.restore(newest, student, optimiser) if newest else 0
        loss = Loss(cache, train, student, accelerator.device)
        return cls(recipe, accelerator, student, cache, steps, optimiser, loss, dev, first)

    def batches(self) -> Generator[Batch, None, None]:
        """This process's batches of the remaining steps.

        With a GPU, batches are read while earlier ones are in use, and are pinned, so that no step waits for a copy.
        """
        train, cache, device = self.recipe.train, self.cache, self.accelerator.device
        share = self.accelerator.process_index, self.accelerator.num_processes
        steps = range(self.first, self.steps)
        passes = microbatches(len(cache), train.batch, train.seed, steps, train.accumulate, *share)

        def read(rows: list[int], step_rows: list[int]) -> Batch:
            return caption_batch(cache, rows, step_rows if train.contrast else None, device)

        def read_pinned(*indices: list[int]) -> Batch:
            return {name: tensor.pin_memory() for name, tensor in read(*indices).items()}

        return (read(*indices) for indices in passes) if device.type == "cpu" else read_ahead(read_pinned, passes)

    def save(self, step: int) -> None:
        """Write a checkpoint, after the last step the final weights too; delete all but the newest checkpoints."""
        folder = self.recipe.folder / "checkpoints"
        if self.accelerator.is_main_process:
            checkpoint.save(folder / f"step-{step:06d}.safetensors", step, self.student, self.optimiser)
            for old in sorted(folder.glob("step-*.safetensors"))[: -checkpoint.KEEP]:
                old.unlink()
            if step == self.steps:
                checkpoint.save(checkpoint.final(folder), step, self.student)
        self.accelerator.wait_for_everyone()


def make_accelerator(train: TrainSettings) -> Accelerator:
    """Accelerate's object for devices, precision and gradient accumulation."""
    cpu = processes().device.type == "cpu"
    return Accelerator(cpu=cpu, mixed_precision=precision(train), gradient_accumulation_steps=train.accumulate)


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Restore torch's random state and Accelerate's shared state afterwards: a node trains in ComfyUI's process."""
    states = (AcceleratorState, GradientState)
    before = [dict(state._shared_state) for state in states]
    device = processes().device
    AcceleratorState._reset_state()  # it keeps one precision a process
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for state, values in zip(states, before):
            state._shared_state.clear()
            state._shared_state.update(values)


def open_student(
    recipe: Recipe, device: torch.device | str, progress: Listener | None = None
) -> tuple[Student, Any, Cache]:
    """The untrained student prepared for its strategy, PEFT's model around its BERT for lora, and the training cache.

    Raises SettingsError.
    """
    train, student = recipe.train, student_from_recipe(recipe, device, progress)
    cache = Cache.open(recipe.cache_folder / "train", frozen_depth(train, student.depth), train.pad_positions)
    peft_model = prepare_student(student, cache, train)
    return student.to(device), peft_model, cache


def prepare_student(student: Student, cache: Cache, train: TrainSettings) -> Any:
    """Freeze the student but for what the strategy trains. Returns PEFT's model around its BERT for lora.

    Raises SettingsError for a student of another width than the teacher, if it does not start from the ridge map.
    """
    ridge_start = train.start == "ridge" or train.strategy == "ridge"
    if not ridge_start and cache.width != student.bert.dimensions.width:
        widths = f"the student is {student.bert.dimensions.width} wide and the teacher {cache.width}"
        raise SettingsError(f"{widths}: only --train.start ridge brings the map between them")
    prefixes = ["", POOLED] if cache.pooled_width else [""]
    maps = [cache.ridge(train.ridge_lambda, prefix) for prefix in prefixes] if ridge_start else [None]
    with torch.random.fork_rng([]):  # seeded for the adapters
        return set_trainable(student, train, *maps)


def train_processes(train: TrainSettings) -> int:
    """Processes that share a training step: one GPU alone where each would have fewer than MIN_SHARE captions, since
    exchanging the gradients (173 MB for six layers) would take longer than the step."""
    state = processes()
    alone = state.device.type == "cuda" and train.batch < MIN_SHARE * state.num_processes
    return 1 if alone else state.num_processes


def check_batch(train: TrainSettings, processes: int) -> None:
    """Raise SettingsError unless a step's batch can be split over passes and processes."""
    if train.batch % (train.accumulate * processes):
        parts = f"--train.accumulate {train.accumulate} times {processes} processes"
        raise SettingsError(f"--train.batch {train.batch} is not a multiple of {parts}")


def precision(train: TrainSettings) -> str:
    """Accelerate's name of the precision that the settings ask for, on this device."""
    return best_precision(processes().device.type == "cuda") if train.precision == "auto" else train.precision


def _settings(recipe: Recipe, cache: Cache, steps: int) -> dict[str, Any]:
    """Settings that the weights depend on."""
    unrelated = ("epochs", "save_every", "accumulate", "dev_every")
    return {name: value for name, value in asdict(recipe.train).items() if name not in unrelated} | {
        "precision": precision(recipe.train),  # the one that auto chose on this device
        "steps": steps,
        "rows": len(cache),
        "window": recipe.window,
        "student": recipe.student.model,
        "teacher": recipe.teacher.model,
    }


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
