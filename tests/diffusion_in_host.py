"""A small SD1.5 checkpoint of ComfyUI's own modules, and what they make of one input: `python ... OUT`.

Run it in a process that can import ComfyUI (host.in_host). OUT/unet-and-vae.safetensors has the checkpoint's keys but
the text encoder's; OUT/expected.safetensors what UNet and VAE answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sd15 import fill  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own


def main(out: Path) -> None:
    """Write both files."""
    sys.argv = sys.argv[:1] + ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    unet = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=32,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 1, 2, 2],
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        context_dim=64,
        use_linear_in_transformer=False,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    shape = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 1, 1, 1])
    vae = AutoencoderKL(ddconfig={**shape, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}, embed_dim=4)
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for prefix, part in (("model.diffusion_model", unet), ("first_stage_model", vae)):
        made = {name: fill(name, value, generator) for name, value in part.state_dict().items()}
        part.load_state_dict(made)
        state |= {f"{prefix}.{name}": value for name, value in made.items()}
    latent = torch.randn(1, 4, 8, 8, generator=generator)
    context = torch.randn(1, 77, 64, generator=generator)
    with torch.inference_mode():
        noise = unet(latent, torch.tensor([500.0]), context=context)
        image = vae.decode(latent)
    out.mkdir(exist_ok=True)
    save_file(state, out / "unet-and-vae.safetensors")
    save_file({"latent": latent, "context": context, "noise": noise, "image": image}, out / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
