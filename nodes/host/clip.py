"""Loads an artifact as ComfyUI's own CLIP object.

Core provides the BERT (comfy.text_encoders.bert), the text encoder around it (SDClipModel) and comfy.sd.CLIP. This
folder adds the artifact's tokenizer and windows, and its output structure.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget

from ...zhclip.artifact import load
from ...zhclip.io import ArtifactError
from ...zhclip.models import absolute_layer
from ...zhclip.structure import structures
from ...zhclip.tokens import PromptTokenizer
from ..messages import explained, message
from .encoder import PartsModel, WindowEncoder
from .tokenizer import PartsTokenizer, WindowTokenizer


@explained("unusable_file")
def load_clip(path: str, overrides: dict[str, Any] | None = None, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Read an artifact and build its CLIP. `overrides` are fields of the Artifact that replace the file's, as a
    calibration makes them. `disable_dynamic` is an argument of ComfyUI's own loaders since 2026. Raises ArtifactError.
    """
    artifact = dataclasses.replace(load(path), **overrides or {})
    dtype = comfy.model_management.text_encoder_dtype(comfy.model_management.text_encoder_device())
    weights = {f"bert.{name}": tensor.to(dtype) for name, tensor in artifact.bert.items()}
    for module, structure in structures(artifact).items():
        named = structure.tensors().items()
        weights |= {f"{module}.{name}": tensor.to(torch.float32, copy=True) for name, tensor in named}
    tokenizer = functools.partial(WindowTokenizer, PromptTokenizer.from_artifact(artifact))
    target = ClipTarget(
        functools.partial(PartsTokenizer, artifact.meta.keys, tokenizer=tokenizer),
        functools.partial(PartsModel, clip_model=functools.partial(WindowEncoder, artifact)),
    )
    # No embedding_directory: an inversion made for SD1.5 is 768 wide too, and would enter a BERT's input unnoticed.
    options: dict[str, Any] = {"embedding_directory": None, "parameters": sum(t.numel() for t in weights.values())}
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in known:
        options["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:  # of 2026, where weights must be given here
        clip = comfy.sd.CLIP(target, state_dict=[weights], **options)
    else:
        clip = comfy.sd.CLIP(target, **options)
        clip.load_sd(weights)
    encoder = encoder_of(clip)
    mismatched = sorted(set(encoder.transformer.state_dict()) ^ set(weights))
    if mismatched:  # core only logs it
        found = f"tensors that do not match core's BERT ({', '.join(mismatched[:3])})"
        raise ArtifactError(path, found, "the same names", "Update ZhCLIP.")
    encoder.overrides = overrides or {}
    # Hooks and several GPUs build the model again from this.
    clip.patcher.cached_patcher_init = (load_patcher, (path, overrides))
    return clip


def load_patcher(path: str, overrides: dict[str, Any] | None = None, disable_dynamic: bool = False) -> Any:
    """The model patcher of `load_clip`."""
    return load_clip(path, overrides, disable_dynamic).patcher


def load_in_place_of(clip: comfy.sd.CLIP, path: str, overrides: dict[str, Any] | None = None) -> comfy.sd.CLIP:
    """`load_clip`, with the layer that CLIP Set Last Layer chose for another CLIP."""
    loaded = load_clip(path, overrides)
    loaded.layer_idx = clip.layer_idx
    return loaded


def is_aligned(clip: Any) -> bool:
    """Whether the CLIP holds an aligned encoder, and not a checkpoint's own."""
    return isinstance(_text_encoder(clip), WindowEncoder)


def encoder_of(clip: Any) -> WindowEncoder:
    """The aligned encoder inside a CLIP. Raises ValueError for another kind of CLIP."""
    encoder = _text_encoder(clip)
    if not isinstance(encoder, WindowEncoder):
        raise ValueError(message("not_zhclip", found=type(encoder or clip).__name__))
    return encoder


def _text_encoder(clip: Any) -> Any:
    return getattr(getattr(clip, "cond_stage_model", None), "clip_l", None)


def tokenizer_of(clip: Any) -> PromptTokenizer:
    """The tokenizer of an aligned encoder's CLIP."""
    return clip.tokenizer.clip_l.prompt


def load_together(clip: Any, other: Any) -> torch.device:
    """Load two CLIPs at once. Returns the device of the first."""
    comfy.model_management.load_models_gpu([clip.patcher, other.patcher])
    return clip.patcher.load_device


def has_lora(clip: Any) -> bool:
    """Whether patches lie on the CLIP's weights."""
    return bool(clip.patcher.patches)


def layer_in_use(clip: Any) -> str:
    """Which hidden state CLIP Set Last Layer left in use, and whether the artifact was trained for it."""
    encoder = encoder_of(clip)
    bert, own = encoder.transformer, encoder.meta.teacher.layer
    layer = -1 if clip.layer_idx is None else encoder.student_layer(clip.layer_idx)
    # Of a teacher's last layer the student's numbers are the teacher's.
    named = message("layer_of", layer=layer, layers=bert.num_layers)
    named += "" if own == -1 else message("layer_of_teacher", layer=absolute_layer(layer, own))
    if bert.is_last(layer) or (bert.skip is not None and bert.is_skip(layer)):
        return named + message("layer_is_trained")
    return named + message("layer_has_no_target")
