"""What of a student is frozen, and what learns, by strategy."""

from __future__ import annotations

import peft
import torch

from ..base import SettingsError, TrainSettings
from .student import Ridge, Student


def prepare(student: Student, train: TrainSettings, ridge: Ridge | None) -> peft.PeftModel | None:
    """Freeze everything, then free what the strategy trains. Returns PEFT's view of the BERT for lora, else None."""
    student.requires_grad_(False)
    if ridge is not None:
        student.set_projection(ridge)
    if train.strategy == "unfreeze":
        for layer in student.bert.encoder.layer[student.depth - unfrozen(train, student.depth) :]:
            layer.requires_grad_(True)
        student.bert.embeddings.requires_grad_(train.embeddings)
    if train.strategy != "lora":
        return None
    torch.manual_seed(train.seed)  # the adapters' start
    config = peft.LoraConfig(
        r=train.lora_r,
        lora_alpha=train.lora_alpha,
        target_modules=list(train.lora_targets),
        layers_to_transform=list(range(student.depth))[-train.lora_layers :] if train.lora_layers else None,
        lora_dropout=train.lora_dropout,
        use_rslora=train.lora_rslora,
        use_dora=train.lora_dora,
    )
    return peft.get_peft_model(student.bert, config)


def unfrozen(train: TrainSettings, depth: int) -> int:
    """How many of so many layers learn by `unfreeze`."""
    return (depth + 1) // 2 if train.layers is None else train.layers


def trunk_depth(train: TrainSettings, depth: int) -> int | None:
    """How many of the student's layers stay frozen below the first that learns; None when nothing can be stored.

    Raises SettingsError when more layers shall learn than there are.
    """
    if train.strategy == "ridge":
        return None
    name, fewest, learning = (
        ("lora_layers", 1, train.lora_layers) if train.strategy == "lora" else ("layers", 0, unfrozen(train, depth))
    )
    if learning is not None and not fewest <= learning <= depth:
        raise SettingsError(f"--train.{name} {learning}: the student has {depth} layers; give {fewest} to {depth}")
    if learning is None or (train.strategy == "unfreeze" and train.embeddings):
        return None
    return depth - learning
