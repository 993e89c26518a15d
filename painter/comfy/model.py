"""The painter as a stock MODEL, its folded pixels for latents; the one file here that knows ComfyUI's internals."""

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

LATENT_PIXELS = 8
"""ComfyUI's latents have one position for 8 x 8 pixels."""
SHOWN = 8
"""Each pixel of the painter is shown as so many a side."""


def painter_network() -> ModuleType:
    """painter/unet.py, size_given from the real file: custom_nodes holds a link, and the repository is on no path."""
    path = Path(__file__).resolve().parent.parent / "unet.py"
    spec = importlib.util.spec_from_file_location("zhclip_painter_unet", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(
            f"The painter's network is missing: {path}. Link the folder painter/comfy, do not copy it."
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PixelFormat(comfy.latent_formats.LatentFormat):
    """A cell's pixels in place of a latent; ComfyUI's empty latent gets its channels by it."""

    latent_channels = 432


class PainterConfig(comfy.supported_models_base.BASE):
    """What ComfyUI reads of a model; its default schedule is SD1.5's, which is the painter's."""

    unet_config: ClassVar = {"disable_unet_model_creation": True, "in_channels": 432, "context_dim": 384}
    latent_format = PixelFormat


class CleanSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
    """The painter answers the clean latent."""


class Painter(torch.nn.Module):
    """The network under the call that ComfyUI makes."""

    def __init__(self, network: torch.nn.Module, side: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.side = side
        self.width = width
        self.dtype = torch.float32

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        """Latents (B, 432, 3, 3), steps (B,), conditioning (B, L, 384) to clean latents. ValueError for other sizes."""
        if x.shape[-2:] != (self.side, self.side):
            size = self.side * LATENT_PIXELS
            size_given = f"{x.shape[-1] * LATENT_PIXELS} x {x.shape[-2] * LATENT_PIXELS}"
            raise ValueError(
                f"The painter's latents are of {size} x {size}, this one is of {size_given}. "
                f"Set Empty Latent Image to {size} x {size}."
            )
        if context.shape[-1] != self.width:
            raise ValueError(
                f"The painter takes conditioning of width {self.width}, this one is {context.shape[-1]} wide. "
                "Load a text encoder that was aligned to the painter's teacher (make demo writes some)."
            )
        return self.network(x, timesteps, context).sample


class PixelDecoder:
    """Stands where a VAE stands: the painter's latent is a folded picture."""

    def __init__(self, to_pixels: Callable[[Tensor], Tensor]) -> None:
        self.to_pixels = to_pixels

    def decode(self, samples: Tensor) -> Tensor:
        """(B, 432, 3, 3) to ComfyUI's image (B, 288, 288, 3) in 0..1, each pixel a flat square of 8 x 8."""
        return self.to_pixels(samples).repeat_interleave(SHOWN, 1).repeat_interleave(SHOWN, 2)


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
