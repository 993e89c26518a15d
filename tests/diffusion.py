"""A small pipeline of SD1.5's kind with random weights, as diffusers saves it; and pipelines for an artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from tests import encoders
from zhclip.schema import Meta

WIDTH = 64


def pipeline(folder: Path) -> Path:
    """A diffusers folder: a UNet of four levels with 16 cross-attention layers, a VAE and a CLIP."""
    clip = encoders.clip_teacher(folder / "clip", width=WIDTH, layers=2)
    torch.manual_seed(5)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32, 64, 64), cross_attention_dim=WIDTH, attention_head_dim=8
    )
    schedule = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts = dict(
        unet=unet,
        vae=small_vae(),
        text_encoder=CLIPTextModel.from_pretrained(clip),
        tokenizer=CLIPTokenizer.from_pretrained(clip),
        scheduler=DDIMScheduler(**schedule, set_alpha_to_one=False),
    )
    StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    shutil.rmtree(clip)
    return folder


def small_vae() -> AutoencoderKL:
    """Of four levels, as the checkpoints' own."""
    return AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )


def pipeline_for(meta: Meta) -> DiffusionPipeline:
    """A pipeline without text encoders, whose UNet of two levels reads what an artifact of this metadata gives."""
    added = dict(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=meta.pooled + 6 * 8,
    )
    torch.manual_seed(7)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=meta.teacher.width,
        attention_head_dim=8,
        **(added if meta.pooled else {}),
    )
    parts = dict(
        unet=unet, vae=small_vae(), scheduler=EulerDiscreteScheduler(steps_offset=1), text_encoder=None, tokenizer=None
    )
    if meta.pooled:
        made = StableDiffusionXLPipeline(text_encoder_2=None, tokenizer_2=None, add_watermarker=False, **parts)
    else:
        made = StableDiffusionPipeline(
            safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
        )
    made.set_progress_bar_config(disable=True)
    return made


def published(meta: Meta, folder: Path) -> Path:
    """`pipeline_for` as a hub has it, with tokenizers and an index that names text encoders; these are not there."""
    clip = encoders.clip_teacher(folder / "clip")
    pipe = pipeline_for(meta)
    text, tokenizer = CLIPTextModel.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    for name in [name for name in pipe.components if name.startswith(("text_encoder", "tokenizer"))]:
        pipe.register_modules(**{name: text if name.startswith("text") else tokenizer})
    pipe.save_pretrained(folder)
    for part in [clip, *folder.glob("text_encoder*")]:
        shutil.rmtree(part)
    return folder
