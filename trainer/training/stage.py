"""Stage `train`: gradient descent towards the cached targets, one flat loop on Accelerate."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from tqdm import tqdm

from ..base.device import processes
from ..base.recipe import Recipe
from ..models.freezing import trunk_depth
from ..progress import Listener
from . import checkpoint
from .opening import Training
from .schedule import check, rate

LOG_EVERY = 10
logger = logging.getLogger(__name__)


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Train by the recipe: RUN/checkpoints/step-NNNNNN.safetensors, final.safetensors and RUN/logs. Goes on where a
    killed run stopped. Raises DivergedError, SettingsError.

    A step that does not fit the GPU's memory is made in twice the passes, with the same result.
    """
    train, passes = recipe.train, recipe.train.accumulate
    while True:
        try:
            training = Training.open(replace(recipe, train=replace(train, accumulate=passes)))
            return fit(training) if training else None
        except RuntimeError as error:
            # One of several processes cannot decide that for the others.
            if not should_reduce_batch_size(error) or train.batch % (2 * passes) or processes().num_processes > 1:
                raise
        clear_device_cache(garbage_collection=True)
        passes *= 2
        logger.warning(f"train: out of memory; each step is made in {passes} passes (--train.accumulate {passes})")


def fit(training: Training) -> None:
    """All steps that are left, and the final weights."""
    train, accelerator, student = training.recipe.train, training.accelerator, training.student
    steps, best, losses, dev = training.steps, training.best, training.losses, training.dev
    folder, device = training.recipe.folder / "checkpoints", accelerator.device
    learning = checkpoint.trainable(student)
    depth = trunk_depth(train, student.depth) or 0
    model, optimiser = accelerator.prepare(student, training.optimiser)
    floor = training.cache.constant_loss()
    accelerator.init_trackers("zhclip")
    bar = tqdm(total=steps, initial=training.first, desc="train", disable=not accelerator.is_main_process)
    pending: list[dict[str, torch.Tensor]] = []
    step = training.first
    model.train()
    for batch in training.batches():
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.accumulate(model):
            for group in training.optimiser.param_groups:
                group["lr"] = rate(train, step, steps)
            if train.lora.get("lora_dropout") and len(pending) % train.accumulate == 0:
                # At a step's first pass, so that a resumed run drops what an unbroken one drops.
                torch.manual_seed(step * accelerator.num_processes + accelerator.process_index)
            z, pooled = model(batch["ids"], batch.get("trunk"), depth, batch["positions"], batch["kept"])
            terms = training.loss(z, pooled, batch)
            accelerator.backward(terms["objective"])
            if accelerator.sync_gradients and train.clip is not None:
                clip_gradient(accelerator, list(learning.values()), train.clip)
            optimiser.step()
            optimiser.zero_grad()
        pending.append({name: value.detach() for name, value in terms.items()})
        if not accelerator.sync_gradients:
            continue
        step += 1
        bar.update()
        if step % LOG_EVERY == 0 or step == steps or step % train.save_every == 0:
            means = _means(pending, accelerator)
            pending.clear()
            check(losses, means["objective"], step, train)
            bar.set_postfix_str(f"loss {means['loss']:.4f} (constant {floor:.4f})")
            accelerator.log({f"train/{name}": value for name, value in means.items()}, step)
            accelerator.log({"train/lr": rate(train, step - 1, steps), "train/floor_constant": floor}, step)
        if dev is not None and (step % dev.every == 0 or step == steps):
            skill, found = dev.score(student)
            # Unlike GPUs round unlike: the main process's figure decides for all whether to stop.
            skill = float(accelerator.gather(torch.tensor([skill], device=device))[0])
            if train.patience is not None:
                best.judge(learning, skill, step)
            model.train()
            if accelerator.is_main_process:
                bar.write(f"step {step}: {dev.said(found)}")
            accelerator.log({"dev/skill": skill}, step)
        done = step == steps or best.exhausted(train.patience)
        if step % train.save_every == 0 or done:
            if accelerator.is_main_process:
                scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
                checkpoint.save(folder, step, learning, training.optimiser, losses, best, scaler)
            accelerator.wait_for_everyone()
        if done:
            break
    bar.close()
    if accelerator.is_main_process:
        chosen = (best.weights, best.step) if train.patience is not None and best.weights else (learning, step)
        checkpoint.save_final(folder, *chosen)
    for tracker in accelerator.trackers:  # Accelerate's end_training would also part the processes
        tracker.finish()


def clip_gradient(accelerator: Accelerator, learning: list[torch.nn.Parameter], limit: float) -> None:
    """Shorten the gradient to `limit`. On a CPU, which need not be waited for to know its length, one within the limit
    is left alone: multiplying it by 1, as torch does, is a pass over all of it.
    """
    if accelerator.device.type == "cpu":
        lengths = [weight.grad.norm() for weight in learning if weight.grad is not None]
        if torch.stack(lengths).norm() <= limit:
            return
    accelerator.clip_grad_norm_(learning, limit)


def _means(pending: list[dict[str, torch.Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Each term's mean over the passes since the last call, and over the processes."""
    stacked = torch.stack([torch.stack(list(terms.values())) for terms in pending]).mean(dim=0)  # (terms,)
    means = accelerator.gather(stacked[None]).mean(dim=0).tolist()
    return dict(zip(pending[0], means))
