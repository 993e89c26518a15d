"""Checkpoints: the trained parameters and AdamW's state as one safetensors file a step, exact to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..base.files import read_header, read_tensors, write_tensors
from .best import Best

KEEP = 2
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """A read checkpoint: tensors by "param/NAME" and "exp_avg/NAME" ..., the step, the losses so far, and the figures
    of the best weights, and the gradient scaler's state in fp16."""

    tensors: dict[str, torch.Tensor]
    step: int
    losses: dict[str, list[float]]
    best: dict[str, float]
    scaler: dict[str, float]


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def save(
    folder: Path,
    step: int,
    learning: Mapping[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    losses: dict[str, list[float]],
    best: Best,
    scaler: dict[str, float] | None = None,
) -> None:
    """Write folder/step-NNNNNN.safetensors whole or not at all, and drop all but the newest two."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in learning.items():
        tensors[f"param/{name}"] = parameter.detach()
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    tensors |= {f"best/{name}": tensor for name, tensor in best.weights.items()}
    figures = {"best_skill": best.skill, "best_step": best.step, "waited": best.waited} if best.weights else {}
    header = {"step": str(step), "losses": json.dumps(losses), "kept": json.dumps(figures)}
    header["scaler"] = json.dumps(scaler or {})
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / f"step-{step:06d}.safetensors", tensors, header)
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink()


def save_final(folder: Path, weights: Mapping[str, torch.Tensor], step: int) -> None:
    """Write folder/final.safetensors, the weights that the encoder gets, as they were at `step`."""
    header = {"step": str(step), "losses": "{}", "kept": "{}"}
    write_tensors(final(folder), {f"param/{name}": tensor.detach() for name, tensor in weights.items()}, header)


def final(folder: Path) -> Path:
    """Where the weights stand that training ended with."""
    return folder / "final.safetensors"


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return max(folder.glob("step-*.safetensors"), default=None)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises DamagedError."""
    cure = "Delete it and run the train stage again: it goes on from the checkpoint before it, or from the start."
    header, tensors = read_header(path, cure), read_tensors(path, cure)
    return Checkpoint(
        tensors,
        int(header["step"]),
        json.loads(header["losses"]),
        json.loads(header["kept"]),
        json.loads(header.get("scaler", "{}")),
    )


def restore(
    checkpoint: Checkpoint,
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    best: Best | None = None,
) -> None:
    """Put a checkpoint's values into the parameters that learn and, when given, the optimiser and the best weights."""
    for name, parameter in trainable(module).items():
        parameter.data.copy_(checkpoint.tensors[f"param/{name}"])
        if optimiser is not None and f"step/{name}" in checkpoint.tensors:
            state = {m: checkpoint.tensors[f"{m}/{name}"] for m in MOMENTS}
            optimiser.state[parameter] = {m: t.to(parameter.device, copy=True) for m, t in state.items()}
        if best is not None and f"best/{name}" in checkpoint.tensors:
            best.weights[name] = checkpoint.tensors[f"best/{name}"].to(parameter.device, copy=True)
    if best is not None and best.weights:
        best.skill, best.step = checkpoint.best["best_skill"], int(checkpoint.best["best_step"])
        best.waited = int(checkpoint.best["waited"])
