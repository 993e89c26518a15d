"""The artifact: one safetensors file that holds an aligned text encoder, and nothing that can run.

docs/format.md lists its tensors. Its metadata is JSON under the header's key `zhclip` (schema.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from .io import AnyPath, DamagedArtifactError, NotAnArtifactError, Tensors, open_safetensors, save_tensors
from .schema import Dimensions, Meta, parse
from .tokenizer import build

HEADER_KEY = "zhclip"
HEADER_LIMIT = 100_000_000  # bytes, safetensors' own limit
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
ANY_SIZE = -1  # a size that the metadata does not give
Shapes = dict[str, tuple[int, ...]]


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
    square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    sizes: Shapes = dict.fromkeys(square, (d.width, d.width))
    sizes |= {"intermediate.dense": (d.intermediate, d.width), "output.dense": (d.width, d.intermediate)}
    sizes |= dict.fromkeys(("attention.output.LayerNorm", "output.LayerNorm"), (d.width,))
    modules: Shapes = {"embeddings.LayerNorm": (d.width,)}
    modules |= {f"encoder.layer.{layer}.{name}": size for layer in range(d.layers) for name, size in sizes.items()}
    embeddings = {"word": d.vocabulary, "position": d.positions, "token_type": d.types}
    shapes: Shapes = {f"embeddings.{name}_embeddings.weight": (rows, d.width) for name, rows in embeddings.items()}
    for name, size in modules.items():
        shapes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    return shapes


def expected_shapes(meta: Meta, names: Iterable[str] = ()) -> tuple[Shapes, set[str]]:
    """Shapes of all tensors that a file with this metadata may hold, and the names of those that it must hold; `names`
    are those in the file."""
    student, scored = meta.dimensions.width, meta.tokenizer.kind == "unigram"
    shapes: Shapes = {f"bert.{name}": shape for name, shape in bert_shapes(meta.dimensions).items()}
    shapes["tokenizer.vocabulary"] = (ANY_SIZE,)
    shapes |= {"tokenizer.scores": (ANY_SIZE,)} if scored else {}
    shapes |= {"tokenizer.charsmap": (ANY_SIZE,)} if scored and meta.tokenizer.normalizer == "precompiled" else {}
    required = set(shapes)
    groups = {"structure": (meta.teacher.width, meta.window, len(meta.parts))}
    if len(meta.parts) == 1 and any(name.startswith("skip.") for name in names):
        groups["skip"] = groups["structure"]
    if meta.pooled:
        groups["pooled"] = meta.pooled, 1, 1
    for group, (width, window, parts) in groups.items():
        own: Shapes = {"proj_weight": (width, student), "proj_bias": (window, width), "empty": (window, width)}
        own |= {"norms": (window, parts), "mean": (width,), "std": (width,)}
        if group == "skip" or (group == "structure" and meta.position0 == "stored"):
            own["position0"] = (width,)
        shapes |= {f"{group}.{name}": shape for name, shape in own.items()}
        if group == "pooled" or width != student:
            required.add(f"{group}.proj_weight")
    return shapes, required | ({"structure.position0"} if meta.position0 == "stored" else set())


def save(artifact: Artifact, path: AnyPath) -> None:
    """Write the artifact, whole or not at all. Raises ArtifactError for what `load` would refuse, before anything is
    written."""
    text, tensors = artifact.meta.to_json(), artifact.tensors()
    meta = parse(path, text)
    check_tensors(path, meta, tensors)
    build(path, meta.tokenizer, meta.special_ids, artifact.tokenizer, meta.dimensions.vocabulary)
    # The modelspec keys are those that model managers read: Stability-AI/ModelSpec, version 1.0.1.
    title = f"ZhCLIP {meta.strategy} encoder for {meta.teacher.id}"
    header = {
        HEADER_KEY: text,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "zhclip-v1/text-encoder",
        "modelspec.implementation": "https://github.com/zhclip/zhclip",
        "modelspec.title": f"{title}: open it with Load ZhCLIP Encoder, not with Load CLIP",
        "modelspec.license": meta.licence,
    }
    save_tensors(path, tensors, header)


def load(path: AnyPath) -> Artifact:
    """Read an artifact, all tensors on the CPU in the file's dtypes. Raises ArtifactError or one of its classes."""
    with open_safetensors(path) as file:
        meta = _parse(path, file.metadata())
        tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
    check_tensors(path, meta, tensors)
    groups: dict[str, Tensors] = {group: {} for group in GROUPS}
    for name, tensor in tensors.items():
        group, _, own = name.partition(".")
        groups[group][own] = tensor
    return Artifact(meta, **groups, path=str(path))


def read_meta(path: AnyPath) -> Meta:
    """Read the metadata alone, without any tensor. Raises as `load` does."""
    with open_safetensors(path) as file:
        return _parse(path, file.metadata())


def read_tokenizer(path: AnyPath) -> tuple[Meta, Tensors]:
    """Read the metadata and the tokenizer's tensors alone. Raises as `load` does."""
    with open_safetensors(path) as file:
        names = [name for name in list(file.keys()) if name.startswith("tokenizer.")]
        tensors = {name.removeprefix("tokenizer."): file.get_tensor(name).clone() for name in names}
        return _parse(path, file.metadata()), tensors


def is_artifact(path: AnyPath) -> bool:
    """Whether the file's header names our key, whatever else is wrong with it: a list of files must show truncated and
    newer ones too, so that choosing one explains it. Never raises on a file's content."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        # A quote inside a JSON string is escaped, so no other file's metadata can spell the key by accident.
        return size <= HEADER_LIMIT and f'"{HEADER_KEY}":'.encode() in file.read(size)


def _parse(path: AnyPath, metadata: dict[str, str] | None) -> Meta:
    text = (metadata or {}).get(HEADER_KEY)
    if text is None:
        raise NotAnArtifactError(
            path,
            "a safetensors file without ZhCLIP metadata (a checkpoint, a LoRA or another model)",
            "a file that `python -m trainer export` wrote",
            "Choose an aligned encoder, or train one with `python -m trainer run`.",
        )
    return parse(path, text)


def check_tensors(path: AnyPath, meta: Meta, tensors: Tensors) -> None:
    """Refuse tensors that do not fit the metadata: missing, unknown, of another shape or dtype, or not finite. Raises
    DamagedArtifactError."""
    shapes, required = expected_shapes(meta, tensors)
    for name in sorted(required - set(tensors)):
        raise DamagedArtifactError(path, f"no tensor {name}", "every tensor of its metadata")
    for name, tensor in tensors.items():
        shape, is_text = shapes.get(name), name in ("tokenizer.vocabulary", "tokenizer.charsmap")
        if shape is None:
            raise DamagedArtifactError(path, f"unknown tensor {name[:200]}", "the tensors that its metadata names")
        if len(shape) != tensor.dim() or any(size not in (ANY_SIZE, own) for size, own in zip(shape, tensor.shape)):
            raise DamagedArtifactError(path, f"{name} of shape {tuple(tensor.shape)[:8]}", f"{shape} by its metadata")
        if tensor.dtype not in ((torch.uint8,) if is_text else FLOATS):
            raise DamagedArtifactError(
                path, f"{name} of {tensor.dtype}", "uint8" if is_text else "float16, bfloat16 or float32"
            )
        # A sum is not finite where a value is not, and takes a third of aminmax's time. It may overflow by itself.
        if not is_text and not tensor.sum(dim=-1).isfinite().all() and not tensor.isfinite().all():
            raise DamagedArtifactError(path, f"{name} with NaN or infinity", "finite numbers")
    for group in ("structure", "pooled", "skip"):
        std = tensors.get(f"{group}.std")
        if (std is None) != (f"{group}.mean" not in tensors):
            raise DamagedArtifactError(path, f"one of {group}.mean and {group}.std", "both or neither")
        if std is not None and std.min() <= 0:
            raise DamagedArtifactError(path, f"{group}.std of 0 or less", "deviations above 0")
