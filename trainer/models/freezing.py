"""What of a student is frozen, and what learns, by strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..base.recipe import SettingsError, TrainSettings
from .student import Ridge, Student

if TYPE_CHECKING:
    import peft


def prepare(
    student: Student, train: TrainSettings, ridge: Ridge | None, pooled: Ridge | None = None
) -> peft.PeftModel | None:
    """Freeze everything, then free what the strategy trains. Returns PEFT's view of the BERT for lora, else None."""
    student.requires_grad_(False)
    if ridge is not None:
        student.set_projection(ridge, pooled)
    if train.strategy == "unfreeze":
        for layer in student.bert.encoder.layer[student.depth - learning_layers(train, student.depth) :]:
            layer.requires_grad_(True)
    if train.strategy != "lora":
        return None
    import peft

    torch.manual_seed(train.seed)  # the adapters' start
    return peft.get_peft_model(student.bert, lora_config(train, student.depth))


def lora_config(train: TrainSettings, depth: int) -> peft.LoraConfig:
    """PEFT's configuration of adapters in the last layers. Raises SettingsError for what PEFT does not take."""
    import peft

    layers = None if train.layers is None else list(range(depth))[depth - train.layers :]
    try:
        return peft.LoraConfig(layers_to_transform=layers, **train.lora)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"--train.lora {train.lora}: PEFT does not take it ({error})") from error


def learning_layers(train: TrainSettings, depth: int) -> int:
    """How many of so many layers learn. Raises SettingsError when more shall learn than there are."""
    if train.strategy == "ridge":
        return 0
    fewest, every = (1, depth) if train.strategy == "lora" else (0, (depth + 1) // 2)
    learning = every if train.layers is None else train.layers
    if not fewest <= learning <= depth:
        raise SettingsError(f"--train.layers {learning}: the student has {depth} layers; give {fewest} to {depth}")
    return learning


def frozen_depth(train: TrainSettings, depth: int) -> int | None:
    """How many of the student's layers stay frozen below the first that learns; None when nothing of it is stored.

    Raises SettingsError for settings that cannot train a student of that depth.
    """
    if train.strategy == "lora":
        lora_config(train, depth)
        if train.layers is None:
            return None
    return None if train.strategy == "ridge" else depth - learning_layers(train, depth)
