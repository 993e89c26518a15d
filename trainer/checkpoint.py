"""Checkpoints: the trained parameters and AdamW's state as one safetensors file a step, exact to the bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

KEEP = 2
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """A read checkpoint: tensors by "param/NAME" and "exp_avg/NAME" ..., the step, and the losses so far."""

    tensors: dict[str, torch.Tensor]
    step: int
    losses: dict[str, list[float]]


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def save(
    folder: Path, step: int, module: torch.nn.Module, optimiser: torch.optim.Optimizer, losses: dict[str, list[float]]
) -> None:
    """Write folder/step-NNNNNN.safetensors whole or not at all, and drop all but the newest two."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainable(module).items():
        tensors[f"param/{name}"] = parameter.detach()
        for moment in MOMENTS:
            if parameter in optimiser.state:
                tensors[f"{moment}/{name}"] = optimiser.state[parameter][moment]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.safetensors"
    temporary = path.with_suffix(".tmp")
    header = {"step": str(step), "losses": json.dumps(losses)}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, header)
    temporary.replace(path)
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink()


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return max(folder.glob("step-*.safetensors"), default=None)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU."""
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no dict
    return Checkpoint(tensors, int(header["step"]), json.loads(header["losses"]))


def restore(checkpoint: Checkpoint, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
    """Put a checkpoint's values into the parameters that learn and, when given, into the optimiser."""
    for name, parameter in trainable(module).items():
        parameter.data.copy_(checkpoint.tensors[f"param/{name}"])
        if optimiser is not None and f"step/{name}" in checkpoint.tensors:
            state = {m: checkpoint.tensors[f"{m}/{name}"] for m in MOMENTS}
            moved = {m: t if m == "step" else t.to(parameter.device) for m, t in state.items()}
            optimiser.state[parameter] = moved
