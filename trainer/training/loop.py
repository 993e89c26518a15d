"""Stage `train`: gradient descent towards the cached targets, one flat loop on Accelerate."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache

from zhclip.device import matmul_precision

from ..base.device import is_out_of_memory, processes
from ..base.recipe import Recipe
from ..models.freezing import frozen_depth
from ..progress import Counter, Listener
from . import checkpoint, metrics
from .schedule import check_divergence, learning_rate
from .setup import Training, unchanged_process

LOG_EVERY = 10
logger = logging.getLogger(__name__)


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Train by the recipe: RUN/checkpoints/step-NNNNNN.safetensors, final.safetensors and RUN/metrics.jsonl.

    Resumes from the newest checkpoint. A step that does not fit into GPU memory is computed in twice as many passes,
    with the same result. Raises DivergedError, SettingsError.
    """
    train, passes = recipe.train, recipe.train.accumulate
    while True:
        try:
            with unchanged_process(), matmul_precision("high"), torch.inference_mode(False), torch.enable_grad():
                return train_steps(replace(recipe, train=replace(train, accumulate=passes)), progress)
        except RuntimeError as error:
            # One of several processes cannot decide this for the others.
            if not is_out_of_memory(error) or train.batch % (2 * passes) or processes().num_processes > 1:
                raise
        finally:
            # Here no frame and no exception refers to the training, so that its memory is free for the next one.
            clear_device_cache(garbage_collection=True)
        passes *= 2
        logger.warning(f"train: out of memory; computing each step in {passes} passes (--train.accumulate {passes})")


def train_steps(recipe: Recipe, progress: Listener | None) -> None:
    """The remaining steps, then the final weights."""
    training = Training.open(recipe, progress)
    if training is None:
        return
    train, accelerator, steps, step = recipe.train, training.accelerator, training.steps, training.first
    path, main = recipe.folder / metrics.FILE, accelerator.is_main_process
    objectives = [row["objective"] for row in metrics.read(path) if "objective" in row and row["step"] <= step]
    if main:
        metrics.truncate(path, step)
    model, optimiser = accelerator.prepare(training.student, training.optimiser)
    parameters = list(checkpoint.trainable(training.student).values())
    depth = frozen_depth(train, training.student.depth) or 0
    constant_loss = training.cache.constant_loss()
    counter = Counter("train", steps, progress if main else None, step)
    pending: list[dict[str, torch.Tensor]] = []  # terms of each pass since they were logged
    batches = training.batches()
    model.train()
    try:
        for batch in batches:
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            with accelerator.accumulate(model):
                for group in training.optimiser.param_groups:
                    group["lr"] = learning_rate(train, step, steps)
                if train.lora.get("lora_dropout") and len(pending) % train.accumulate == 0:
                    # At a step's first pass, so that a resumed run drops the same values.
                    torch.manual_seed(step * accelerator.num_processes + accelerator.process_index)
                hidden, positions = batch.get("frozen_hidden"), batch["positions"]
                z, pooled = model(batch["ids"], hidden, depth, positions, batch["flat_index"])
                terms = training.loss(z, pooled, batch)
                accelerator.backward(terms["objective"])
                if accelerator.sync_gradients and train.clip is not None:
                    clip_gradient(accelerator, parameters, train.clip)
                optimiser.step()
                optimiser.zero_grad()
            pending.append({name: value.detach() for name, value in terms.items()})
            if not accelerator.sync_gradients:
                continue
            step += 1
            values: dict[str, float] = {}
            if step % LOG_EVERY == 0 or step == steps or step % train.save_every == 0:
                values = _means(pending, accelerator) | {"constant_loss": constant_loss}
                values["lr"] = learning_rate(train, step - 1, steps)
                pending.clear()
                objectives.append(values["objective"])
                check_divergence(objectives, step, train)
            if training.dev and train.dev_every and (step % train.dev_every == 0 or step == steps):
                values |= training.dev.score(training.student, step)
                model.train()
            if values and main:
                metrics.append(path, step, values)
            if step % train.save_every == 0 and step < steps:
                training.save(step)
            counter.add(metrics=values)
    finally:
        batches.close()
        # Accelerate replaces the model's forward by a method bound to the model: a cycle that keeps it in memory.
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    training.save(steps)


def clip_gradient(accelerator: Accelerator, parameters: list[torch.nn.Parameter], limit: float) -> None:
    """Scale the gradient to norm `limit` if it is longer.

    On a CPU torch would also multiply a shorter one by 1: 50 ms a step for 42 million parameters.
    """
    if accelerator.device.type == "cpu":
        norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
        if torch.stack(norms).norm() <= limit:
            return
    accelerator.clip_grad_norm_(parameters, limit)


def _means(pending: list[dict[str, torch.Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Each term's mean over the passes since the last call, and over the processes."""
    stacked = torch.stack([torch.stack(list(terms.values())) for terms in pending]).mean(dim=0)  # (terms,)
    means = accelerator.gather(stacked[None]).mean(dim=0).tolist()
    return dict(zip(pending[0], means))
