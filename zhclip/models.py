"""The kinds of checkpoint whose text encoders an aligned one takes the place of: a row each. Trainer and nodes read the
rows, and neither asks for a kind by name."""

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


class Kind(NamedTuple):
    """A family of checkpoints. Their parts' vectors stand side by side in the conditioning. `pooled`: whether the UNet
    reads the last part's projected vector at the end token too."""

    name: str
    parts: tuple[Part, ...]
    pooled: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the parts' tokens."""
        return tuple(part.key for part in self.parts)


SD15 = Kind(
    "Stable Diffusion 1.5",
    (Part("l", "text_encoder", -1, True, None, "cond_stage_model.transformer.", "quick_gelu"),),
    False,
)
# Source: the pipeline's own, and core's comfy/sdxl_clip.py.
SDXL = Kind(
    "SDXL",
    (
        Part("l", "text_encoder", -2, False, None, "conditioner.embedders.0.transformer.", "quick_gelu"),
        Part("g", "text_encoder_2", -2, False, 0, "conditioner.embedders.1.model.", "gelu"),
    ),
    True,
)
KINDS = (SD15, SDXL)


def kind_of(keys: tuple[str, ...]) -> Kind:
    """The kind whose tokens have these names. Raises KeyError."""
    for kind in KINDS:
        if kind.keys == keys:
            return kind
    raise KeyError(keys)
