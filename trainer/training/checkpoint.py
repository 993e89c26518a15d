"""Checkpoints: the trained parameters and AdamW's state as one safetensors file a step, exact to the bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from zhclip.io import save_tensors

from ..base.files import read_metadata, read_tensors

KEEP = 2  # files
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
HINT = "delete it and run the train stage again, which continues from the checkpoint before it, or from the start"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the CPU: tensors by "param/NAME", "exp_avg/NAME", ...; state of the fp16 gradient scaler."""

    tensors: dict[str, torch.Tensor]
    step: int
    scaler: dict[str, float]

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint or the final weights. Raises DamagedError."""
        header, tensors = read_metadata(path, HINT), read_tensors(path, HINT)
        return cls(tensors, int(header["step"]), json.loads(header["scaler"]))

    def restore(self, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Copy the values into the module's trainable parameters and, if given, the optimiser's state."""
        for name, parameter in trainable(module).items():
            parameter.data.copy_(self.tensors[f"param/{name}"])
            if optimiser is not None and f"step/{name}" in self.tensors:
                moments = {moment: self.tensors[f"{moment}/{name}"] for moment in MOMENTS}
                optimiser.state[parameter] = {m: t.to(parameter.device, copy=True) for m, t in moments.items()}


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that require a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def save(
    path: Path,
    step: int,
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    scaler: dict[str, float] | None = None,
) -> None:
    """Write the trainable parameters and, if given, the optimiser's state atomically."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainable(module).items():
        tensors[f"param/{name}"] = parameter.detach()
        state = optimiser.state.get(parameter, {}) if optimiser else {}
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    save_tensors(path, tensors, {"step": str(step), "scaler": json.dumps(scaler or {})})


def final(folder: Path) -> Path:
    """Path of the weights after the last step."""
    return folder / "final.safetensors"


def newest(folder: Path) -> Path | None:
    """Path of a run's newest checkpoint, or None."""
    return max(folder.glob("step-*.safetensors"), default=None)
