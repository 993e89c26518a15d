"""An artifact as a stock CLIP object.

Core brings a BERT (comfy.text_encoders.bert), the frame that runs it (SDClipModel) and the object that every node knows
(comfy.sd.CLIP). What is added in this folder: the artifact's own tokenizer and windows, and its output structure.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget

from ...zhclip.artifact import Artifact, check_finite
from ...zhclip.memory import allot
from ...zhclip.tokens import PromptTokenizer
from .bert import structures
from .encoder import WindowEncoder
from .parts import PartsModel, PartsTokenizer
from .tokenizer import WindowTokenizer


def load_clip(path: str, changes: dict[str, Any] | None = None, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Read an artifact and meanwhile build its CLIP. `changes` are fields of the Artifact that replace what the file
    says, as a calibration makes them. `disable_dynamic` is what versions of ComfyUI since 2026 ask for, and is unknown
    to older ones. Raises ArtifactError.
    """
    device = comfy.model_management.text_encoder_device()
    dtype = comfy.model_management.text_encoder_dtype(device)
    artifact, fills = allot(path, dtype)
    artifact = dataclasses.replace(artifact, **changes or {})
    left = iter(fills)

    def fill() -> None:
        for part in left:
            part()

    with ThreadPoolExecutor(1) as thread:  # a second gains nothing
        filling = thread.submit(fill)

        def wait() -> None:
            fill()
            filling.result()

        encoder = functools.partial(WindowEncoder, artifact, path, wait)
        clip = _clip(artifact, encoder, comfy.model_management.supports_cast(device, dtype), disable_dynamic)
        if clip.patcher.load_device.type == "cpu":
            # Core places its own CLIPs at this point too; left to the first prompt, that takes a twentieth longer.
            # Nothing is copied there, so it need not wait for the weights.
            clip.load_model()
        wait()
    check_finite(path, {f"bert.{name}": tensor for name, tensor in artifact.bert.items()})
    encoder_of(clip).changes = changes or {}
    # Hooks and several GPUs build the model again from this.
    clip.patcher.cached_patcher_init = (load_patcher, (path, changes))
    return clip


def _clip(
    artifact: Artifact, encoder: Callable[..., WindowEncoder], castable: bool, disable_dynamic: bool
) -> comfy.sd.CLIP:
    """Core's CLIP around an encoder that core makes, loaded with the artifact's weights. `castable` says whether the
    device that core chose casts the dtype that it chose; where it does not, core moves the model before it is loaded.
    """
    weights = {f"bert.{name}": tensor for name, tensor in artifact.bert.items()}
    for at, structure in structures(artifact).items():
        weights |= {f"{at}.{name}": tensor for name, tensor in structure.tensors().items()}
    tokenizer = functools.partial(WindowTokenizer, PromptTokenizer.of(artifact))
    target = ClipTarget(
        functools.partial(PartsTokenizer, artifact.meta.keys, tokenizer=tokenizer),
        functools.partial(PartsModel, clip_model=encoder),
    )
    # No embedding_directory: an inversion made for SD1.5 is 768 wide too, and would enter a BERT's input unnoticed.
    options: dict[str, Any] = {"embedding_directory": None, "parameters": sum(t.numel() for t in weights.values())}
    if castable:  # all weights are replaced, so none need memory until then
        options["model_options"] = {"initial_device": torch.device("meta")}
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in known:
        options["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:
        clip = comfy.sd.CLIP(target, state_dict=[weights], **options)
    else:
        clip = comfy.sd.CLIP(target, **options)
        clip.load_sd(weights)
    return clip


def load_patcher(path: str, changes: dict[str, Any] | None = None, disable_dynamic: bool = False) -> Any:
    """The model patcher of `load_clip`."""
    return load_clip(path, changes, disable_dynamic).patcher


def load_in_place_of(clip: comfy.sd.CLIP, path: str, changes: dict[str, Any] | None = None) -> comfy.sd.CLIP:
    """`load_clip`, with the layer that a CLIP Set Last Layer behind the other one chose."""
    loaded = load_clip(path, changes)
    loaded.layer_idx = clip.layer_idx
    return loaded


def is_aligned(clip: Any) -> bool:
    """Whether the CLIP holds an aligned encoder, and not a checkpoint's own."""
    return isinstance(_text_encoder(clip), WindowEncoder)


def encoder_of(clip: Any) -> WindowEncoder:
    """The aligned encoder inside a CLIP. Raises ValueError for another kind of CLIP."""
    encoder = _text_encoder(clip)
    if not isinstance(encoder, WindowEncoder):
        raise ValueError(
            f"This CLIP is not a ZhCLIP encoder (it is a {type(encoder or clip).__name__}): connect the output of "
            "Load ZhCLIP Encoder here."
        )
    return encoder


def _text_encoder(clip: Any) -> Any:
    return getattr(getattr(clip, "cond_stage_model", None), "clip_l", None)


def tokenizer_of(clip: Any) -> PromptTokenizer:
    """The tokenizer of an aligned encoder's CLIP."""
    return clip.tokenizer.clip_l.prompt


def place(clip: Any, other: Any) -> torch.device:
    """Load two CLIPs at once. Returns the device of the first."""
    comfy.model_management.load_models_gpu([clip.patcher, other.patcher])
    return clip.patcher.load_device


def has_lora(clip: Any) -> bool:
    """Whether patches lie on the CLIP's weights."""
    return bool(clip.patcher.patches)


def layer_in_use(clip: Any) -> str:
    """Which hidden state CLIP Set Last Layer left in use, and whether the artifact was trained for it."""
    encoder, chosen = encoder_of(clip), clip.layer_idx
    bert, own = encoder.transformer, encoder.meta.teacher.layer
    layer = -1 if chosen is None else encoder.layer_for(chosen)
    # Of a teacher's last layer the student's numbers are the teacher's.
    of = str(bert.num_layers) if own == -1 else f"{bert.num_layers}, for layer {own + layer + 1} of the teacher"
    if bert.is_last(layer):
        other = "; the file has a target for the layer before it too (clip skip)" if bert.skip is not None else ""
        return f"the last of {of}{other}"
    if bert.skip is not None and bert.is_skip(layer):
        return f"{layer} of {of}, which the file was trained for"
    return f"{layer} of {of}, which the file has no target for: its states go through what the last was trained for"
