"""A checkpoint of SD1.5's shape with random weights, made of ComfyUI's own modules: `python sd15.py OUT.safetensors`.

The UNet has one level in place of four (26 M parameters), CLIP-L and the VAE are whole, since ComfyUI builds those
at their fixed sizes. Run it in a process that can import ComfyUI (host.in_host).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ONE_LEVEL = dict(
    image_size=32,
    in_channels=4,
    model_channels=320,
    num_res_blocks=[1],
    channel_mult=[1],
    num_heads=8,
    use_spatial_transformer=True,
    transformer_depth=[1],
    transformer_depth_middle=1,
    context_dim=768,
    use_linear_in_transformer=False,
    legacy=False,
    dtype=torch.float32,
)


def main(out: Path) -> None:
    """Write the checkpoint in fp16."""
    sys.argv = sys.argv[:1] + ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    import comfy.sd1_clip
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    plain = comfy.ops.disable_weight_init
    unet = UNetModel(**ONE_LEVEL, out_channels=4, transformer_depth_output=[1, 1], operations=plain)
    clip = comfy.sd1_clip.SDClipModel(dtype=torch.float32)
    write({"model.diffusion_model": unet, "first_stage_model": vae(), "cond_stage_model": clip}, out)


def vae() -> torch.nn.Module:
    """SD1.5's VAE, which has the shape of SDXL's."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4])
    return AutoencoderKL(ddconfig={**shape, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}, embed_dim=4)


def write(parts: dict[str, torch.nn.Module], out: Path) -> None:
    """A checkpoint in fp16 of random weights in the shapes of these modules, by the prefixes of their names."""
    from safetensors.torch import save_file

    state = {f"{at}.{name}": value for at, part in parts.items() for name, value in part.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    save_file({name: fill(name, value, generator) for name, value in state.items()}, out)


def fill(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random values of a size that keeps activations finite in fp16: matrices by their fan-in, biases 0, norms 1."""
    if not like.is_floating_point():
        return like.clone()
    if like.ndim < 2:
        return torch.full(like.shape, float(name.endswith("weight")), dtype=torch.float16)
    fan_in = like[0].numel() if "embedding" not in name else 2500
    return torch.randn(like.shape, generator=generator).mul_(fan_in**-0.5).half()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
