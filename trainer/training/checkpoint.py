"""Checkpoints: the trained parameters and AdamW's state as one safetensors file a step, exact to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..base.files import read_header, read_tensors, write_tensors

KEEP = 2  # files
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
HINT = "delete it and run the train stage again, which continues from the checkpoint before it, or from the start"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the CPU.

    tensors: by "param/NAME", "exp_avg/NAME", ...; losses: what the check for divergence remembers; scaler: state of the
    fp16 gradient scaler.
    """

    tensors: dict[str, torch.Tensor]
    step: int
    losses: dict[str, list[float]]
    scaler: dict[str, float]

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint or the final weights. Raises DamagedError."""
        header, tensors = read_header(path, HINT), read_tensors(path, HINT)
        return cls(tensors, int(header["step"]), json.loads(header["losses"]), json.loads(header["scaler"]))

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
    folder: Path,
    step: int,
    parameters: Mapping[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    losses: dict[str, list[float]],
    scaler: dict[str, float] | None = None,
) -> None:
    """Write folder/step-NNNNNN.safetensors atomically, and delete all but the newest KEEP."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"param/{name}"] = parameter.detach()
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / f"step-{step:06d}.safetensors", tensors, _header(step, losses, scaler))
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink()


def save_final(folder: Path, parameters: Mapping[str, torch.Tensor], step: int) -> None:
    """Write folder/final.safetensors, the weights after the last step."""
    tensors = {f"param/{name}": tensor.detach() for name, tensor in parameters.items()}
    write_tensors(final(folder), tensors, _header(step, {}, None))


def final(folder: Path) -> Path:
    """Path of the final weights."""
    return folder / "final.safetensors"


def newest(folder: Path) -> Path | None:
    """Path of a run's newest checkpoint, or None."""
    return max(folder.glob("step-*.safetensors"), default=None)


def _header(step: int, losses: dict[str, list[float]], scaler: dict[str, float] | None) -> dict[str, str]:
    return {"step": str(step), "losses": json.dumps(losses), "scaler": json.dumps(scaler or {})}
