"""The kinds of checkpoint that an aligned encoder can serve, and how each one's UNet reads its text encoders."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """One of a checkpoint's text encoders, and how the UNet wants it run."""

    key: str  # ComfyUI's name of its tokens
    folder: str  # of a diffusers pipeline
    layer: int  # the hidden state that the UNet reads, -1 the last
    final_norm: bool  # whether that state goes through the encoder's last norm
    pad: int | None  # the id behind the end token; None: the end token's own
    prefix: str  # of its tensors' names in a checkpoint file
    activation: str  # of its layers, by transformers' name: a checkpoint file does not say it


class CheckpointKind(NamedTuple):
    """A family of checkpoints. The vectors of its parts are concatenated. `pooled`: whether the UNet also reads the
    last part's projected vector at the end token."""

    name: str
    parts: tuple[Part, ...]
    pooled: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """ComfyUI's names of the parts' tokens."""
        return tuple(part.key for part in self.parts)


SD15 = CheckpointKind(
    "Stable Diffusion 1.5",
    (Part("l", "text_encoder", -1, True, None, "cond_stage_model.transformer.", "quick_gelu"),),
    False,
)
# Source: the pipeline's own, and core's comfy/sdxl_clip.py.
SDXL = CheckpointKind(
    "SDXL",
    (
        Part("l", "text_encoder", -2, False, None, "conditioner.embedders.0.transformer.", "quick_gelu"),
        Part("g", "text_encoder_2", -2, False, 0, "conditioner.embedders.1.model.", "gelu"),
    ),
    True,
)
KINDS = (SD15, SDXL)


def kind_of(keys: tuple[str, ...]) -> CheckpointKind:
    """The kind whose tokens have these names. Raises KeyError."""
    return {kind.keys: kind for kind in KINDS}[keys]


def absolute_layer(layer: int, target: int) -> int:
    """A hidden state's number among all of an encoder, -1 the last, for `layer`, which counts from the state `target`:
    -1 is the target itself and -2 the state before it. Both count from the first state alike: 0 and above."""
    return target + 1 + layer if layer < 0 else layer


def relative_layer(layer: int, target: int) -> int:
    """The inverse of `absolute_layer`: a hidden state's number counted from the state `target`."""
    return layer - target - 1 if layer < 0 else layer
