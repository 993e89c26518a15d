"""The artifact: one safetensors file that holds an aligned text encoder, and nothing that can run.

Format version 1. Tensors:

    bert.*                 the student, in Hugging Face BertModel names
    proj.weight            (teacher width, student width), optional, with proj.bias
    proj.bias              (window, teacher width), one bias a position, optional
    tokenizer_json         (bytes,) uint8, the serialisation of `tokenizers`
    structure.position0    (teacher width,), optional: the teacher's constant first vector
    structure.empty        (window, teacher width), optional: the teacher's empty prompt
    structure.norms        (window,), optional: the teacher's mean norm of each position
    skip.*                 optional: proj_weight, proj_bias, position0, empty and norms once more, for the teacher's
                           hidden state before the last (clip skip), behind the student's layer before the last

The header's key `zhclip` holds the metadata below as JSON. Nothing is inferred from names or shapes: what the metadata
does not say is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from .files import ArtifactError, DamagedArtifactError, NotAnArtifactError, VersionError, opened, write

FORMAT_VERSION = 1
HEADER_KEY = "zhclip"
HEADER_LIMIT = 100_000_000  # bytes, as safetensors itself has it: more is another kind of file
# What follows the BERT: a field of Artifact, and its tensor in the file. Each may be there once more, as skip.<field>.
STRUCTURE = {
    "proj_weight": "proj.weight",
    "proj_bias": "proj.bias",
    "position0": "structure.position0",
    "empty": "structure.empty",
    "norms": "structure.norms",
}


@dataclass(frozen=True)
class Dimensions:
    """The student BERT's shape."""

    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int
    layer_norm_eps: float


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that frame a window."""

    start: int
    end: int
    pad: int
    unknown: int


@dataclass(frozen=True)
class TeacherInfo:
    """Which encoder the targets came from. `layer` is the hidden state used, -1 the last."""

    id: str
    sha256: str
    layer: int
    width: int


@dataclass(frozen=True)
class CorpusInfo:
    """The cleaned training pairs."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Meta:
    """Everything that a reader must know and cannot see in the tensors.

    `position0` is "stored" when the teacher's first vector is the same for every prompt and replaces the student's,
    "learnt" when the student's own output stands. `mask_padding` says whether padded positions are masked as keys.
    `report` is the evaluation's report.json and `recipe` the resolved training settings, both plain JSON. `folding`
    maps single characters that the vocabulary lacks to variants that it has.
    """

    dimensions: Dimensions
    special_ids: SpecialIds
    window: int
    mask_padding: bool
    position0: str
    teacher: TeacherInfo
    strategy: str
    corpus: CorpusInfo
    licence: str
    recipe: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    folding: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


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
    norms: torch.Tensor | None = None  # (window,)
    skip: dict[str, torch.Tensor] = field(default_factory=dict)  # some of STRUCTURE, each shaped as its namesake


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
    width, window = meta.teacher.width, meta.window
    structure = {
        "proj_weight": (width, meta.dimensions.width),
        "proj_bias": (window, width),
        "position0": (width,),
        "empty": (window, width),
        "norms": (window,),
    }
    required = {f"bert.{name}": shape for name, shape in bert_shapes(meta.dimensions).items()}
    optional: dict[str, tuple[int, ...]] = {STRUCTURE[name]: shape for name, shape in structure.items()}
    optional |= {f"skip.{name}": shape for name, shape in structure.items()}
    position0 = optional.pop("structure.position0")
    if meta.position0 == "stored":
        required["structure.position0"] = position0
    if width != meta.dimensions.width:
        required["proj.weight"] = optional.pop("proj.weight")
    return required, optional


def save(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Write the artifact, whole or not at all. Raises DamagedArtifactError when the tensors do not fit the metadata,
    before anything is written."""
    tensors = {f"bert.{name}": tensor for name, tensor in artifact.bert.items()}
    tensors["tokenizer_json"] = torch.frombuffer(bytearray(artifact.tokenizer_json), dtype=torch.uint8)
    tensors |= {STRUCTURE[name]: tensor for name in STRUCTURE if (tensor := getattr(artifact, name)) is not None}
    tensors |= {f"skip.{name}": tensor for name, tensor in artifact.skip.items()}
    check_tensors(path, artifact.meta, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    write(tensors, path, _header(artifact.meta))


def load(path: str | os.PathLike[str]) -> Artifact:
    """Map an artifact, all tensors on the CPU in the file's own dtypes, each read when it is used.

    Raises NotAnArtifactError, DamagedArtifactError or VersionError.
    """
    meta, tensors = read_meta(path), mapped(path)
    check_tensors(path, meta, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return assemble(meta, tensors, tensors["tokenizer_json"].numpy().tobytes())


def mapped(path: str | os.PathLike[str], names: list[str] | None = None) -> dict[str, torch.Tensor]:
    """Some or all of a file's tensors by name, each read when it is used. Raises as `read_meta` does for what is no
    whole safetensors file."""
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in names or file.keys()}


def assemble(meta: Meta, tensors: dict[str, torch.Tensor], tokenizer_json: bytes) -> Artifact:
    """The artifact of a file's tensors, which `check_tensors` has passed."""
    return Artifact(
        meta=meta,
        bert={name[len("bert.") :]: tensor for name, tensor in tensors.items() if name.startswith("bert.")},
        tokenizer_json=tokenizer_json,
        **{name: tensors.get(stored) for name, stored in STRUCTURE.items()},
        skip={name: tensors[f"skip.{name}"] for name in STRUCTURE if f"skip.{name}" in tensors},
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
        header = file.metadata() or {}
    if HEADER_KEY not in header:
        raise NotAnArtifactError(
            path,
            "a safetensors file without ZhCLIP metadata (a checkpoint, a LoRA or another model)",
            "a file that `python -m trainer export` wrote",
            "Choose an aligned encoder, or train one with `python -m trainer run`.",
        )
    try:
        return _parse(path, json.loads(header[HEADER_KEY]))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise DamagedArtifactError(
            path, f"metadata that cannot be read ({error})", "format version 1", "Export the file again."
        ) from error


def _parse(path: str | os.PathLike[str], raw: dict[str, Any]) -> Meta:
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise VersionError(path, f"format version {version}", f"version {FORMAT_VERSION}", "Update ZhCLIP.")
    unknown = sorted(set(raw) - {f.name for f in fields(Meta)})
    if unknown:
        raise VersionError(path, f"unknown metadata {', '.join(unknown)}", "format version 1 alone", "Update ZhCLIP.")
    parts = {"dimensions": Dimensions, "special_ids": SpecialIds, "teacher": TeacherInfo, "corpus": CorpusInfo}
    meta = Meta(**{**raw, **{name: kind(**raw[name]) for name, kind in parts.items()}})
    if meta.position0 not in ("stored", "learnt"):
        raise ValueError(f"position0 is {meta.position0!r}, neither stored nor learnt")
    if any(len(rare) != 1 or len(known) != 1 for rare, known in meta.folding.items()):
        raise ValueError("folding maps something else than one character to one")
    if meta.window > meta.dimensions.positions:
        raise ValueError(f"a window of {meta.window} over {meta.dimensions.positions} position embeddings")
    return meta


def check_tensors(path: str | os.PathLike[str], meta: Meta, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a file of tensors of these shapes, by name, under this metadata. Raises DamagedArtifactError for what is
    missing or misshapen, VersionError for what is unknown."""
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
            path, f"unknown tensor {', '.join(unknown[:3])}", "the tensors of format version 1", "Update ZhCLIP."
        )
    for name, shape in {**required, **optional}.items():
        if name in shapes and shapes[name] != shape:
            raise DamagedArtifactError(
                path, f"{name} of shape {shapes[name]}", f"{shape} by its metadata", "Export it again."
            )


def _header(meta: Meta) -> dict[str, str]:
    """The safetensors header: our key, and the modelspec keys that model managers read.

    Source of the modelspec names: Stability-AI/ModelSpec, version 1.0.1.
    """
    return {
        HEADER_KEY: json.dumps(asdict(meta), sort_keys=True, ensure_ascii=True),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "zhclip-v1/text-encoder",
        "modelspec.implementation": "https://github.com/zhclip/zhclip",
        "modelspec.title": f"ZhCLIP {meta.strategy} encoder for {meta.teacher.id}",
        "modelspec.license": meta.licence,
    }
