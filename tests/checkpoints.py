"""Small checkpoints of random weights, made of ComfyUI's own modules: for host.in_host.

`sd15` and `sdxl` have the widths that ComfyUI knows the kinds by. SD1.5's UNet has one level in place of four (26 M
parameters), and CLIP-L and the VAE are whole, since ComfyUI builds those at their fixed sizes. SDXL's UNet has its
levels, depths and context, but every level is as narrow as the first, and only its first half has transformers (135 M
parameters in place of 2,600 M); it has no CLIP: SDXLClip in probe.py makes one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

COMMON: dict[str, Any] = dict(
    image_size=32, in_channels=4, model_channels=320, use_spatial_transformer=True, legacy=False, dtype=torch.float32
)
SD15 = COMMON | dict(
    num_res_blocks=[1],
    channel_mult=[1],
    num_heads=8,
    transformer_depth=[1],
    transformer_depth_middle=1,
    context_dim=768,
    use_linear_in_transformer=False,
)
SDXL = COMMON | dict(
    num_res_blocks=[2, 2, 2],
    channel_mult=[1, 1, 1],
    num_head_channels=64,
    transformer_depth=[0, 0, 2, 2, 10, 10],
    transformer_depth_middle=-1,
    context_dim=2048,
    use_linear_in_transformer=True,
    num_classes="sequential",
    adm_in_channels=2816,
)


def sd15(out: str) -> None:
    """Write a checkpoint in fp16."""
    import comfy.sd1_clip

    clip = comfy.sd1_clip.SDClipModel(dtype=torch.float32)
    parts = {"model.diffusion_model": unet(SD15, [1, 1]), "first_stage_model": vae(), "cond_stage_model": clip}
    save_file(weights(parts, seed=0), out)


def sdxl(out: str) -> None:
    """Write a checkpoint in fp16."""
    save_file(weights({"model.diffusion_model": unet(SDXL, [0] * 9), "first_stage_model": vae()}, seed=0), out)


def diffusion(out: str) -> None:
    """Write a narrow SD1.5 of four levels without its text encoder, OUT/unet-and-vae.safetensors, and what UNet and VAE
    make of one input, OUT/expected.safetensors."""
    shape = COMMON | dict(
        model_channels=32,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 1, 2, 2],
        num_heads=8,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        context_dim=64,
        use_linear_in_transformer=False,
    )
    parts = {"model.diffusion_model": unet(shape, [1] * 9 + [0] * 3), "first_stage_model": vae(32, [1, 1, 1, 1])}
    state = weights(parts, seed=0)
    for prefix, part in parts.items():
        part.load_state_dict({name: state[f"{prefix}.{name}"] for name in part.state_dict()})
    generator = torch.Generator().manual_seed(0)
    latent, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 64, generator=generator)
    with torch.inference_mode():
        noise = parts["model.diffusion_model"](latent, torch.tensor([500.0]), context=context)
        image = parts["first_stage_model"].decode(latent)
    folder = Path(out)
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "unet-and-vae.safetensors")
    save_file({"latent": latent, "context": context, "noise": noise, "image": image}, folder / "expected.safetensors")


def unet(shape: dict[str, Any], output_depth: list[int]) -> torch.nn.Module:
    """A UNet of this shape."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    operations = comfy.ops.disable_weight_init
    return UNetModel(**shape, out_channels=4, transformer_depth_output=output_depth, operations=operations)


def vae(width: int = 128, multipliers: tuple[int, ...] | list[int] = (1, 2, 4, 4)) -> Any:
    """SD1.5's VAE, which has the shape of SDXL's."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=width, ch_mult=multipliers)
    return AutoencoderKL(ddconfig={**shape, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}, embed_dim=4)


def weights(parts: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Random weights in fp16 in the shapes of these modules, by the prefixes of their names, of sizes that keep
    activations finite: matrices by their fan-in, biases 0, norms 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        f"{at}.{name}" if at else name: like for at, part in parts.items() for name, like in part.state_dict().items()
    }
    return {name: fill(name, like, generator) for name, like in state.items()}


def fill(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values for one tensor."""
    if not like.is_floating_point():
        return like.clone()
    if like.ndim < 2:
        return torch.full(like.shape, float(name.endswith("weight")), dtype=torch.float16)
    fan_in = like[0].numel() if "embedding" not in name else 2500
    return torch.randn(like.shape, generator=generator).mul_(fan_in**-0.5).half()
