"""The plain training loop that ours is compared with, as well written as transformers, PEFT and a DataLoader allow.

Every layer is computed for every caption in every step, padded to the whole window. All else is as good as ours:
dropout off, mixed precision, SDPA attention, fused AdamW, warm-up and clipping, the teacher's outputs computed
beforehand and read from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader, TensorDataset
from transformers import ChineseCLIPModel, get_constant_schedule_with_warmup

LAYERS, RANK, ALPHA, RATE, WARM_UP = 3, 16, 64, 5e-4, 50


def load(folder: Path, strategy: str) -> torch.nn.Module:
    """The text tower of a Chinese-CLIP with what the paper's strategy trains: the last three layers, or adapters on
    query and value."""
    # ChineseCLIPTextModel.from_pretrained would leave every weight at random: a whole model's names have a prefix.
    model: Any = ChineseCLIPModel.from_pretrained(folder).text_model
    model.train(False).requires_grad_(False)
    if strategy == "lora":
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
        return peft.get_peft_model(model, config).train(False)
    for layer in model.encoder.layer[-LAYERS:]:
        layer.requires_grad_(True)
    return model


def steps(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, target: torch.Tensor, batch: int, precision: str
) -> Iterator[None]:
    """Train on ids and mask (N, W) and target (N, W, D) fp16, N at least a batch. Yields after each step, endlessly.

    precision: Accelerate's name of it, "no", "bf16" or "fp16".
    """
    device = ids.device
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=RATE, fused=True)
    schedule = get_constant_schedule_with_warmup(optimiser, WARM_UP)
    loader = DataLoader(TensorDataset(ids, mask, target), batch_size=batch, shuffle=True, drop_last=True)
    while True:
        for batch_ids, batch_mask, goal in loader:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                hidden = model(input_ids=batch_ids, attention_mask=batch_mask).last_hidden_state
            loss = (1 - cosine_similarity(hidden.float(), goal.float(), dim=-1)).mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            optimiser.zero_grad()
            yield
