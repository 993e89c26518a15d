"""Checks an encoder against a MODEL."""

from __future__ import annotations

from typing import Any

import comfy.model_base

from ...zhclip.artifact import Meta
from ...zhclip.io import ArtifactError

SIZE_EMBEDDING = 6 * 256  # width of the picture's sizes, which SDXL's UNet reads after the pooled vector


def require_fit(path: str, meta: Meta, model: Any) -> None:
    """Raise ArtifactError unless the encoder's output and pooled vector are as wide as the MODEL reads them."""
    config, kind = model.model.model_config.unet_config, type(model.model.model_config).__name__
    width, pooled = config.get("context_dim"), 0
    if isinstance(model.model, comfy.model_base.SDXL):
        pooled = config.get("adm_in_channels", SIZE_EMBEDDING) - SIZE_EMBEDDING
    if meta.teacher.width != width:
        found = f"an encoder whose output is {meta.teacher.width} wide"
        expected = f"the context of the connected MODEL ({kind}), {width or 'an unknown number of values'} wide"
    elif meta.pooled != pooled:
        found, expected = (f"a pooled vector {n} wide" if n else "no pooled vector" for n in (meta.pooled, pooled))
        found, expected = f"an encoder with {found}", f"{expected}, as the connected MODEL ({kind}) reads"
    else:
        return
    raise ArtifactError(
        path,
        f"{found} (teacher {meta.teacher.id})",
        expected,
        "Choose an encoder that was aligned to this kind of model, or connect a checkpoint of the encoder's own kind.",
    )
