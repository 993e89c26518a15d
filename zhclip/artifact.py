"""The artifact: one safetensors file that holds an aligned text encoder, and nothing that can run.

Tensors by name, with D the teacher's width (of all its parts), S the student's, W the window and P the parts:

    bert.*                  the student, under the names of transformers' BertModel, without the pooler
    tokenizer.vocabulary    (bytes,) uint8, a JSON list of pieces in the order of their ids
    tokenizer.scores        (pieces,) float32, for a Unigram vocabulary
    tokenizer.charsmap      (bytes,) uint8, for a Unigram vocabulary with a precompiled normalizer
    structure.proj_weight   (D, S), needed where D and S differ
    structure.proj_bias     (W, D), one bias for each position
    structure.position0     (D,), exactly where metadata's `position0` is "stored"
    structure.empty         (W, D), the teacher's output for the empty prompt
    structure.norms         (W, P), the teacher's mean norm at each position
    structure.mean, .std    (D,), both or neither: the moments by which the student's vectors are standardised
    pooled.*                as structure.*, for a window of 1 and the pooled width, without position0
    skip.*                  as structure.*, for the teacher's hidden state before the last (clip skip), without parts

Metadata is JSON under the header's key `zhclip` (schema.py). A tensor that it does not call for is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .io import (
    HEADER_LIMIT,
    ArtifactError,
    DamagedArtifactError,
    NotAnArtifactError,
    VersionError,
    load_tensors,
    read_header,
    read_tensors,
    save_tensors,
)
from .schema import CorpusInfo, Dimensions, Meta, PartInfo, SpecialIds, TeacherInfo, TokenizerInfo, parse
from .tokenizer import build

__all__ = [
    "HEADER_KEY",
    "Artifact",
    "ArtifactError",
    "CorpusInfo",
    "DamagedArtifactError",
    "Dimensions",
    "Meta",
    "NotAnArtifactError",
    "PartInfo",
    "SpecialIds",
    "TeacherInfo",
    "TokenizerInfo",
    "VersionError",
]

HEADER_KEY = "zhclip"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
ANY = -1  # a size that the metadata does not give
Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact: its tensors by group, named without the group's prefix."""

    meta: Meta
    bert: Tensors
    tokenizer: Tensors
    structure: Tensors = field(default_factory=dict)
    pooled: Tensors = field(default_factory=dict)
    skip: Tensors = field(default_factory=dict)
    path: str = "an artifact in memory"  # where it was read, for messages

    def tensors(self) -> Tensors:
        """All tensors by their names in a file."""
        return {f"{group}.{name}": t for group in GROUPS for name, t in getattr(self, group).items()}


GROUPS = ("bert", "tokenizer", "structure", "pooled", "skip")


def bert_shapes(d: Dimensions) -> Shapes:
    """Names and shapes of a BertModel's tensors without its pooler, in transformers' naming."""
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (d.vocabulary, d.width),
        "embeddings.position_embeddings.weight": (d.positions, d.width),
        "embeddings.token_type_embeddings.weight": (d.types, d.width),
        "embeddings.LayerNorm.weight": (d.width,),
        "embeddings.LayerNorm.bias": (d.width,),
    }
    linears = {
        "attention.self.query": (d.width, d.width),
        "attention.self.key": (d.width, d.width),
        "attention.self.value": (d.width, d.width),
        "attention.output.dense": (d.width, d.width),
        "intermediate.dense": (d.intermediate, d.width),
        "output.dense": (d.width, d.intermediate),
    }
    for layer in range(d.layers):
        at = f"encoder.layer.{layer}."
        for name, shape in linears.items():
            shapes[f"{at}{name}.weight"], shapes[f"{at}{name}.bias"] = shape, shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{at}{name}.weight"] = shapes[f"{at}{name}.bias"] = (d.width,)
    return shapes


def structure_shapes(group: str, width: int, student: int, window: int, parts: int) -> Shapes:
    """Shapes of a group's tensors behind a student, for a window of vectors of one width in so many parts."""
    shapes: Shapes = {
        "proj_weight": (width, student),
        "proj_bias": (window, width),
        "position0": (width,),
        "empty": (window, width),
        "norms": (window, parts),
        "mean": (width,),
        "std": (width,),
    }
    return {f"{group}.{name}": shape for name, shape in shapes.items()}


def expected_shapes(meta: Meta) -> tuple[Shapes, Shapes]:
    """Required and optional tensors of a file with this metadata, by name, with their shapes."""
    width, student = meta.teacher.width, meta.dimensions.width
    required: Shapes = {f"bert.{name}": shape for name, shape in bert_shapes(meta.dimensions).items()}
    required["tokenizer.vocabulary"] = (ANY,)
    if meta.tokenizer.kind == "unigram":
        required["tokenizer.scores"] = (ANY,)
        if meta.tokenizer.normalizer == "precompiled":
            required["tokenizer.charsmap"] = (ANY,)
    optional = structure_shapes("structure", width, student, meta.window, len(meta.parts))
    position0 = optional.pop("structure.position0")
    if meta.position0 == "stored":
        required["structure.position0"] = position0
    if width != student:
        required["structure.proj_weight"] = optional.pop("structure.proj_weight")
    if meta.pooled:
        optional |= structure_shapes("pooled", meta.pooled, student, 1, 1)
        del optional["pooled.position0"]
        required["pooled.proj_weight"] = optional.pop("pooled.proj_weight")
    if len(meta.parts) == 1:
        optional |= structure_shapes("skip", width, student, meta.window, 1)
    return required, optional


def save(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Write the artifact, whole or not at all. Raises ArtifactError for what `load` would refuse, before anything is
    written."""
    text, tensors = artifact.meta.to_json(), artifact.tensors()
    meta = parse(path, text)
    check_tensors(path, meta, tensors)
    build(path, meta.tokenizer, meta.special_ids, artifact.tokenizer, meta.dimensions.vocabulary)
    save_tensors(path, tensors, _header(meta, text))


def load(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact, all tensors on the CPU in the file's dtypes.

    Raises NotAnArtifactError, DamagedArtifactError or VersionError.
    """
    read_meta(path)  # refuses another kind of file before its gigabytes are read
    metadata, tensors = load_tensors(path)
    meta = _parse(path, metadata)
    check_tensors(path, meta, tensors)
    groups: dict[str, Tensors] = {group: {} for group in GROUPS}
    for name, tensor in tensors.items():
        group, _, own = name.partition(".")
        groups[group][own] = tensor
    return Artifact(meta, **groups, path=str(path))


def read_meta(path: str | os.PathLike[str]) -> Meta:
    """Read the metadata alone, without any tensor. Raises as `load` does."""
    return _parse(path, read_header(path).metadata)


def read_tokenizer(path: str | os.PathLike[str]) -> tuple[Meta, Tensors]:
    """Read the metadata and the tokenizer's tensors alone. Raises as `load` does."""
    meta = read_meta(path)
    return meta, {name[len("tokenizer.") :]: t for name, t in read_tensors(path, "tokenizer.").items()}


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether the file's header names our key, whatever else is wrong with it: a list of files must show truncated and
    newer ones too, so that choosing one explains it. Never raises on a file's content."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        # A quote inside a JSON string is escaped, so no other file's metadata can spell the key by accident.
        return size <= HEADER_LIMIT and f'"{HEADER_KEY}":'.encode() in file.read(size)


def _parse(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> Meta:
    text = metadata.get(HEADER_KEY)
    if not isinstance(text, str):
        raise NotAnArtifactError(
            path,
            "a safetensors file without ZhCLIP metadata (a checkpoint, a LoRA or another model)",
            "a file that `python -m trainer export` wrote",
            "Choose an aligned encoder, or train one with `python -m trainer run`.",
        )
    return parse(path, text)


def check_tensors(path: str | os.PathLike[str], meta: Meta, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that do not fit the metadata. Raises DamagedArtifactError for what is missing, misshapen, of
    another dtype or not finite, VersionError for what is unknown."""
    required, optional = expected_shapes(meta)
    has_skip = any(name.startswith("skip.") for name in tensors)
    if has_skip and "skip.proj_weight" in optional and "structure.proj_weight" in required:
        required["skip.proj_weight"] = optional.pop("skip.proj_weight")
    missing = sorted(set(required) - set(tensors))
    if missing:
        raise _damaged(path, f"no tensor {missing[0]} ({len(missing)} missing)", "every tensor of its metadata")
    unknown = sorted(set(tensors) - {*required, *optional})
    if unknown:
        expected = "the tensors that its metadata names"
        raise VersionError(path, f"unknown tensor {', '.join(unknown[:3])[:200]}", expected, "Update ZhCLIP.")
    shapes = {**required, **optional}
    for name, tensor in tensors.items():
        shape = shapes[name]
        if len(shape) != tensor.dim() or any(size not in (ANY, own) for size, own in zip(shape, tensor.shape)):
            raise _damaged(path, f"{name} of shape {tuple(tensor.shape)}", f"{shape} by its metadata")
        wanted = (torch.uint8,) if name in ("tokenizer.vocabulary", "tokenizer.charsmap") else FLOATS
        if tensor.dtype not in wanted:
            raise _damaged(path, f"{name} of {tensor.dtype}", " or ".join(map(str, wanted)))
        _check_values(path, name, tensor)
    for group in ("structure", "pooled", "skip"):
        if (f"{group}.mean" in tensors) != (f"{group}.std" in tensors):
            raise _damaged(path, f"one of {group}.mean and {group}.std", "both or neither")


def _check_values(path: str | os.PathLike[str], name: str, tensor: torch.Tensor) -> None:
    if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
        return
    least, most = tensor.aminmax()
    if not (least.isfinite() and most.isfinite()):
        raise _damaged(path, f"{name} with NaN or infinity", "finite numbers")
    if name.endswith(".std") and least <= 0:
        raise _damaged(path, f"{name} of 0 or less", "deviations above 0")


def _damaged(path: str | os.PathLike[str], found: str, expected: str) -> DamagedArtifactError:
    return DamagedArtifactError(path, found, expected, "Export it again.")


def _header(meta: Meta, text: str) -> dict[str, str]:
    """The safetensors header: our key, and the modelspec keys that model managers read.

    Source of the modelspec names: Stability-AI/ModelSpec, version 1.0.1.
    """
    title = f"ZhCLIP {meta.strategy} encoder for {meta.teacher.id}"
    return {
        HEADER_KEY: text,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "zhclip-v1/text-encoder",
        "modelspec.implementation": "https://github.com/zhclip/zhclip",
        "modelspec.title": f"{title}: open it with Load ZhCLIP Encoder, not with Load CLIP",
        "modelspec.license": meta.licence,
    }
