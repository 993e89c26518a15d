"""The painter as a stock MODEL with folded pixels as latents; the only file of it that uses ComfyUI's internals."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models_base
import torch
from torch import Tensor

SCALE = 8
"""ComfyUI's latents have one position for 8 x 8 pixels, and each pixel of the painter is shown as 8 x 8."""


def painter_network() -> ModuleType:
    """painter/unet.py, found from the real file: custom_nodes holds a link, and the repository is not importable."""
    path = Path(__file__).resolve().parent.parent / "unet.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Link the folder painter/comfy, do not copy it.")
    spec = importlib.util.spec_from_file_location("zhclip_painter_unet", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PixelFormat(comfy.latent_formats.LatentFormat):
    """Latents with the 432 pixels of a cell as channels."""

    latent_channels = 432


class PainterConfig(comfy.supported_models_base.BASE):
    """ComfyUI's description of a model; its default noise schedule is SD1.5's, which is the painter's."""

    unet_config: ClassVar = {"disable_unet_model_creation": True, "in_channels": 432, "context_dim": 384}
    latent_format = PixelFormat


class CleanSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
    """The painter predicts the clean latent."""


class Painter(torch.nn.Module):
    """The network with the signature that ComfyUI calls."""

    def __init__(self, network: torch.nn.Module, side: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.side = side
        self.width = width
        self.dtype = torch.float32

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        """Latents (B, 432, 3, 3), steps (B,), conditioning (B, L, 384) to clean latents. ValueError for other sizes."""
        if x.shape[-2:] != (self.side, self.side):
            size, height, width = (number * SCALE for number in (self.side, *x.shape[-2:]))
            raise ValueError(f"The painter takes latents of {size} x {size} pixels, not {width} x {height}.")
        if context.shape[-1] != self.width:
            raise ValueError(
                f"The painter takes conditioning of width {self.width}, not {context.shape[-1]}. "
                "Load a text encoder that was aligned to the painter's teacher (make demo writes some)."
            )
        return self.network(x, timesteps, context).sample


class PixelDecoder:
    """In place of a VAE: unfolds the latent to pixels."""

    def __init__(self, to_pixels: Callable[[Tensor], Tensor]) -> None:
        self.to_pixels = to_pixels

    def decode(self, samples: Tensor) -> Tensor:
        """(B, 432, 3, 3) to ComfyUI's image (B, 288, 288, 3) in 0..1, each pixel a flat square of 8 x 8."""
        return self.to_pixels(samples).repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)


def load() -> tuple[comfy.model_patcher.ModelPatcher, PixelDecoder]:
    """The trained painter. FileNotFoundError says how to make missing weights."""
    source = painter_network()
    config = PainterConfig({**PainterConfig.unet_config})
    model = comfy.model_base.BaseModel(config)
    model.model_sampling = CleanSampling(config)
    network = source.load()
    model.diffusion_model = Painter(network, network.config.sample_size, source.WIDTH)
    patcher = comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return patcher, PixelDecoder(source.to_pixels)
