"""Which parameters of a student are frozen, and which are trained, by strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..base.recipe import SettingsError, TrainSettings
from .student import Ridge, Student

if TYPE_CHECKING:
    import peft


def set_trainable(
    student: Student, train: TrainSettings, ridge: Ridge | None, pooled: Ridge | None = None
) -> peft.PeftModel | None:
    """Freeze all parameters but those that the strategy trains. Returns PEFT's model for lora, else None."""
    student.requires_grad_(False)
    if ridge is not None:
        student.set_projection(ridge, pooled)
    if train.strategy == "unfreeze":
        for layer in student.bert.encoder.layer[frozen_depth(train, student.depth) :]:
            layer.requires_grad_(True)
    if train.strategy != "lora":
        return None
    import peft

    torch.manual_seed(train.seed)  # of the adapters' weights
    return peft.get_peft_model(student.bert, lora_config(train, student.depth))


def lora_config(train: TrainSettings, depth: int) -> peft.LoraConfig:
    """PEFT's configuration of adapters in the last layers. Raises SettingsError for what PEFT does not take."""
    import peft

    layers = None if train.layers is None else list(range(depth))[depth - train.layers :]
    try:
        return peft.LoraConfig(layers_to_transform=layers, **train.lora)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"--train.lora {train.lora}: PEFT does not take it ({error})") from error


def frozen_depth(train: TrainSettings, depth: int) -> int | None:
    """How many of the student's layers are frozen below the first that is trained; None where no layer is trained or
    all have adapters. Raises SettingsError for settings that cannot train a student of that depth."""
    if train.strategy == "lora":
        lora_config(train, depth)
    if train.strategy == "ridge" or (train.strategy == "lora" and train.layers is None):
        return None
    layers = (depth + 1) // 2 if train.layers is None else train.layers
    fewest = 1 if train.strategy == "lora" else 0
    if not fewest <= layers <= depth:
        raise SettingsError(f"--train.layers {layers}: the student has {depth} layers; give {fewest} to {depth}")
    return depth - layers
