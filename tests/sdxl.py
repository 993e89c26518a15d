"""A checkpoint that ComfyUI takes for SDXL, with random weights: `python sdxl.py OUT.safetensors`.

The UNet has SDXL's levels, depths, context and sizes, but every level is as narrow as the first, and nothing but the
encoder's half has transformers (135 M parameters in place of 2,600 M). The VAE is whole. There is no CLIP in it: core
builds bigG at its full size alone, so the tests' own node makes one of fewer layers (SDXLClip in probe.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sd15 import vae, write  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own

NARROW = dict(
    image_size=32,
    in_channels=4,
    model_channels=320,
    num_res_blocks=[2, 2, 2],
    channel_mult=[1, 1, 1],
    num_head_channels=64,
    use_spatial_transformer=True,
    transformer_depth=[0, 0, 2, 2, 10, 10],
    transformer_depth_middle=-1,
    context_dim=2048,
    use_linear_in_transformer=True,
    num_classes="sequential",
    adm_in_channels=2816,
    legacy=False,
    dtype=torch.float32,
)


def main(out: Path) -> None:
    """Write the checkpoint in fp16."""
    sys.argv = sys.argv[:1] + ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    plain = comfy.ops.disable_weight_init
    unet = UNetModel(**NARROW, out_channels=4, transformer_depth_output=[0] * 9, operations=plain)
    write({"model.diffusion_model": unet, "first_stage_model": vae()}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
