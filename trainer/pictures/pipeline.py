"""An SD1.5 by diffusers, and one picture of it: the file, and what its UNet was asked on the way."""

from __future__ import annotations

import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from PIL.PngImagePlugin import PngInfo

from zhclip.pipelines import one_length

from ..base.errors import one_line
from ..base.recipe import SettingsError
from ..models.load import CHECKPOINTS, ModelError, read_tensors

FLAG = "checkpoint"
# What diffusers itself downloads for a checkpoint file, as far as its classes' defaults differ; shapes are read.
UNET = {"attention_head_dim": 8, "sample_size": 64}
VAE = {"latent_channels": 4, "scaling_factor": 0.18215, "sample_size": 512}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
QUERIES = 5  # timesteps at which the UNet's inputs are kept, from the first to the last


def load_pipeline(checkpoint: Path, sampler: str) -> StableDiffusionPipeline:
    """UNet, VAE and sampler of a diffusers folder or a checkpoint file, on the GPU in fp16 or the CPU in fp32.

    Raises ModelError when a part is missing or not SD1.5's, SettingsError for a sampler that diffusers lacks.
    """
    diffusers.logging.set_verbosity_error()  # it warns of casts that we ask for
    dtype = torch.float16 if torch.cuda.is_available() else torch.float32
    unet, vae, schedule = (from_file if checkpoint.is_file() else from_folder)(checkpoint, dtype)
    if unet.config.in_channels != 4 or unet.config.addition_embed_type is not None:
        raise ModelError(f"--{FLAG} {checkpoint}: its UNet is not of the kind of SD1.5's for text to image")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler_class(sampler).from_config(schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def scheduler_class(name: str) -> Any:
    """A scheduler of diffusers by the name of its class. Raises SettingsError with those that there are."""
    scheduler = getattr(diffusers, name, None) if re.fullmatch(r"\w+Scheduler", name) else None
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise SettingsError(
            f"--sampler {name}: diffusers has no such scheduler; usual ones are DDIMScheduler, PNDMScheduler, "
            "EulerDiscreteScheduler, EulerAncestralDiscreteScheduler and DPMSolverMultistepScheduler"
        )
    return scheduler


def from_folder(folder: Path, dtype: torch.dtype) -> tuple[UNet2DConditionModel, AutoencoderKL, dict[str, Any]]:
    """A pipeline's folder. What diffusers does not find it makes up, with a warning; here it is an error."""
    parts = []
    for kind, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        try:
            part, said = kind.from_pretrained(
                folder / name, torch_dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except Exception as error:
            raise ModelError(f"--{FLAG} {folder}: its {name} cannot be read ({one_line(error)})") from error
        if said["missing_keys"] or said["mismatched_keys"]:
            first = [*said["missing_keys"], *said["mismatched_keys"]][0]
            raise ModelError(f"--{FLAG} {folder / name}: tensors are missing, the first is {first}; download it again")
        parts.append(part)
    config = folder / "scheduler" / "scheduler_config.json"
    schedule = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else SCHEDULE
    return parts[0], parts[1], schedule


def from_file(path: Path, dtype: torch.dtype) -> tuple[UNet2DConditionModel, AutoencoderKL, dict[str, Any]]:
    """A checkpoint file, without asking the hub for the settings that it lacks: its tensors' shapes tell."""
    if path.suffix not in CHECKPOINTS:
        raise ModelError(f"--{FLAG} {path}: not a checkpoint file ({', '.join(CHECKPOINTS)})")
    tensors = read_tensors(path, FLAG)
    unet = {name: tensor for name, tensor in tensors.items() if name.startswith("model.diffusion_model.")}
    vae = {name: tensor for name, tensor in tensors.items() if name.startswith("first_stage_model.")}
    del tensors
    try:
        context = unet["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
        widths = [
            unet[f"model.diffusion_model.input_blocks.{at}.0.out_layers.3.weight"].shape[0] for at in (1, 4, 7, 10)
        ]
        channels = unet["model.diffusion_model.input_blocks.0.0.weight"].shape[1]
        vae_widths = [vae[f"first_stage_model.encoder.down.{at}.block.0.conv1.weight"].shape[0] for at in range(4)]
    except KeyError as error:
        raise ModelError(f"--{FLAG} {path}: not a whole SD1.5 checkpoint, it lacks {error.args[0]}") from error
    shapes = {"cross_attention_dim": context, "block_out_channels": widths, "in_channels": channels}
    levels = {"block_out_channels": vae_widths, "down_block_types": ["DownEncoderBlock2D"] * 4}
    levels |= {"up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2}
    return (
        _part(UNet2DConditionModel, {**UNET, **shapes}, unet, dtype, path),
        _part(AutoencoderKL, {**VAE, **levels}, vae, dtype, path),
        SCHEDULE,
    )


def _part(kind: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor], dtype: torch.dtype, path: Path) -> Any:
    # diffusers takes a checkpoint's settings from a folder or the hub, and wants its classes' defaults written out.
    with tempfile.TemporaryDirectory() as folder:
        with init_empty_weights():
            kind.from_config(config).save_config(folder)
        try:
            part = kind.from_single_file(tensors, config=folder, local_files_only=True, torch_dtype=dtype)
        except Exception as error:
            raise ModelError(f"--{FLAG} {path}: its {kind.__name__} cannot be read ({one_line(error)})") from error
    missing = [name for name, value in part.state_dict().items() if value.is_meta]
    if missing:
        raise ModelError(f"--{FLAG} {path}: {len(missing)} tensors are missing, the first is {missing[0]}")
    return part.train(False)


@torch.inference_mode()
def paint(
    pipeline: StableDiffusionPipeline,
    conditioning: torch.Tensor,
    negative: torch.Tensor,
    made_with: dict[str, Any],
) -> tuple[bytes, dict[str, torch.Tensor]]:
    """One picture as a PNG with its settings inside, and the UNet's inputs: `input` (Q, 4, H, W), `timestep` (Q,).

    conditioning, negative: (T, D). The starting noise follows from the seed and the size alone.
    """
    unet, dtype = pipeline.unet, pipeline.unet.dtype
    conditioning, negative = one_length(conditioning, negative)
    generator = torch.Generator("cpu").manual_seed(made_with["seed"])
    size = [side // pipeline.vae_scale_factor for side in (made_with["height"], made_with["width"])]
    noise = torch.randn(1, unet.config.in_channels, *size, generator=generator)
    pipeline.scheduler.set_timesteps(made_with["steps"])
    calls = len(pipeline.scheduler.timesteps)
    kept = {round(at * (calls - 1) / (QUERIES - 1)) for at in range(QUERIES)}
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(module: torch.nn.Module, arguments: tuple[torch.Tensor, torch.Tensor]) -> None:
        sample, timestep = arguments
        asked.append((sample[-1:].float().cpu(), torch.as_tensor(timestep).float().cpu()))

    with unet.register_forward_pre_hook(keep):
        image = pipeline(
            prompt_embeds=conditioning[None].to(unet.device, dtype),
            negative_prompt_embeds=negative[None].to(unet.device, dtype),
            latents=noise.to(dtype),
            height=made_with["height"],
            width=made_with["width"],
            num_inference_steps=made_with["steps"],
            guidance_scale=made_with["guidance"],
            generator=generator,  # goes on behind the starting noise, for samplers that add some at each step
        ).images[0]
    samples, timesteps = zip(*(query for at, query in enumerate(asked) if at in kept))
    return png(image, made_with), {"input": torch.cat(samples), "timestep": torch.stack(timesteps)}


def png(image: Any, made_with: dict[str, Any]) -> bytes:
    """A picture with its settings as JSON in the text field `zhclip`. Equal pictures give equal bytes."""
    said = PngInfo()
    said.add_itxt("zhclip", json.dumps(made_with, ensure_ascii=False, sort_keys=True))
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=said)
    return out.getvalue()
