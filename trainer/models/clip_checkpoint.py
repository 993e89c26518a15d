"""CLIP's text encoders from a folder in Hugging Face layout or from a checkpoint file, read strictly.

A checkpoint file keeps CLIP-L by Hugging Face's names and bigG by open_clip's, under the table of kinds' prefixes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zhclip.models import KINDS, SD15, CheckpointKind, Part

from .load import CHECKPOINTS, ModelError, beside_anchor, load_strict, prefix_of, read_tensors

Clip: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection
ANCHOR = "embeddings.token_embedding.weight"
PROJECTION = "text_projection.weight"
POSITIONS, INNER = "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
HEAD = 64  # the width of a head in every published CLIP text encoder
# From open_clip's names to Hugging Face's, in this order.
OPEN_CLIP = {
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": POSITIONS,
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".attn.": ".self_attn.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def clip_class(kind: CheckpointKind, part: Part) -> Callable[..., Clip]:
    """Of a kind with a pooled vector the last part has the projection that makes it."""
    return CLIPTextModelWithProjection if kind.pooled and part == kind.parts[-1] else CLIPTextModel


def clips_of_checkpoint(path: Path, flag: str) -> tuple[CheckpointKind, tuple[Clip, ...]]:
    """The kind of a checkpoint file and its text encoders, of which alone a safetensors file is read.

    Raises ModelError when one of them is not there, not whole, or not finite.
    """
    if path.suffix not in CHECKPOINTS:
        raise ModelError(f"--{flag} {path}: not a checkpoint file ({', '.join(CHECKPOINTS)})")
    where = f"--{flag} {path}"
    everything = read_tensors(path, flag, tuple(part.prefix for kind in KINDS for part in kind.parts))
    for kind in KINDS:
        found = [from_open_clip(_under(everything, part.prefix)) for part in kind.parts]
        if any(found):
            return kind, tuple(_clip(kind, *each, where) for each in zip(kind.parts, found))
    return SD15, (_clip(SD15, SD15.parts[0], everything, where),)


def named(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a CLIP text encoder, whatever prefix they carry, named without it, and its projection."""
    found = beside_anchor(tensors, ANCHOR)
    projection = prefix_of(tensors, PROJECTION)
    return found if projection is None else found | {PROJECTION: tensors[projection + PROJECTION]}


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _clip(kind: CheckpointKind, part: Part, found: dict[str, torch.Tensor], where: str) -> Clip:
    tensors = named(found)
    if ANCHOR not in tensors:
        known = " or ".join(kind.name for kind in KINDS)
        raise ModelError(
            f"{where}: it holds no CLIP text encoder as checkpoints of {known} do ({part.prefix}*{ANCHOR})"
        )
    make = clip_class(kind, part)
    measured = [ANCHOR, POSITIONS, INNER, *([PROJECTION] if make is CLIPTextModelWithProjection else [])]
    for name in measured:
        if name not in tensors or tensors[name].dim() != 2:
            raise ModelError(f"{where}: {part.prefix}*{name} is missing or no matrix; copy or download it again")
    vocabulary, width = tensors[ANCHOR].shape
    # A checkpoint has no config.json: shapes give all but heads and activation.
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(tensors[INNER]),
        num_hidden_layers=sum(name.endswith("mlp.fc1.weight") for name in tensors),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=len(tensors[POSITIONS]),
        projection_dim=len(tensors[PROJECTION]) if PROJECTION in measured else width,
        hidden_act=part.activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    return load_strict(functools.partial(make, config), tensors, ANCHOR, where)


def from_open_clip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's names and layouts of a text encoder to Hugging Face's; what has other names stays as it is."""
    if "token_embedding.weight" not in tensors:
        return tensors
    found = {}
    for name, tensor in tensors.items():
        for old, new in OPEN_CLIP.items():
            name = name.replace(old, new)
        if name == "text_projection":
            found[PROJECTION] = tensor.mT if tensor.dim() == 2 else tensor  # there the vectors stand on the left
        elif ".in_proj_" in name:
            for letter, third in zip("qkv", torch.atleast_1d(tensor).chunk(3)):
                found[name.replace(".in_proj_", f".{letter}_proj.")] = third
        else:
            found[name] = tensor
    return found
