"""A ControlNet for the checkpoint of sd15.py or sdxl.py, of random weights: `python controlnet_in_host.py OUT KIND`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

# Not from `tests`, of which ComfyUI has one of its own.
sd15, sdxl = importlib.import_module("sd15"), importlib.import_module("sdxl")


def main(out: Path, kind: str) -> None:
    """Write it in fp16, under the names of the original ControlNet."""
    sys.argv = [*sys.argv[:1], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.cldm.cldm import ControlNet
    from safetensors.torch import save_file

    shape = {"sd15": sd15.ONE_LEVEL, "sdxl": sdxl.NARROW}[kind]
    net = ControlNet(**shape, hint_channels=3, operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(1)
    save_file({name: sd15.fill(name, value, generator) for name, value in net.state_dict().items()}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
