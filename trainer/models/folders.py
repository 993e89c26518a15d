"""A teacher's text encoders from a folder: a bare CLIP or BERT in Hugging Face layout, or a diffusers pipeline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from transformers import CLIPTextConfig

from zhclip.bert import Bert
from zhclip.models import CheckpointKind, Part

from . import clip_checkpoint as clip
from .bert import ANCHOR, dimensions_from_config, require_gelu
from .download import parts_of, text_encoder
from .load import ModelError, load_strict, read_config, read_tensors, stand_in, under_anchor

Make = Callable[[], clip.Clip | Bert]


def encoders_of_folder(
    model: str, folder: Path, flag: str, weights: bool
) -> tuple[CheckpointKind, tuple[clip.Clip | Bert, ...]]:
    """The kind of checkpoint that a model is of, whose small files lie in `folder`, and its text encoders; without
    `weights` their shapes alone, for which no weights are downloaded. Raises ModelError."""
    kind, folders = parts_of(folder, flag)
    makes = [_make(kind, part, own, flag) for part, own in zip(kind.parts, folders)]  # before gigabytes are downloaded
    if not weights:
        return kind, tuple(stand_in(make) for make, _ in makes)
    text_encoder(model, flag)
    return kind, tuple(_loaded(*make, own, flag) for make, own in zip(makes, folders))


def _make(kind: CheckpointKind, part: Part, folder: Path, flag: str) -> tuple[Make, str]:
    """What makes the module that a folder's config.json describes, and the anchor of its tensors."""
    config = read_config(folder, flag)
    model_type = config.get("model_type")
    if model_type in ("clip", "clip_text_model"):
        text = config.get("text_config", config) if model_type == "clip" else config
        return functools.partial(clip.clip_class(kind, part), CLIPTextConfig(**_arguments(text))), clip.ANCHOR
    if model_type == "bert" and len(kind.parts) == 1:
        require_gelu(config, f"--{flag} {folder}")
        return functools.partial(Bert, dimensions_from_config(config)), ANCHOR
    bert = " or bert" if len(kind.parts) == 1 else ""
    raise ModelError(f"--{flag} {folder}: model_type is {model_type!r}; a teacher is clip, clip_text_model{bert}")


def _loaded(make: Make, anchor: str, folder: Path, flag: str) -> clip.Clip | Bert:
    tensors = read_tensors(folder, flag)
    own = clip.named(tensors) if anchor == clip.ANCHOR else under_anchor(tensors, anchor)
    return load_strict(make, own, anchor, f"--{flag} {folder}")


def _arguments(config: dict) -> dict:
    return {
        k: v
        for k, v in config.items()
        if k not in ("architectures", "model_type", "transformers_version", "dtype", "torch_dtype")
    }
