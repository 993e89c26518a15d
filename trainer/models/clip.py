"""CLIP text encoders from a folder, or from a checkpoint file, which has CLIP-L by transformers' names and bigG by
open_clip's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zhclip.models import KINDS, SD15, CheckpointKind, Part

from ..base.errors import one_line
from .load import (
    CHECKPOINTS,
    ModelError,
    Tensors,
    check_tensors,
    prefix_of,
    read_config,
    read_tensors,
    tensors_beside,
)

Clip: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection
CLIP_TOKENS, PROJECTION = "embeddings.token_embedding.weight", "text_projection.weight"
CLIP_TYPES = ("clip", "clip_text_model")
POSITIONS, INTERMEDIATE = "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
HEAD = 64  # width of an attention head in every published CLIP text encoder
OPEN_CLIP = {  # open_clip's names to transformers', applied in this order
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


def clip_class(kind: CheckpointKind, part: Part) -> type[Clip]:
    """The last encoder of a kind with a pooled vector has a projection for it."""
    return CLIPTextModelWithProjection if kind.pooled and part == kind.parts[-1] else CLIPTextModel


def clip_config(kind: CheckpointKind, folder: Path, flag: str) -> CLIPTextConfig | None:
    """Configuration of a folder's CLIP text encoder, None for a BERT. Raises ModelError for other models."""
    config = read_config(folder, flag)
    model_type = config.get("model_type")
    if model_type == "bert" and len(kind.parts) == 1:
        return None
    if model_type not in CLIP_TYPES:
        known = [*CLIP_TYPES, *(["bert"] if len(kind.parts) == 1 else [])]
        raise ModelError(f"--{flag} {folder}: model_type is {model_type!r}; a teacher is one of {', '.join(known)}")
    try:
        return CLIPTextConfig.from_pretrained(folder, dtype="float32")  # of a whole CLIPModel its text_config
    except Exception as error:
        raise ModelError(f"--{flag} {folder}: its config.json cannot be used ({one_line(error)})") from error


def clip_tensors(tensors: Tensors) -> Tensors:
    """The tensors of a CLIP text encoder by transformers' names without prefix, and of its projection, in fp32."""
    prefix = prefix_of(tensors, PROJECTION)
    projection = {} if prefix is None else {PROJECTION: tensors[prefix + PROJECTION].to(torch.float32, copy=True)}
    return tensors_beside(tensors, CLIP_TOKENS) | projection


def load_clip(make: type[Clip], config: CLIPTextConfig, tensors: Tensors | None, where: str) -> Clip:
    """A CLIP text encoder in fp32 from `clip_tensors`; with random weights without them.

    Raises ModelError, which begins with `where`, if a tensor is missing or has another shape.
    """
    try:
        if tensors is None:
            return make(config)
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in make(config).state_dict().items()}
        bare = {name: name.removeprefix("text_model.") for name in shapes}  # some versions of transformers have it
        check_tensors(tensors, {bare[name]: shape for name, shape in shapes.items()}, where)
        return make.from_pretrained(None, config=config, state_dict={name: tensors[bare[name]] for name in shapes})
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: transformers cannot build its text encoder ({one_line(error)})") from error


def load_checkpoint(path: Path, flag: str) -> tuple[CheckpointKind, tuple[Clip, ...]]:
    """The kind of a checkpoint file and its text encoders, of which alone a safetensors file is read.

    Raises ModelError if one of them is missing or incomplete.
    """
    where = f"--{flag} {path}"
    if path.suffix not in CHECKPOINTS:
        raise ModelError(f"{where}: not a checkpoint file ({', '.join(CHECKPOINTS)})")
    tensors = read_tensors(path, flag, tuple(part.prefix for kind in KINDS for part in kind.parts))
    kind = kind_by_names(tensors)
    if kind is None:
        return SD15, (_load(SD15, SD15.parts[0], tensors, where),)
    return kind, tuple(_load(kind, part, _below(tensors, part.prefix), where) for part in kind.parts)


def kind_by_names(names: Iterable[str]) -> CheckpointKind | None:
    """The kind of checkpoint whose text encoders' tensors are among these; None for a text encoder alone."""
    for kind in KINDS:
        if any(name.startswith(part.prefix) for part in kind.parts for name in names):
            return kind
    return None


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load(kind: CheckpointKind, part: Part, tensors: Tensors, where: str) -> Clip:
    """A checkpoint has no config.json: shapes give everything except the number of heads and the activation."""
    make, tensors = clip_class(kind, part), clip_tensors(from_open_clip(tensors))
    if CLIP_TOKENS not in tensors:
        known = " or ".join(kind.name for kind in KINDS)
        raise ModelError(f"{where}: it holds no CLIP text encoder as checkpoints of {known} do ({part.prefix}*)")
    for name in (CLIP_TOKENS, POSITIONS, INTERMEDIATE, *([PROJECTION] if make is CLIPTextModelWithProjection else [])):
        if name not in tensors or tensors[name].dim() != 2:
            raise ModelError(f"{where}: {part.prefix}*{name} is missing or no matrix; copy or download it again")
    vocabulary, width = tensors[CLIP_TOKENS].shape
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(tensors[INTERMEDIATE]),
        num_hidden_layers=sum(name.endswith("mlp.fc1.weight") for name in tensors),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=len(tensors[POSITIONS]),
        projection_dim=len(tensors[PROJECTION]) if make is CLIPTextModelWithProjection else width,
        hidden_act=part.activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    return load_clip(make, config, tensors, where)


def from_open_clip(tensors: Tensors) -> Tensors:
    """A text encoder's tensors by transformers' names and layouts; tensors that have other names stay as they are."""
    if "token_embedding.weight" not in tensors:
        return tensors
    converted = {}
    for name, tensor in tensors.items():
        for old, new in OPEN_CLIP.items():
            name = name.replace(old, new)
        if name == "text_projection":
            converted[PROJECTION] = tensor.mT if tensor.dim() == 2 else tensor  # open_clip multiplies from the left
        elif ".in_proj_" in name:
            for letter, third in zip("qkv", torch.atleast_1d(tensor).chunk(3)):
                converted[name.replace(".in_proj_", f".{letter}_proj.")] = third
        else:
            converted[name] = tensor
    return converted
