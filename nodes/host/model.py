"""Checks an encoder against a checkpoint's MODEL and CLIP."""

from __future__ import annotations

from typing import Any

import comfy.model_base

from ...zhclip.artifact import Meta
from ...zhclip.io import ArtifactError
from ...zhclip.models import kind_of
from ...zhclip.vectors import standardise, unit
from ..messages import explained
from .clip import encoder_of

SAME_TEACHER = 0.02  # of `teacher_difference`: rounding to fp16 gives less than 0.001
SIZE_EMBEDDING = 6 * 256  # width of the picture's sizes, which SDXL's UNet reads after the pooled vector


@explained("unfit_file")
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


def teacher_difference(aligned: Any, clip: Any) -> float:
    """1 - cosine between the empty prompt that an encoder's file stores, its teacher's, and that of a checkpoint's own
    CLIP of the same kind, the mean over positions; 0 where the file stores none for the layer that the UNet reads."""
    encoder = encoder_of(aligned)
    meta, structure = encoder.meta, dict(encoder.transformer.structure.named_parameters())
    if "empty" not in structure or meta.teacher.layer != kind_of(meta.keys).parts[0].layer:
        return 0.0
    moments, own = (structure.get("mean"), structure.get("std")), clip.encode_from_tokens(clip.tokenize(""))[0]
    stored, own = (unit(standardise(z.float().cpu(), *moments), meta.widths) for z in (structure["empty"], own))
    return 1 - float((stored * own).sum(dim=-1).mean())
