"""The artifact: one safetensors file that holds an aligned text encoder, and nothing that can run.

Format version 1, or 2 for a checkpoint of several text encoders, "parts", whose vectors stand side by side. Tensors:

    bert.*                 the student, in Hugging Face BertModel names
    proj.weight            (teacher width, student width), optional, with proj.bias
    proj.bias              (window, teacher width), one bias a position, optional
    tokenizer_json         (bytes,) uint8, the serialisation of `tokenizers`
    structure.position0    (teacher width,), optional: the teacher's constant first vector
    structure.empty        (window, teacher width), optional: the teacher's empty prompt
    structure.norms        (window,), in version 2 (window, parts), optional: the teacher's mean norm of each position
    structure.mean         (teacher width,), version 2, optional, with structure.std: what the vectors are multiplied by
    structure.std          and what is added, for a teacher whose hidden states no norm follows
    pooled.*               version 2, with metadata's `pooled`: proj_weight, proj_bias, empty, norms, mean and std of
                           the pooled vector, from the student's first position, shaped as of a window of 1
    skip.*                 optional: proj_weight, proj_bias, position0, empty and norms once more, for the teacher's
                           hidden state before the last (clip skip), behind the student's layer before the last

The header's key `zhclip` holds the metadata below as JSON. Nothing is inferred from names or shapes: what the metadata
does not say is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from . import tokenizer as serialised
from .io import (
    HEADER_LIMIT,
    ArtifactError,
    DamagedArtifactError,
    NotAnArtifactError,
    SafetensorsFile,
    VersionError,
    opened,
    write,
)
from .schema import CorpusInfo, Dimensions, Meta, PartInfo, SpecialIds, TeacherInfo, check, parse

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
    "VersionError",
]

HEADER_KEY = "zhclip"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
# What follows the BERT: a field of Artifact, and its tensor in the file. Each may be there once more, as skip.<field>.
STRUCTURE = {
    "proj_weight": "proj.weight",
    "proj_bias": "proj.bias",
    "position0": "structure.position0",
    "empty": "structure.empty",
    "norms": "structure.norms",
    "mean": "structure.mean",
    "std": "structure.std",
}


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact. `bert` is keyed by Hugging Face BertModel names without the `bert.` prefix."""

    meta: Meta
    bert: dict[str, torch.Tensor]
    tokenizer_json: bytes
    proj_weight: torch.Tensor | None = None  # (teacher width, student width)
    proj_bias: torch.Tensor | None = None  # (window, teacher width)
    position0: torch.Tensor | None = None  # (teacher width,)
    empty: torch.Tensor | None = None  # (window, teacher width)
    norms: torch.Tensor | None = None  # (window,), or (window, parts)
    mean: torch.Tensor | None = None  # (teacher width,)
    std: torch.Tensor | None = None  # (teacher width,)
    pooled: dict[str, torch.Tensor] = field(default_factory=dict)  # some of STRUCTURE, for the pooled vector
    skip: dict[str, torch.Tensor] = field(default_factory=dict)  # some of STRUCTURE, each shaped as its namesake
    path: str = "an artifact in memory"  # where it was read, for messages


def bert_shapes(d: Dimensions) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a BertModel's tensors without its pooler, in transformers' naming."""
    shapes: dict[str, tuple[int, ...]] = {
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


def tensor_shapes(meta: Meta) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Required and optional tensors of a file with this metadata, by name, with their shapes."""
    width, student = meta.teacher.width, meta.dimensions.width
    structure = structure_shapes(width, student, meta.window, len(meta.parts))
    required = {f"bert.{name}": shape for name, shape in bert_shapes(meta.dimensions).items()}
    optional: dict[str, tuple[int, ...]] = {STRUCTURE[name]: shape for name, shape in structure.items()}
    if not meta.parts:
        optional |= {f"skip.{name}": shape for name, shape in structure.items()}
    if meta.pooled:
        pooled = structure_shapes(meta.pooled, student, 1, 1)
        del pooled["position0"]
        optional |= {f"pooled.{name}": shape for name, shape in pooled.items()}
        required["pooled.proj_weight"] = optional.pop("pooled.proj_weight")
    position0 = optional.pop("structure.position0")
    if meta.position0 == "stored":
        required["structure.position0"] = position0
    if width != meta.dimensions.width:
        required["proj.weight"] = optional.pop("proj.weight")
    return required, optional


def structure_shapes(width: int, student: int, window: int, parts: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what follows a student, for a window of vectors `width` wide in so many parts; 0: of version 1."""
    shapes: dict[str, tuple[int, ...]] = {
        "proj_weight": (width, student),
        "proj_bias": (window, width),
        "position0": (width,),
        "empty": (window, width),
        "norms": (window, parts) if parts else (window,),
    }
    return shapes | ({"mean": (width,), "std": (width,)} if parts else {})


def save(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Write the artifact, whole or not at all. Raises DamagedArtifactError for what `load` would refuse, before
    anything is written."""
    tensors = {f"bert.{name}": tensor for name, tensor in artifact.bert.items()}
    tensors["tokenizer_json"] = torch.frombuffer(bytearray(artifact.tokenizer_json), dtype=torch.uint8)
    tensors |= {STRUCTURE[name]: tensor for name in STRUCTURE if (tensor := getattr(artifact, name)) is not None}
    tensors |= {f"skip.{name}": tensor for name, tensor in artifact.skip.items()}
    tensors |= {f"pooled.{name}": tensor for name, tensor in artifact.pooled.items()}
    check(path, artifact.meta)
    check_tensors(path, artifact.meta, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    serialised.check(path, artifact.tokenizer_json, artifact.meta.dimensions.vocabulary)
    check_finite(path, tensors)
    write(tensors, path, _header(artifact.meta))


def load(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact, all tensors on the CPU in the file's own dtypes.

    Raises NotAnArtifactError, DamagedArtifactError or VersionError.
    """
    with opened(path) as file:
        meta = meta_of(file)
        check_tensors(path, meta, {name: entry[:2] for name, entry in file.entries.items()})
        tensors = {name: file.read(name) for name in file.entries}
    check_finite(path, tensors)
    return assemble(path, meta, tensors, tensors["tokenizer_json"].numpy().tobytes())


def assemble(
    path: str | os.PathLike[str], meta: Meta, tensors: dict[str, torch.Tensor], tokenizer_json: bytes
) -> Artifact:
    """The artifact of a file's tensors, which `check_tensors` has passed."""
    return Artifact(
        meta=meta,
        bert={name[len("bert.") :]: tensor for name, tensor in tensors.items() if name.startswith("bert.")},
        tokenizer_json=tokenizer_json,
        **{name: tensors.get(stored) for name, stored in STRUCTURE.items()},
        skip={name: tensors[f"skip.{name}"] for name in STRUCTURE if f"skip.{name}" in tensors},
        pooled={name: tensors[f"pooled.{name}"] for name in STRUCTURE if f"pooled.{name}" in tensors},
        path=str(path),
    )


def is_marked(path: str | os.PathLike[str]) -> bool:
    """Whether the file's header names our key, whatever else is wrong with it: a list of files must show the truncated
    and the newer ones too, so that choosing one explains it. Reads the header alone; never raises on a file's content.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        # A quote inside a JSON string is escaped, so no other file's metadata can spell the key by accident.
        return size <= HEADER_LIMIT and f'"{HEADER_KEY}":'.encode() in file.read(size)


def read_meta(path: str | os.PathLike[str]) -> Meta:
    """Read the metadata alone, without any tensor. Raises as `load` does."""
    with opened(path) as file:
        return meta_of(file)


def meta_of(file: SafetensorsFile) -> Meta:
    """The metadata of an open file. Raises as `load` does."""
    text = file.metadata.get(HEADER_KEY)
    if not isinstance(text, str):
        raise NotAnArtifactError(
            file.path,
            "a safetensors file without ZhCLIP metadata (a checkpoint, a LoRA or another model)",
            "a file that `python -m trainer export` wrote",
            "Choose an aligned encoder, or train one with `python -m trainer run`.",
        )
    return parse(file.path, text)


def check_finite(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN and infinity. Raises DamagedArtifactError."""
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
            continue
        if not all(value.isfinite() for value in tensor.aminmax()):
            raise DamagedArtifactError(
                path, f"{name} with NaN or infinity", "finite numbers", "Train or export it again."
            )
        if name.endswith(".std") and tensor.min() <= 0:
            raise DamagedArtifactError(path, f"{name} of 0 or less", "deviations above 0", "Train or export it again.")


def check_tensors(
    path: str | os.PathLike[str], meta: Meta, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    """Refuse a file of tensors of these dtypes and shapes, by name, under this metadata. Raises DamagedArtifactError
    for what is missing, misshapen or of another dtype, VersionError for what is unknown."""
    # Before a loop over as many layers as the metadata claims.
    if meta.dimensions.layers > len(tensors):
        raise DamagedArtifactError(
            path, f"{len(tensors)} tensors", f"those of {meta.dimensions.layers} layers", "Export it again."
        )
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    required, optional = tensor_shapes(meta)
    if meta.teacher.width != meta.dimensions.width and any(name.startswith("skip.") for name in shapes):
        required["skip.proj_weight"] = optional.pop("skip.proj_weight")
    missing = sorted(({*required, "tokenizer_json"}) - set(shapes))
    if missing:
        raise DamagedArtifactError(
            path, f"no tensor {missing[0]} ({len(missing)} missing)", "every tensor of its metadata", "Export it again."
        )
    unknown = sorted(set(shapes) - {*required, *optional, "tokenizer_json"})
    if unknown:
        raise VersionError(
            path,
            f"unknown tensor {', '.join(unknown[:3])}",
            f"the tensors of format version {meta.format_version}",
            "Update ZhCLIP.",
        )
    for name, shape in {**required, **optional}.items():
        if name in shapes and shapes[name] != shape:
            raise DamagedArtifactError(
                path, f"{name} of shape {shapes[name]}", f"{shape} by its metadata", "Export it again."
            )
    for of in ("structure", "pooled"):
        if (f"{of}.mean" in shapes) != (f"{of}.std" in shapes):
            raise DamagedArtifactError(path, f"one of {of}.mean and {of}.std", "both or neither", "Export it again.")
    for name, (dtype, shape) in tensors.items():
        if (dtype != torch.uint8 or len(shape) != 1) if name == "tokenizer_json" else dtype not in FLOATS:
            raise DamagedArtifactError(path, f"{name} of {dtype}", "bytes or floats, by the format", "Export it again.")


def _header(meta: Meta) -> dict[str, str]:
    """The safetensors header: our key, and the modelspec keys that model managers read.

    Source of the modelspec names: Stability-AI/ModelSpec, version 1.0.1.
    """
    title = f"ZhCLIP {meta.strategy} encoder for {meta.teacher.id}"
    return {
        HEADER_KEY: json.dumps(meta.to_json(), sort_keys=True, ensure_ascii=True),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"zhclip-v{meta.format_version}/text-encoder",
        "modelspec.implementation": "https://github.com/zhclip/zhclip",
        "modelspec.title": f"{title}: open it with Load ZhCLIP Encoder, not with Load CLIP",
        "modelspec.license": meta.licence,
    }
