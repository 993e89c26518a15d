"""Checkpoints: the trained parameters and AdamW's state as one safetensors file a step, exact to the bit."""

from __future__ import annotations

from pathlib import Path

import torch

from zhclip.io import save_tensors

from ..base.files import read_metadata, read_tensors

KEEP = 2  # files
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
HINT = "delete it and run the train stage again, which continues from the checkpoint before it, or from the start"


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that require a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def save(path: Path, step: int, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
    """Write the trainable parameters and, if given, the optimiser's state."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainable(module).items():
        tensors[f"param/{name}"] = parameter.detach()
        state = optimiser.state.get(parameter, {}) if optimiser else {}
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    save_tensors(path, tensors, {"step": str(step)})


def restore(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> int:
    """Copy a file's values into the trainable parameters and, if given, the optimiser. Returns the step.

    Raises DamagedError.
    """
    tensors = read_tensors(path, HINT)
    for name, parameter in trainable(module).items():
        parameter.data.copy_(tensors[f"param/{name}"])
        if optimiser is not None and f"step/{name}" in tensors:
            state = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS}
            optimiser.state[parameter] = {m: t.to(parameter.device, copy=True) for m, t in state.items()}
    return int(read_metadata(path, HINT)["step"])


def final(folder: Path) -> Path:
    """Path of the weights after the last step."""
    return folder / "final.safetensors"


def newest(folder: Path) -> Path | None:
    """Path of a run's newest checkpoint, or None."""
    return max(folder.glob("step-*.safetensors"), default=None)
