"""A training, opened: the student made ready for its strategy, and all that a step reads and changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

from zhclip.device import best_precision

from ..base.recipe import Recipe, SettingsError, TrainSettings
from ..base.settings import check_settings, require
from ..cache.shards import Cache
from ..models.freezing import prepare, trunk_depth
from ..models.student import Student, load_student
from . import checkpoint
from .batches import Captions, Order
from .best import Best
from .dev import Dev
from .loss import Loss
from .schedule import total_steps

Batch = dict[str, torch.Tensor]


@dataclass
class Training:
    """What the loop works with. `first`: steps that a checkpoint has already seen."""

    recipe: Recipe
    accelerator: Accelerator
    student: Student
    cache: Cache
    steps: int
    optimiser: torch.optim.Optimizer
    loss: Loss
    dev: Dev | None
    best: Best
    losses: dict[str, list[float]]
    first: int

    @classmethod
    def open(cls, recipe: Recipe) -> Training | None:
        """The training of a recipe where its newest checkpoint stopped, or None when there is nothing left to do.

        Raises SettingsError.
        """
        train, folder = recipe.train, recipe.folder / "checkpoints"
        accelerator = accelerator_of(recipe)
        check_batch(train, accelerator.num_processes)
        student, _, cache = open_training(recipe, accelerator.device)
        steps = total_steps(train, len(cache))
        with accelerator.main_process_first():
            check_settings(folder, _settings(recipe, cache, steps))
        if steps == 0 or checkpoint.final(folder).is_file():
            return None
        optimiser = torch.optim.AdamW(
            checkpoint.trainable(student).values(), lr=train.lr, weight_decay=train.weight_decay, fused=True
        )
        dev = Dev.of(recipe, cache, student, train.dev_every) if train.dev_every else None
        first, best = 0, Best()
        losses: dict[str, list[float]] = {"start": [], "recent": []}
        newest = checkpoint.newest(folder)
        if newest is not None:
            read = checkpoint.read(newest)
            checkpoint.restore(read, student, optimiser, best)
            first, losses = read.step, read.losses
            if accelerator.scaler and read.scaler:
                accelerator.scaler.load_state_dict(read.scaler)
        loss = Loss.of(cache, train, student, accelerator.device)
        return cls(recipe, accelerator, student, cache, steps, optimiser, loss, dev, best, losses, first)

    def batches(self) -> Iterator[Batch]:
        """The steps that are left, a piece of a step's captions at a time."""
        last = self.first if self.best.exhausted(self.recipe.train.patience) else self.steps
        return loader(self.recipe.train, self.cache, range(self.first, last), self.accelerator)


def accelerator_of(recipe: Recipe) -> Accelerator:
    """Accelerate's view of devices, precision, accumulation and trackers."""
    AcceleratorState._reset_state()  # it keeps one precision a process, and a sweep's recipes may differ in theirs
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision(recipe.train),
        gradient_accumulation_steps=recipe.train.accumulate,
        log_with=recipe.train.report_to,
        project_dir=str(recipe.folder / "logs"),
    )


def open_training(recipe: Recipe, device: torch.device | str) -> tuple[Student, Any, Cache]:
    """The untrained student made ready for its strategy, PEFT's view of it for lora, and the cache to train on."""
    train = recipe.train
    student = load_student(require(recipe.student.model, "student.model", "the Chinese encoder"), recipe.window, device)
    depth = trunk_depth(train, student.depth)
    cache = Cache.open(recipe.cache_folder / "train", depth, train.pad_positions)
    ridge_start = train.start == "ridge" or train.strategy == "ridge"
    if not ridge_start and cache.width != student.bert.dimensions.width:
        raise SettingsError(
            f"the student is {student.bert.dimensions.width} wide and the teacher {cache.width}: "
            "only --train.start ridge brings the map between them"
        )
    maps = [cache.ridge(train.ridge_lambda), cache.projected_ridge(train.ridge_lambda)] if ridge_start else [None]
    peft_model = prepare(student, train, *maps)
    return student.to(device), peft_model, cache


def trained_student(recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Student, Any, Cache]:
    """`open_training` with the final weights. Raises SettingsError when training has not finished."""
    student, peft_model, cache = open_training(recipe, device)
    if total_steps(recipe.train, len(cache)):
        path = checkpoint.final(recipe.folder / "checkpoints")
        if not path.is_file():
            raise SettingsError(f"{path}: not there; run the train stage first (`python -m trainer train`)")
        checkpoint.restore(checkpoint.read(path), student)
    return student.requires_grad_(False).train(False), peft_model, cache


def check_batch(train: TrainSettings, processes: int) -> None:
    """Raises SettingsError for settings that cannot go together."""
    pieces = train.accumulate * processes
    if train.batch % pieces:
        raise SettingsError(
            f"--train.batch {train.batch} is not a multiple of {pieces} (--train.accumulate {train.accumulate} "
            f"times {processes} processes)"
        )
    if train.patience is not None and not train.dev_every:
        raise SettingsError(f"--train.patience {train.patience} needs --train.dev_every, the steps between scorings")


def precision(train: TrainSettings) -> str:
    """Accelerate's name of the precision that the settings ask for, on this device."""
    return best_precision() if train.precision == "auto" else train.precision


def loader(train: TrainSettings, cache: Cache, steps: range, accelerator: Accelerator) -> Iterator[Batch]:
    """Batches of these steps, the share of this process of each, read from the GPU where the cache fits on it.

    For a GPU the next batch is read while a step runs, and what is not there yet is pinned, so that no step waits for a
    copy.
    """
    share = (accelerator.process_index, accelerator.num_processes)
    order = Order(len(cache), train.batch, train.seed, steps.start, steps.stop, train.accumulate, *share)
    there = fits_on(accelerator.device, cache.large_bytes())
    captions = Captions(cache.moved(accelerator.device) if there else cache, train.contrast > 0)
    cpu = accelerator.device.type == "cpu"
    batches = DataLoader(captions, batch_sampler=order, collate_fn=_as_is if cpu else _pinned)  # type: ignore[arg-type]
    return iter(batches) if cpu else ahead(batches)


def ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, each read by a thread while the one before it is in use."""
    left = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, left, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, left, None)
            yield batch


def fits_on(device: torch.device, size: int) -> bool:
    """Whether so many bytes leave half of a GPU's free memory to the step itself. Never on a CPU, which maps them."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()  # torch's own cached blocks count as used until they are given back
    return 2 * size < torch.cuda.mem_get_info(device)[0]


def _as_is(batch: Batch) -> Batch:
    return batch


def _pinned(batch: Batch) -> Batch:
    return {name: tensor.pin_memory() if tensor.device.type == "cpu" else tensor for name, tensor in batch.items()}


def _settings(recipe: Recipe, cache: Cache, steps: int) -> dict[str, Any]:
    """What a checkpoint is only good for."""
    train = asdict(recipe.train)
    for name in ("report_to", "epochs", "save_every", "accumulate"):
        del train[name]
    if recipe.train.patience is None:  # a scoring then changes nothing
        del train["dev_every"]
    return train | {
        "precision": precision(recipe.train),  # the one that auto chose here: another device would choose another
        "steps": steps,
        "rows": len(cache),
        "window": recipe.window,
        "student": recipe.student.model,
        "teacher": recipe.teacher.model,
    }
