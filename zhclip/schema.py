"""The metadata of an artifact: its types, and one check of what JSON may say.

A file comes from a stranger, so nothing is computed with a value that was not checked here. Reading and writing use the
same check: what cannot be read is not written.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from .io import DamagedArtifactError, VersionError
from .models import KINDS, kind_of

FORMAT_VERSION = 1
MAX_PARTS = 4
MAX_NESTING = 32  # levels of report and recipe, of which the trainer writes six
MAX_TEXT = 10_000  # characters of a name or a licence
JSON_NAMES = {int: "an integer", bool: "true or false", str: "a text", float: "a number", dict: "an object"}


class Range(NamedTuple):
    """The least and the largest value of a number."""

    least: float
    most: float


Width = Annotated[int, Range(1, 65_536)]
TokenId = Annotated[int, Range(0, 10_000_000)]


@dataclass(frozen=True)
class Dimensions:
    """The student BERT's shape, within limits far above any text encoder."""

    layers: Annotated[int, Range(1, 1_000)]
    width: Width
    heads: Width
    intermediate: Annotated[int, Range(1, 1_048_576)]
    vocabulary: Annotated[int, Range(1, 10_000_000)]
    positions: Annotated[int, Range(1, 1_000_000)]
    types: Width
    layer_norm_eps: Annotated[float, Range(1e-30, 0.999)]


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that begin, end and pad a window, and of the one for what the vocabulary lacks."""

    start: TokenId
    end: TokenId
    pad: TokenId
    unknown: TokenId


@dataclass(frozen=True)
class TokenizerInfo:
    """How a text is split into pieces of the stored vocabulary, in the words of `tokenizers`.

    `lowercase` to `handle_chinese_chars` are BertNormalizer's arguments and read for "wordpiece" alone; the others are
    read for "unigram" alone: the normalizer, whether runs of spaces are joined after it, whether text is split at
    whitespace before Metaspace, and Metaspace's own argument.
    """

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
    """The encoder that the targets came from. `layer` is the hidden state used, -1 the last; `width` that of all its
    parts together."""

    id: str
    sha256: str
    layer: Annotated[int, Range(-1_000, 1_000)]
    width: Width


@dataclass(frozen=True)
class PartInfo:
    """One of the teacher's text encoders: ComfyUI's key of its tokens, and its width."""

    name: str
    width: Width


@dataclass(frozen=True)
class CorpusInfo:
    """The cleaned training pairs."""

    rows: Annotated[int, Range(0, 2**63)]
    sha256: str


@dataclass(frozen=True)
class Meta:
    """What a reader must know and cannot see in the tensors.

    `mask_padding`: whether padded positions are masked as keys. `position0`: "stored" when the teacher's first vector,
    which is the same for every prompt, replaces the student's; "learnt" when the student's own output stays. `parts`:
    the teacher's encoders, in the order of their vectors in the conditioning. `pooled`: width of the pooled vector, 0
    for none. `recipe`: the training settings; `report`: the evaluation's report.json. `folding`: single characters that
    the vocabulary lacks, each with a variant that it has.
    """

    dimensions: Dimensions
    special_ids: SpecialIds
    tokenizer: TokenizerInfo
    window: Annotated[int, Range(3, 1_000_000)]
    mask_padding: bool
    position0: Literal["stored", "learnt"]
    teacher: TeacherInfo
    parts: tuple[PartInfo, ...]
    strategy: str
    corpus: CorpusInfo
    licence: str
    pooled: Annotated[int, Range(0, 65_536)] = 0
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


class _Invalid(Exception):
    """What the metadata has, and what it should have."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = f"metadata {found}", expected


def parse(path: str | os.PathLike[str], text: str) -> Meta:
    """The header's JSON as checked metadata. Raises DamagedArtifactError or VersionError."""
    try:
        raw = json.loads(text)
        version = raw.pop("format_version", None) if type(raw) is dict else FORMAT_VERSION
        if type(version) is not int or version != FORMAT_VERSION:
            cure = "Update ZhCLIP, or export the file again."
            raise VersionError(path, f"format version {_short(version)}", f"version {FORMAT_VERSION}", cure)
        unknown = sorted(set(raw) - {f.name for f in fields(Meta)}) if type(raw) is dict else []
        if unknown:
            found, expected = f"unknown metadata {_short(', '.join(unknown))}", f"format version {version} alone"
            raise VersionError(path, found, expected, "Update ZhCLIP.")
        meta = from_json(Meta, raw, "")
        _check_meta(path, meta)
    except _Invalid as error:
        raise _damaged(path, error.found, error.expected) from None
    except (VersionError, DamagedArtifactError):
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"metadata that is no JSON ({_short(error)})", "JSON") from error
    return meta


def from_json(kind: type, raw: Any, prefix: str) -> Any:
    """A dataclass of this module from its JSON object, whose keys must be its fields. Raises _Invalid."""
    names = [f.name for f in fields(kind)]
    if type(raw) is not dict:
        raise _Invalid(f"whose {prefix[:-1] or 'whole'} is {_describe(raw)}", "an object")
    wrong = sorted(set(raw) ^ set(names))
    if wrong:
        has = "without" if wrong[0] in names else "with"
        raise _Invalid(f"{has} {prefix}{_short(', '.join(wrong))}", ", ".join(names))
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{name: _value(hints[name], raw[name], f"{prefix}{name}") for name in names})


def _value(hint: Any, value: Any, name: str) -> Any:
    """A checked value of a type hint. Raises _Invalid."""
    if is_dataclass(hint):
        return from_json(hint, value, f"{name}.")  # type: ignore[arg-type]  # no instance, a class
    if get_origin(hint) is tuple:
        if type(value) is not list or not 1 <= len(value) <= MAX_PARTS:
            raise _Invalid(f"whose {name} is {_describe(value)}", f"a list of 1 to {MAX_PARTS}")
        return tuple(_value(get_args(hint)[0], each, name) for each in value)
    if get_origin(hint) is Literal:
        if type(value) is not str or value not in get_args(hint):
            raise _Invalid(f"whose {name} is {_short(value)}", " or ".join(get_args(hint)))
        return value
    limits = None
    if get_origin(hint) is Annotated:
        hint, limits = get_args(hint)
    wanted = get_origin(hint) or hint
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise _Invalid(f"whose {name} is {_describe(value)}", JSON_NAMES[wanted])
    if limits and not limits.least <= value <= limits.most:  # NaN is not either
        raise _Invalid(f"whose {name} is {_short(value)}", f"{limits.least} to {limits.most}")
    if wanted is str and len(value) > MAX_TEXT:
        raise _Invalid(f"whose {name} has {len(value)} characters", f"at most {MAX_TEXT}")
    return value


def _check_meta(path: str | os.PathLike[str], meta: Meta) -> None:
    """Check values against each other. Raises _Invalid or VersionError."""
    d, special = meta.dimensions, meta.special_ids
    for name, token in vars(special).items():
        if token >= d.vocabulary:
            raise _Invalid(f"whose special_ids.{name} is {token}", f"0 to {d.vocabulary - 1}")
    if special.end in (special.start, special.unknown):
        raise _Invalid(f"whose end is token {special.end}, as another is", "an end of its own")
    if meta.window > d.positions:
        raise _Invalid(f"whose window is {meta.window}", f"3 to {d.positions}, the positions")
    if d.width % d.heads:
        raise _Invalid(f"with {d.heads} heads over a width of {d.width}", "heads that divide it")
    if meta.keys not in {kind.keys for kind in KINDS}:
        names = _short(", ".join(meta.keys))
        raise VersionError(path, f"an encoder of the parts {names}", "those of a known checkpoint", "Update ZhCLIP.")
    if kind_of(meta.keys).pooled != bool(meta.pooled):
        raise _Invalid(f"whose pooled is {meta.pooled}", "a pooled vector exactly where the UNet reads one")
    if sum(meta.widths) != meta.teacher.width:
        raise _Invalid(f"with parts {sum(meta.widths)} wide", f"{meta.teacher.width}, the teacher's width")
    for rare, known in meta.folding.items():
        if type(known) is not str or len(rare) != 1 or len(known) != 1:
            raise _Invalid("whose folding maps something else", "single characters to single characters")
    _check_nesting([meta.report, meta.recipe])
    _check_report(meta.report)


def _check_nesting(level: list[Any]) -> None:
    """Level by level, since recursion would end at a depth of its own. Raises _Invalid."""
    for _ in range(MAX_NESTING):
        children = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        level = [child for child in children if isinstance(child, (dict, list))]
    if level:
        raise _Invalid(f"with a report or recipe of more than {MAX_NESTING} nested levels", "fewer")


def _check_report(report: dict[str, Any]) -> None:
    """Check the figures that the nodes and the model card read; the rest of a report is only shown. Raises _Invalid."""

    def table(name: str, value: Any) -> dict[str, Any]:
        if value is not None and type(value) is not dict:
            raise _Invalid(f"whose report has a {_short(name)} that is {_describe(value)}", "an object")
        return value or {}

    def number(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _Invalid(f"whose report has a {_short(name)} that is {_describe(value)}", "a finite number")

    losses = {"loss": report.get("loss")}
    losses |= {f"baselines.{name}": loss for name, loss in table("baselines", report.get("baselines")).items()}
    for name, loss in losses.items():
        for zone, value in table(name, loss).items():
            if value is not None or zone == "all":
                number(f"{name}.{zone}", value)
    recalls = {"retrieval": report.get("retrieval"), **table("baselines_retrieval", report.get("baselines_retrieval"))}
    for name, directions in recalls.items():
        recall = table(name, directions).get("zh_to_en")
        if type(recall) is dict and "R@1" in recall:
            number(f"{name}.zh_to_en.R@1", recall["R@1"])


def _describe(value: Any) -> str:
    if value is None:
        return "missing"
    if type(value) is list:
        return f"a list of {len(value)}"
    if type(value) is float and not math.isfinite(value):
        return str(value)
    return JSON_NAMES[type(value)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _damaged(path: str | os.PathLike[str], found: str, expected: str) -> DamagedArtifactError:
    return DamagedArtifactError(path, found, expected, "Export the file again, or ask its author to.")
