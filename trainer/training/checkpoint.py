"""Checkpoints: the trained parameters and AdamW's state as one safetensors file a step, exact to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..base import read_header, read_tensors, write_tensors
from .keep import Kept

KEEP = 2
FIGURES = ("best_skill", "best_step", "waited")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """A read checkpoint: tensors by "param/NAME" and "exp_avg/NAME" ..., the step, the losses so far, and the figures
    of what is kept beside."""

    tensors: dict[str, torch.Tensor]
    step: int
    losses: dict[str, list[float]]
    kept: dict[str, float]


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def save(
    folder: Path,
    step: int,
    learning: Mapping[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    losses: dict[str, list[float]],
    kept: Kept,
) -> None:
    """Write folder/step-NNNNNN.safetensors whole or not at all, and drop all but the newest two."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in learning.items():
        tensors[f"param/{name}"] = parameter.detach()
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    tensors |= {f"average/{name}": tensor for name, tensor in kept.average.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in kept.best.items()}
    figures = {name: getattr(kept, name) for name in FIGURES} if kept.best else {}
    header = {"step": str(step), "losses": json.dumps(losses), "kept": json.dumps(figures)}
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
    header, tensors = read_header(path, cure), read_tensors(path, cure, verify=True)
    return Checkpoint(tensors, int(header["step"]), json.loads(header["losses"]), json.loads(header["kept"]))


def restore(
    checkpoint: Checkpoint,
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    kept: Kept | None = None,
) -> None:
    """Put a checkpoint's values into the parameters that learn and, when given, into the optimiser and what is kept."""
    for name, parameter in trainable(module).items():
        parameter.data.copy_(checkpoint.tensors[f"param/{name}"])
        if optimiser is not None and f"step/{name}" in checkpoint.tensors:
            state = {m: checkpoint.tensors[f"{m}/{name}"] for m in MOMENTS}
            optimiser.state[parameter] = {m: t.to(parameter.device, copy=True) for m, t in state.items()}
        if kept is not None:
            for part, weights in (("average", kept.average), ("best", kept.best)):
                if f"{part}/{name}" in checkpoint.tensors:
                    weights[name] = checkpoint.tensors[f"{part}/{name}"].to(parameter.device, copy=True)
    if kept is not None:
        for name, value in checkpoint.kept.items():
            setattr(kept, name, value)
