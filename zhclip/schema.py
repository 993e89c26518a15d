"""The metadata of an artifact: its types, and the check of a stranger's JSON, which is also made before writing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from .io import AnyPath, ArtifactError, DamagedArtifactError, VersionError
from .models import KINDS

FORMAT_VERSION = 1
MAX_NESTING = 32  # levels of report and recipe, of which the trainer writes six
MAX_TEXT = 10_000  # characters of a name or a licence
MAX_FIGURE = 1e300
# Figures of a report that the nodes and the model card read, and how deeply they are nested.
REPORT_FIGURES = {"loss": 1, "baselines": 2, "retrieval": 2, "baselines_retrieval": 3}
# Numbers are annotated with their least and largest value.
Width = Annotated[int, (1, 65_536)]
TokenId = Annotated[int, (0, 10_000_000)]


@dataclass(frozen=True)
class Dimensions:
    """The student BERT's shape, within limits far above any text encoder."""

    layers: Annotated[int, (1, 1_000)]
    width: Width
    heads: Width
    intermediate: Annotated[int, (1, 1_048_576)]
    vocabulary: Annotated[int, (1, 10_000_000)]
    positions: Annotated[int, (1, 1_000_000)]
    types: Width
    layer_norm_eps: Annotated[float, (1e-30, 0.999)]


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that begin, end and pad a window, and of the one for what the vocabulary lacks."""

    start: TokenId
    end: TokenId
    pad: TokenId
    unknown: TokenId


@dataclass(frozen=True)
class TokenizerInfo:
    """How a text is split into pieces of the stored vocabulary. `lowercase` to `handle_chinese_chars` are arguments of
    BertNormalizer, for "wordpiece" alone; the others are for "unigram" alone (docs/format.md)."""

    kind: Literal["wordpiece", "unigram"]
    lowercase: bool = False
    strip_accents: bool = False
    clean_text: bool = False
    handle_chinese_chars: bool = False
    normalizer: Literal["nfkc", "precompiled"] = "nfkc"
    join_spaces: bool = False
    whitespace_split: bool = False
    prepend_scheme: Literal["always", "first", "never"] = "always"


@dataclass(frozen=True)
class TeacherInfo:
    """The encoder that the targets came from: the hidden state used, -1 the last, and the width of all its parts."""

    id: str
    sha256: str
    layer: Annotated[int, (-1_000, 1_000)]
    width: Width


@dataclass(frozen=True)
class PartInfo:
    """One of the teacher's text encoders: ComfyUI's key of its tokens, and its width."""

    name: str
    width: Width


@dataclass(frozen=True)
class CorpusInfo:
    """The cleaned training pairs."""

    rows: Annotated[int, (0, 2**63)]
    sha256: str


@dataclass(frozen=True)
class Meta:
    """The metadata of an artifact; docs/format.md says what each field means."""

    dimensions: Dimensions
    special_ids: SpecialIds
    tokenizer: TokenizerInfo
    window: Annotated[int, (3, 1_000_000)]
    mask_padding: bool
    position0: Literal["stored", "learnt"]
    teacher: TeacherInfo
    parts: tuple[PartInfo, ...]
    strategy: str
    corpus: CorpusInfo
    licence: str
    pooled: Annotated[int, (0, 65_536)] = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    folding: dict[str, str] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each part of the conditioning."""
        return tuple(part.width for part in self.parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """ComfyUI's names of the parts' tokens."""
        return tuple(part.name for part in self.parts)

    def to_json(self) -> str:
        """The text that `parse` reads."""
        return json.dumps(asdict(self) | {"format_version": FORMAT_VERSION}, sort_keys=True)


def parse(path: AnyPath, text: str) -> Meta:
    """The header's JSON as checked metadata. Raises DamagedArtifactError or VersionError."""
    try:
        raw = json.loads(text)
        version = raw.pop("format_version", None) if type(raw) is dict else FORMAT_VERSION
        if type(version) is not int or version != FORMAT_VERSION:
            raise VersionError(path, f"format version {_short(version)}", f"version {FORMAT_VERSION}")
        meta = from_json(path, Meta, raw, "metadata")
        if max(map(_levels, (meta.report, meta.recipe))) > MAX_NESTING:
            raise DamagedArtifactError(path, "too many nested levels of report or recipe", f"at most {MAX_NESTING}")
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedArtifactError(path, f"metadata that is no JSON ({_short(error)})", "JSON") from error
    _check_consistency(path, meta)
    for name, depth in REPORT_FIGURES.items():
        _check_figures(path, f"report.{name}", meta.report.get(name), depth)
    return meta


def from_json(path: AnyPath, hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type that `hint` states; a dataclass from an object with exactly its fields as keys. `path`
    and `name` are for messages. Raises DamagedArtifactError."""
    limits = None
    if get_origin(hint) is Annotated:
        hint, limits = get_args(hint)
    kind: Any = get_origin(hint) or hint
    json_type = dict if is_dataclass(kind) else {tuple: list, Literal: str}.get(kind, kind)
    if type(value) is not json_type and (json_type, type(value)) != (float, int):
        raise DamagedArtifactError(path, f"{name} of type {type(value).__name__}", json_type.__name__)
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for key in sorted(set(value) ^ set(hints)):
            found = f"{name} {'without' if key in hints else 'with'} {_short(key)}"
            raise DamagedArtifactError(path, found, ", ".join(hints))
        return kind(**{key: from_json(path, hint, value[key], f"{name}.{key}") for key, hint in hints.items()})  # type: ignore[operator]
    if kind is tuple:
        return tuple(from_json(path, get_args(hint)[0], each, name) for each in value)
    if kind is Literal and value not in get_args(hint):
        raise DamagedArtifactError(path, f"{name} {_short(value)}", " or ".join(get_args(hint)))
    if limits and not limits[0] <= value <= limits[1]:  # NaN is not either
        raise DamagedArtifactError(path, f"{name} {_short(value)}", f"{limits[0]} to {limits[1]}")
    if kind is str and len(value) > MAX_TEXT:
        raise DamagedArtifactError(path, f"{name} of {len(value)} characters", f"at most {MAX_TEXT}")
    return value


def _check_consistency(path: AnyPath, meta: Meta) -> None:
    """Check values against each other. Raises DamagedArtifactError."""
    d, special = meta.dimensions, meta.special_ids
    kind = next((kind for kind in KINDS if kind.keys == meta.keys), None)
    folded = [*meta.folding, *meta.folding.values()]
    for valid, found, expected in (
        (max(vars(special).values()) < d.vocabulary, f"{special}", f"ids below {d.vocabulary}"),
        (special.end not in (special.start, special.unknown), f"{special}", "an end of its own"),
        (meta.window <= d.positions, f"window {meta.window}", f"at most {d.positions}, the student's positions"),
        (d.width % d.heads == 0, f"{d.heads} heads over a width of {d.width}", "heads that divide it"),
        (kind, f"parts {_short(meta.keys)}", " or ".join(", ".join(kind.keys) for kind in KINDS)),
        (kind and kind.pooled == bool(meta.pooled), f"pooled {meta.pooled}", "above 0 for SDXL alone"),
        (sum(meta.widths) == meta.teacher.width, f"parts {meta.widths} wide", f"{meta.teacher.width} together"),
        (all(type(c) is str and len(c) == 1 for c in folded), "folding of other values", "single characters"),
    ):
        if not valid:
            raise DamagedArtifactError(path, found, expected)


def _levels(value: Any) -> int:
    children = value.values() if type(value) is dict else value if type(value) is list else None
    return 0 if children is None else 1 + max(map(_levels, children), default=0)


def _check_figures(path: AnyPath, name: str, value: Any, depth: int) -> None:
    """Check that objects nested `depth` levels hold finite numbers, or null except as "all"."""
    if value is None and not name.endswith(".all"):
        return
    if depth and type(value) is dict:
        for key, each in value.items():
            _check_figures(path, f"{name}.{_short(key)}", each, depth - 1)
    elif depth or type(value) not in (int, float) or not abs(value) < MAX_FIGURE:  # NaN is not either
        expected = "an object" if depth else "a finite number"
        raise DamagedArtifactError(path, f"{name} of type {type(value).__name__}", expected)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + "..."
