"""Stable Diffusion 1.5 by diffusers: its pipeline, pictures of conditionings, and its UNet's predicted noise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline

from zhclip.device import usable_gpu
from zhclip.pipelines import PromptEncoder, one_length

from ..base.device import default_device
from ..base.errors import one_line
from ..base.files import file_sha256
from ..base.recipe import SettingsError
from ..models.load import ModelError, resolve

ENGLISH = "english"  # the checkpoint's own CLIP, in place of an encoder's path
WEIGHTS = ("unet", "vae", "text_encoder")
CONFIGS = ["model_index.json", "scheduler/*.json", "tokenizer/*"]
CONFIGS += [f"{part}/config.json" for part in WEIGHTS]
FILES = [*CONFIGS, "text_encoder/model.safetensors"]
FILES += [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
QUERIES = 5  # steps whose UNet inputs are recorded, from the first to the last


def checkpoint_sha256(checkpoint: Path) -> str:
    """Digest of a checkpoint file, or of a pipeline folder's weights."""
    if checkpoint.is_file():
        return file_sha256(checkpoint)
    return file_sha256(*sorted(path for part in WEIGHTS for path in (checkpoint / part).glob("*.*") if path.is_file()))


def load_pipeline(checkpoint: Path, sampler: str, layout: str) -> StableDiffusionPipeline:
    """A pipeline folder or a checkpoint file, on the GPU in fp16 or the CPU in fp32. `layout`: folder or hub id of a
    pipeline whose configurations and tokenizer a file is read by.

    Raises ModelError when a part is missing or not of SD1.5's kind, SettingsError for an unknown sampler.
    """
    diffusers.logging.set_verbosity_error()
    scheduler: Any = getattr(diffusers, sampler, None) if re.fullmatch(r"\w+Scheduler", sampler) else None
    if not hasattr(scheduler, "from_config"):
        raise SettingsError(f"--sampler {sampler}: no scheduler of diffusers; usual are DDIMScheduler, PNDMScheduler")
    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    config = resolve(layout, "layout", CONFIGS) if checkpoint.is_file() else checkpoint
    try:
        if checkpoint.is_file():
            pipe = StableDiffusionPipeline.from_single_file(
                str(checkpoint), config=str(config), local_files_only=True, safety_checker=None
            )
        else:
            pipe = StableDiffusionPipeline.from_pretrained(checkpoint, local_files_only=True, **unused)
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(default_device(), torch.float16 if usable_gpu() else torch.float32)
    except Exception as error:
        raise ModelError(f"--checkpoint {checkpoint}: no whole Stable Diffusion 1.5 ({one_line(error)})") from error


def encode_texts(pipe: StableDiffusionPipeline, encoder: str, texts: list[str], layer: int) -> dict[str, torch.Tensor]:
    """Conditionings (T, D) by text, of an encoder's file, or of the pipeline's own CLIP at a `layer` (-1: the last).

    Raises ArtifactError for an encoder that the UNet does not fit.
    """
    if encoder == ENGLISH:
        skip = None if layer == -1 else -1 - layer
        return {text: pipe.encode_prompt(text, pipe.device, 1, False, clip_skip=skip)[0][0] for text in texts}
    encode = PromptEncoder(encoder, pipe, pipe.device)
    return {text: encode(text)["prompt_embeds"][0] for text in texts}


def paint(
    pipe: StableDiffusionPipeline, conditioning: torch.Tensor, empty: torch.Tensor, settings: dict[str, Any]
) -> tuple[Any, dict[str, torch.Tensor]]:
    """One picture of a conditioning (T, D) against the encoder's empty prompt (T, D), and recorded inputs of the UNet:
    `input` (Q, 4, H, W), `timestep` (Q,). The starting noise depends on the seed and the size alone."""
    generator = torch.Generator("cpu").manual_seed(settings["seed"])
    size = [settings[side] // pipe.vae_scale_factor for side in ("height", "width")]
    noise = torch.randn(1, pipe.unet.config.in_channels, *size, generator=generator)
    inputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(module: torch.nn.Module, arguments: tuple[torch.Tensor, torch.Tensor]) -> None:
        inputs.append((arguments[0][-1:].float().cpu(), torch.as_tensor(arguments[1]).float().cpu()))

    positive, negative = one_length(conditioning, empty)
    with pipe.unet.register_forward_pre_hook(record):
        image = pipe(
            prompt_embeds=positive[None],
            negative_prompt_embeds=negative[None],
            latents=noise.to(pipe.unet.dtype),
            height=settings["height"],
            width=settings["width"],
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            generator=generator,
        ).images[0]
    steps = sorted({round(at * (len(inputs) - 1) / (QUERIES - 1)) for at in range(QUERIES)})
    samples, timesteps = zip(*(inputs[step] for step in steps))
    return image, {"input": torch.cat(samples), "timestep": torch.stack(timesteps)}


@torch.inference_mode()
def noise_errors(
    unet: Any, inputs: dict[str, torch.Tensor], english: torch.Tensor, conditioning: torch.Tensor
) -> list[float]:
    """|a - b| / |b| of the noise that the UNet predicts from a conditioning, a, and from the English one, b, (T, D)
    each, at each of the recorded inputs."""
    both = one_length(conditioning, english).to(unet.device, unet.dtype)
    errors = []
    for sample, timestep in zip(inputs["input"], inputs["timestep"]):
        pair = sample.to(unet.device, unet.dtype).expand(2, -1, -1, -1)
        predicted, reference = unet(pair, timestep.to(unet.device), both).sample.float()
        errors.append(float((predicted - reference).norm() / reference.norm()))
    return errors
