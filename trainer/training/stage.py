"""Gradient descent towards the cached targets: one flat loop on Accelerate."""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..base import Recipe, SettingsError, TrainSettings, guard, require
from ..cache import Cache
from ..encoders import Ridge, Student, load_student, prepare, trunk_depth
from . import checkpoint
from .batches import Captions, Order
from .keep import Kept
from .loss import Dev, Loss

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
    train = recipe.train
    student = load_student(require(recipe.student.model, "student.model", "the Chinese encoder"), recipe.window, device)
    cache = Cache.open(recipe.cache_folder / "train", trunk_depth(train, student.depth), train.pad_positions)
    caches = [cache, *skip_caches(recipe)]
    ridge_start = train.start == "ridge" or train.strategy == "ridge"
    if not ridge_start and cache.width != student.bert.config.hidden_size:
        raise SettingsError(
            f"the student is {student.bert.config.hidden_size} wide and the teacher {cache.width}: "
            "only --train.start ridge brings the map between them"
        )
    maps = [start_map(some, train) if ridge_start else None for some in caches]
    if recipe.teacher.skip:
        student.set_skip(maps[1])
    peft_model = prepare(student, train, maps[0])
    return student.to(device), peft_model, cache


def skip_caches(recipe: Recipe) -> list[Cache]:
    """The training cache of clip skip's target, where the recipe has one."""
    if not recipe.teacher.skip:
        return []
    return [Cache.open(recipe.cache_folder / "train-skip", None, recipe.train.pad_positions)]


def start_map(cache: Cache, train: TrainSettings) -> Ridge:
    """Ridge map to unit targets; to targets of the mean norm where the student learns its norms."""
    ridge = cache.ridge(train.ridge_lambda, train.position_bias)
    size = cache.norms().mean() if train.norm else torch.ones(())
    return Ridge(ridge.weight * size, ridge.bias * size)


def trained_student(recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Student, Any, Cache]:
    """`open_training` with the final weights; it answers with its last layer alone.

    Raises SettingsError when training has not finished.
    """
    student, peft_model, cache = open_training(recipe, device)
    if total_steps(recipe.train, len(cache)):
        path = checkpoint.final(recipe.folder / "checkpoints")
        if not path.is_file():
            raise SettingsError(f"{path}: not there; run the train stage first (`python -m trainer train`)")
        checkpoint.restore(checkpoint.read(path), student)
    student.skips = False
    return student.requires_grad_(False).train(False), peft_model, cache


def run(recipe: Recipe) -> None:
    """Stage `train`: RUN/checkpoints/step-NNNNNN.safetensors, final.safetensors and RUN/logs. Goes on where a killed
    run stopped."""
    fit(recipe)


def fit(recipe: Recipe) -> None:
    """Train by the recipe. Raises DivergedError, SettingsError."""
    train = recipe.train
    AcceleratorState._reset_state()  # it keeps one precision a process, and a sweep's recipes may differ in theirs
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=_precision(train),
        gradient_accumulation_steps=train.accumulate,
        log_with=train.report_to,
        project_dir=str(recipe.folder / "logs"),
    )
    check_settings(train, accelerator.num_processes)
    device = accelerator.device
    student, _, cache = open_training(recipe, device)
    steps = total_steps(train, len(cache))
    folder = recipe.folder / "checkpoints"
    with accelerator.main_process_first():
        guard(folder, _settings(recipe, cache, steps))
    if steps == 0 or checkpoint.final(folder).is_file():
        return
    learning = checkpoint.trainable(student)
    optimiser = torch.optim.AdamW(learning.values(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    first, kept = 0, Kept(train.ema)
    losses: dict[str, list[float]] = {"start": [], "recent": []}
    newest = checkpoint.newest(folder)
    if newest is not None:
        found = checkpoint.read(newest)
        checkpoint.restore(found, student, optimiser, kept)
        first, losses = found.step, found.losses
    depth = trunk_depth(train, student.depth)
    last = first if kept.exhausted(train.patience) else steps
    loader = _loader(recipe, cache, range(first, last), accelerator)
    loss_of = Loss.of(cache, train, student, device)
    dev = Dev.of(recipe, cache, student, train.dev_every) if train.dev_every else None
    model, prepared = accelerator.prepare(student, optimiser)
    floor = float(1 - cache.constant().norm(dim=-1).mean())  # mean over rows of cos(u, m) is |m|: the constant's loss
    accelerator.init_trackers("zhclip")
    bar = tqdm(total=steps, initial=first, desc="train", disable=not accelerator.is_main_process)
    pending: list[dict[str, torch.Tensor]] = []
    step = first
    model.train()
    for batch in loader:
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.accumulate(model):
            for group in optimiser.param_groups:
                group["lr"] = rate(train, step, steps)
            if train.lora_dropout and len(pending) % train.accumulate == 0:
                # At a step's first pass, so that a resumed run drops what an unbroken one drops.
                torch.manual_seed(step * accelerator.num_processes + accelerator.process_index)
            z = model(batch["ids"], batch.get("trunk"), depth or 0, batch["positions"], batch["kept"])
            terms = loss_of(z, batch)
            accelerator.backward(terms["objective"])
            if accelerator.sync_gradients and train.clip is not None:
                clip(accelerator, list(learning.values()), train.clip)
            prepared.step()
            prepared.zero_grad()
        pending.append({name: value.detach() for name, value in terms.items()})
        if not accelerator.sync_gradients:
            continue
        step += 1
        kept.follow(learning, step)
        bar.update()
        if step % LOG_EVERY == 0 or step == steps or step % train.save_every == 0:
            means = _means(pending, accelerator)
            pending.clear()
            check(losses, means["objective"], step, train)
            bar.set_postfix_str(f"loss {means['loss']:.4f} (constant {floor:.4f})")
            accelerator.log({f"train/{name}": value for name, value in means.items()}, step)
            accelerator.log({"train/lr": rate(train, step - 1, steps), "train/floor_constant": floor}, step)
        if dev is not None and step % dev.every == 0:
            with kept.applied(learning) as weights:
                skill = dev.skill(student)
                kept.judge(weights, skill, step)
            model.train()
            accelerator.log({"dev/skill": skill}, step)
        done = step == steps or kept.exhausted(train.patience)
        if step % train.save_every == 0 or done:
            if accelerator.is_main_process:
                checkpoint.save(folder, step, learning, optimiser, losses, kept)
            accelerator.wait_for_everyone()
        if done:
            break
    bar.close()
    if accelerator.is_main_process:
        with kept.applied(learning) as weights:
            chosen = kept.best if train.patience is not None and kept.best else weights
            checkpoint.save_final(folder, chosen, kept.best_step if chosen is kept.best else step)
    for tracker in accelerator.trackers:  # Accelerate's end_training would also part the processes
        tracker.finish()


def clip(accelerator: Accelerator, learning: list[torch.nn.Parameter], limit: float) -> None:
    """Shorten the gradient to `limit`. On a CPU, which need not be waited for to know its length, one within the limit
    is left alone: multiplying it by 1, as torch does, is a pass over all of it.
    """
    if accelerator.device.type == "cpu":
        lengths = [weight.grad.norm() for weight in learning if weight.grad is not None]
        if torch.stack(lengths).norm() <= limit:
            return
    accelerator.clip_grad_norm_(learning, limit)


def check_settings(train: TrainSettings, processes: int) -> None:
    """Raises SettingsError for settings that cannot go together."""
    pieces = train.accumulate * processes
    if train.batch % pieces:
        raise SettingsError(
            f"--train.batch {train.batch} is not a multiple of {pieces} (--train.accumulate {train.accumulate} "
            f"times {processes} processes)"
        )
    if train.kv and not train.unet:
        raise SettingsError(f"--train.kv {train.kv:g} needs --train.unet, the UNet whose cross-attention it reads")
    if train.patience is not None and not train.dev_every:
        raise SettingsError(f"--train.patience {train.patience} needs --train.dev_every, the steps between scorings")
    if train.ema is not None and not 0 < train.ema < 1:
        raise SettingsError(f"--train.ema {train.ema:g} is no decay; give a number between 0 and 1, such as 0.99")


def _loader(recipe: Recipe, cache: Cache, steps: range, accelerator: Accelerator) -> DataLoader:
    train, caches = recipe.train, [cache, *skip_caches(recipe)]
    share = (accelerator.process_index, accelerator.num_processes)
    order = Order(len(cache), train.batch, train.seed, steps.start, steps.stop, train.accumulate, *share)
    there = fits_on(accelerator.device, sum(some.vector_bytes() for some in caches))
    read, *skip = [some.moved(accelerator.device) for some in caches] if there else caches
    captions = Captions(read, train.zone_weights, next(iter(skip), None), train.contrast > 0)
    pinned = accelerator.device.type == "cuda" and not there
    return DataLoader(captions, batch_sampler=order, collate_fn=_as_is, pin_memory=pinned)  # type: ignore[arg-type]


def fits_on(device: torch.device, size: int) -> bool:
    """Whether so many bytes leave half of a GPU's free memory to the step itself. Never on a CPU, which maps them."""
    return device.type == "cuda" and 2 * size < torch.cuda.mem_get_info(device)[0]


def _means(pending: list[dict[str, torch.Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Each term's mean over the passes since the last call, and over the processes."""
    stacked = torch.stack([torch.stack(list(terms.values())) for terms in pending]).mean(dim=0)  # (terms,)
    means = accelerator.gather(stacked[None]).mean(dim=0).tolist()
    return dict(zip(pending[0], means))


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
    has_bf16 = torch.cuda.is_bf16_supported() if cuda else cpu_has_bf16()
    return "bf16" if has_bf16 else "no"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies in bf16 itself; where it does not, bf16 is slower than fp32."""
    # get_capabilities came after torch 2.4
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16"))


def _as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch


def _settings(recipe: Recipe, cache: Cache, steps: int) -> dict[str, Any]:
    train = asdict(recipe.train)
    for name in ("report_to", "epochs", "save_every", "accumulate"):
        del train[name]
    return train | {
        "steps": steps,
        "rows": len(cache),
        "window": recipe.window,
        "student": recipe.student.model,
        "teacher": recipe.teacher.model,
        "skip": recipe.teacher.skip,
    }
