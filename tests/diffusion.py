"""Small parts of SD1.5's shape with random weights, as diffusers and transformers save them; and a whole small CLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from tests import encoders

WIDTH = 64
UNET_WIDTHS = (32, 32, 64, 64)
VAE_WIDTHS = (32, 32, 32, 32)
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json")


def pipeline(
    folder: Path,
    width: int = WIDTH,
    layers: int = 2,
    unet_widths: tuple[int, ...] = UNET_WIDTHS,
    vae_widths: tuple[int, ...] = VAE_WIDTHS,
) -> Path:
    """A diffusers folder: a UNet of four levels with 16 cross-attention layers, a VAE and a CLIP."""
    encoders.clip_teacher(folder / "text_encoder", width=width, layers=layers)
    (folder / "tokenizer").mkdir()
    for name in TOKENIZER:
        shutil.move(folder / "text_encoder" / name, folder / "tokenizer" / name)
    torch.manual_seed(5)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=unet_widths, cross_attention_dim=width, attention_head_dim=8
    )
    unet.save_pretrained(folder / "unet")
    vae = AutoencoderKL(
        block_out_channels=vae_widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}), encoding="utf-8")
    return folder


def whole_clip(folder: Path) -> Path:
    """A CLIPModel with both towers, its tokenizer and its image processor."""
    tokenizer = encoders.clip_teacher(folder / "text", width=WIDTH)
    text = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    torch.manual_seed(6)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(tokenizer / name, folder / name)
    return folder
