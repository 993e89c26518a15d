"""Gradient descent towards the cached targets: one flat loop on Accelerate."""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoint
from .batches import Captions, Order, text_lengths
from .cache import Cache
from .objective import cosine_loss
from .recipe import Recipe, SettingsError, TrainSettings, guard, require
from .student import Student, load_student, prepare, trunk_depth

LOG_EVERY = 10
SETTLE = 200  # steps after the warm-up before a loss above its start counts as divergence


class DivergedError(RuntimeError):
    """Training that went wrong: NaN, or a loss that stays above its start."""


def total_steps(train: TrainSettings, rows: int) -> int:
    """Optimiser steps of a recipe over so many captions; none for ridge."""
    if train.strategy == "ridge":
        return 0
    if train.steps is not None:
        return train.steps
    return max(1, math.ceil(rows * train.epochs / train.batch))


def rate(train: TrainSettings, step: int, steps: int) -> float:
    """Learning rate of one step, counted from 0."""
    if step < train.warmup:
        return train.lr * (step + 1) / (train.warmup + 1)
    if train.schedule == "constant":
        return train.lr
    progress = (step - train.warmup) / max(1, steps - train.warmup)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


def open_training(recipe: Recipe, device: torch.device | str) -> tuple[Student, Any, Cache]:
    """The untrained student made ready for its strategy, PEFT's view of it for lora, and the cache to train on."""
    student = load_student(require(recipe.student.model, "student.model", "the Chinese encoder"), recipe.window, device)
    cache = Cache.open(recipe.cache_folder / "train", trunk_depth(recipe.train, student.depth))
    ridge_start = recipe.train.start == "ridge" or recipe.train.strategy == "ridge"
    width = cache.shards[0]["target"].shape[-1]
    if not ridge_start and width != student.bert.config.hidden_size:
        raise SettingsError(
            f"the student is {student.bert.config.hidden_size} wide and the teacher {width}: "
            "only --train.start ridge brings the map between them"
        )
    ridge = cache.ridge(recipe.train.ridge_lambda) if ridge_start else None
    peft_model = prepare(student, recipe.train, ridge)
    return student.to(device), peft_model, cache


def trained_student(recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Student, Any, Cache]:
    """`open_training` with the last checkpoint's values. Raises SettingsError when training has not finished."""
    student, peft_model, cache = open_training(recipe, device)
    steps = total_steps(recipe.train, len(cache))
    path = recipe.folder / "checkpoints" / f"step-{steps:06d}.safetensors"
    if steps and not path.is_file():
        raise SettingsError(f"{path}: not there; run the train stage first (`python -m trainer train`)")
    if steps:
        checkpoint.restore(checkpoint.read(path), student)
    return student.requires_grad_(False).train(False), peft_model, cache


def run(recipe: Recipe) -> None:
    """Stage `train`: RUN/checkpoints/step-NNNNNN.safetensors and RUN/logs. Goes on where a killed run stopped."""
    fit(recipe)


def fit(recipe: Recipe) -> None:
    """Train by the recipe. Raises DivergedError, SettingsError."""
    train = recipe.train
    if train.batch % train.accumulate:
        raise SettingsError(f"--train.batch {train.batch} is not a multiple of --train.accumulate {train.accumulate}")
    accelerator = Accelerator(
        mixed_precision=_precision(train),
        gradient_accumulation_steps=train.accumulate,
        log_with=train.report_to,
        project_dir=str(recipe.folder / "logs"),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    student, _, cache = open_training(recipe, accelerator.device)
    steps = total_steps(train, len(cache))
    folder = recipe.folder / "checkpoints"
    if accelerator.is_main_process:
        guard(folder, _settings(recipe, cache, steps))
    if steps == 0:
        return
    depth = trunk_depth(train, student.depth)
    lengths = text_lengths(cache, student.tokens)
    captions = Captions(cache, lengths, train.pad_positions, depth is not None, train.seed)
    optimiser = torch.optim.AdamW(checkpoint.trainable(student).values(), lr=train.lr, weight_decay=train.weight_decay)
    first = 0
    losses: dict[str, list[float]] = {"start": [], "recent": []}
    newest = checkpoint.newest(folder)
    if newest is not None:
        found = checkpoint.read(newest)
        checkpoint.restore(found, student, optimiser)
        first, losses = found.step, found.losses
    like_lengths = lengths if train.pad_positions is not None else None
    order = Order(len(cache), train.batch, train.seed, first, steps, train.accumulate, like_lengths)
    loader = DataLoader(captions, batch_sampler=order, collate_fn=_as_is)  # type: ignore[arg-type]
    model, prepared, loader = accelerator.prepare(student, optimiser, loader)
    floor = float(1 - cache.constant().norm(dim=-1).mean())  # mean over rows of cos(u, m) is |m|: the constant's loss
    accelerator.init_trackers("zhclip")
    bar = tqdm(total=steps, initial=first, desc="train", disable=not accelerator.is_main_process)
    pending: list[torch.Tensor] = []
    step = first
    model.train()
    for batch in loader:
        with accelerator.accumulate(model):
            for group in optimiser.param_groups:
                group["lr"] = rate(train, step, steps)
            z = model(batch["ids"], batch.get("trunk"), depth or 0, batch["positions"])  # (B, P, D)
            loss = (cosine_loss(z, batch["target"]) * batch["weights"]).sum(dim=1).mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients and train.clip is not None:
                accelerator.clip_grad_norm_(checkpoint.trainable(student).values(), train.clip)
            prepared.step()
            prepared.zero_grad()
        pending.append(loss.detach())
        if not accelerator.sync_gradients:
            continue
        step += 1
        bar.update()
        if step % LOG_EVERY == 0 or step == steps or step % train.save_every == 0:
            value = float(accelerator.gather(torch.stack(pending)).mean())
            pending.clear()
            check(losses, value, step, train)
            bar.set_postfix_str(f"loss {value:.4f} (constant {floor:.4f})")
            accelerator.log({"train/loss": value, "train/lr": rate(train, step - 1, steps)}, step)
            accelerator.log({"train/floor_constant": floor}, step)
        if step % train.save_every == 0 or step == steps:
            if accelerator.is_main_process:
                checkpoint.save(folder, step, student, optimiser, losses)
            accelerator.wait_for_everyone()
    bar.close()
    accelerator.end_training()


def check(losses: dict[str, list[float]], value: float, step: int, train: TrainSettings) -> None:
    """Stop on NaN, or when the running mean of the last logged losses stays above the first ones.

    `losses` is carried through checkpoints and changed here: its first three values, and the last ten.
    """
    advice = (
        f"lower --train.lr (now {train.lr:g}), lengthen --train.warmup (now {train.warmup}) "
        f"or set --train.clip (now {train.clip})"
    )
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step}: {advice}; checkpoints before it are kept")
    if len(losses["start"]) < 3:
        losses["start"].append(value)
    losses["recent"] = [*losses["recent"], value][-10:]
    start, recent = fmean(losses["start"]), fmean(losses["recent"])
    if step > train.warmup + SETTLE and recent > start:
        raise DivergedError(
            f"at step {step} the loss's running mean is {recent:.4f}, above its {start:.4f} at the start: {advice}"
        )


def _precision(train: TrainSettings) -> str:
    if train.precision != "auto":
        return train.precision
    cuda = torch.cuda.is_available()
    # On a CPU without the bf16 instructions bf16 is emulated, and slower than fp32.
    has_bf16 = torch.cuda.is_bf16_supported() if cuda else _cpu_has_bf16()
    return "bf16" if has_bf16 else "no"


def _cpu_has_bf16() -> bool:
    # get_capabilities came after torch 2.4
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16"))


def _as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch


def _settings(recipe: Recipe, cache: Cache, steps: int) -> dict[str, Any]:
    train = asdict(recipe.train)
    for name in ("report_to", "epochs", "save_every"):
        del train[name]
    return train | {
        "steps": steps,
        "rows": len(cache),
        "window": recipe.window,
        "student": recipe.student.model,
        "teacher": recipe.teacher.model,
    }
