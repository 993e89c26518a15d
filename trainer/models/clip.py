"""CLIP text encoders from a folder or from a checkpoint file.

A checkpoint file names CLIP-L's tensors as transformers does, and bigG's as open_clip does.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zhclip.bert import Bert
from zhclip.models import KINDS, SD15, CheckpointKind, Part

from .load import (
    CHECKPOINTS,
    ModelError,
    Tensors,
    load_bert,
    model_errors,
    read_config,
    read_tensors,
    text_encoder_tensors,
)

Clip: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection
CLIP_TOKENS, PROJECTION = "embeddings.token_embedding.weight", "text_projection.weight"
POSITIONS, INTERMEDIATE = "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
CLIP_TYPES = ("clip", "clip_text_model")
PREFIXES = tuple(part.prefix for kind in KINDS for part in kind.parts)  # of text encoders in checkpoint files
HEAD_WIDTH = 64  # width of an attention head in every published CLIP text encoder
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


def clip_config(kind: CheckpointKind, folder: Path, flag: str) -> CLIPTextConfig | None:
    """Configuration of a folder's CLIP text encoder; None for a BERT. Raises ModelError for other models."""
    known = CLIP_TYPES if len(kind.parts) > 1 else (*CLIP_TYPES, "bert")
    model_type = read_config(folder, flag).get("model_type")
    if model_type not in known:
        raise ModelError(f"--{flag} {folder}: model_type is {model_type!r}; a teacher is one of {', '.join(known)}")
    with model_errors(f"--{flag} {folder}: its config.json cannot be used"):
        # Of a whole CLIPModel this reads its text_config.
        return None if model_type == "bert" else CLIPTextConfig.from_pretrained(folder, dtype="float32")


def load_clip(kind: CheckpointKind, part: Part, config: CLIPTextConfig, tensors: Tensors | None) -> Clip:
    """A part's text encoder from `clip_tensors`, the last one of a kind with a pooled vector with its projection; with
    random numbers without tensors. Raises RuntimeError, which names what is missing or has another shape."""
    model_class = CLIPTextModelWithProjection if kind.pooled and part == kind.parts[-1] else CLIPTextModel
    if tensors is None:
        return model_class(config)
    with torch.device("meta"):
        model = model_class(config)
    names = {name: name.removeprefix("text_model.") for name in model.state_dict()}  # transformers 5 dropped the prefix
    model.load_state_dict({name: tensors[bare] for name, bare in names.items() if bare in tensors}, assign=True)
    for module in model.modules():
        if hasattr(module, "position_ids"):  # in no file, and without values on the meta device
            module.position_ids = torch.arange(config.max_position_embeddings)[None]
    return model


def clip_tensors(tensors: Tensors) -> Tensors:
    """The tensors of a CLIP text encoder by transformers' names without prefix, and of its projection, in fp32."""
    projection = {PROJECTION: tensors[PROJECTION].to(torch.float32, copy=True)} if PROJECTION in tensors else {}
    return text_encoder_tensors(tensors, CLIP_TOKENS) | projection


def load_folder(kind: CheckpointKind, part: Part, folder: Path, flag: str, weights: bool) -> Clip | Bert:
    """A part's text encoder in Hugging Face layout; without `weights` with random numbers. Raises ModelError."""
    config = clip_config(kind, folder, flag)
    if config is None:
        return load_bert(folder, flag, weights)
    tensors = clip_tensors(read_tensors(folder, flag)) if weights else None
    with model_errors(f"--{flag} {folder}: its weights and config.json are not those of a CLIP text encoder"):
        return load_clip(kind, part, config, tensors)


def load_checkpoint(path: Path, flag: str) -> tuple[CheckpointKind, tuple[Clip, ...]]:
    """The kind of a checkpoint file and its text encoders, of which alone a safetensors file is read.

    Raises ModelError if one of them is missing or incomplete.
    """
    if path.suffix not in CHECKPOINTS:
        raise ModelError(f"--{flag} {path}: not a checkpoint file ({', '.join(CHECKPOINTS)})")
    tensors = read_tensors(path, flag, PREFIXES)
    kind = checkpoint_kind(tensors)
    encoders = []
    for part in kind.parts:
        own = {name.removeprefix(part.prefix): t for name, t in tensors.items() if name.startswith(part.prefix)}
        with model_errors(f"--{flag} {path}: no whole CLIP text encoder of {kind.name} at {part.prefix}*"):
            own = own or (tensors if kind is SD15 else {})  # a file of the text encoder alone
            own = clip_tensors(from_open_clip(own))
            encoders.append(load_clip(kind, part, config_of(part, own), own))
    return kind, tuple(encoders)


def checkpoint_kind(names: Collection[str]) -> CheckpointKind:
    """The kind of checkpoint with these tensors; SD15 for a text encoder alone."""
    kinds = (kind for kind in KINDS for part in kind.parts if any(name.startswith(part.prefix) for name in names))
    return next(kinds, SD15)


def config_of(part: Part, tensors: Tensors) -> CLIPTextConfig:
    """The configuration that a checkpoint file lacks: tensors give all but the heads and the activation. Raises
    KeyError, TypeError or ValueError for tensors that are missing or no matrices."""
    vocabulary, width = tensors[CLIP_TOKENS].shape
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(tensors[INTERMEDIATE]),
        num_hidden_layers=sum(name.endswith("mlp.fc1.weight") for name in tensors),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        max_position_embeddings=len(tensors[POSITIONS]),
        projection_dim=len(tensors[PROJECTION]) if PROJECTION in tensors else width,
        hidden_act=part.activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )


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
