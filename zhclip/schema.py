"""The metadata of an artifact: what a reader must know beside the tensors, and what of it is valid, type and range.

A file comes from a stranger, so nothing is computed with a value that has not passed here. Loader, route, trainer and
convert ask the same functions: what cannot be read is not written either.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .io import ArtifactError, DamagedArtifactError, VersionError
from .models import KINDS, kind_of

FORMAT_VERSIONS = (1, 2)
SMALLEST_WINDOW = 3  # start, one token, end
MOST_PARTS = 4
NESTING = 32  # levels of report and recipe, of which the trainer writes six
TEXT = 10_000  # characters of a name or a licence
# Far above any text encoder, and far below what a loop over them would be noticed at.
LARGEST = {
    "layers": 1_000,
    "width": 65_536,
    "heads": 65_536,
    "intermediate": 1_048_576,
    "vocabulary": 10_000_000,
    "positions": 1_000_000,
    "types": 65_536,
}
TYPES = {"int": int, "bool": bool, "str": str, "float": float, "dict[str, Any]": dict, "dict[str, str]": dict}
CALLED = {int: "an integer", bool: "true or false", str: "a text", float: "a number", dict: "an object", list: "a list"}


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
class PartInfo:
    """One of a teacher's encoders, whose vectors stand side by side: ComfyUI's key of its tokens, and its width."""

    name: str
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
    `parts` and `pooled`, the width of a pooled vector with a head of its own (0: there is none), are what version 2
    adds; without parts the teacher is one encoder.
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
    parts: tuple[PartInfo, ...] = ()
    pooled: int = 0

    @property
    def format_version(self) -> int:
        """The oldest that says all of it, so that an older pack reads what it can."""
        return 2 if self.parts else 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each part of the conditioning."""
        return tuple(part.width for part in self.parts) or (self.teacher.width,)

    @property
    def keys(self) -> tuple[str, ...]:
        """ComfyUI's names of the parts' tokens."""
        return tuple(part.name for part in self.parts) or ("l",)

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        values = asdict(self) | {"format_version": self.format_version}
        for name in () if self.parts else NEWER:
            del values[name]
        return values


NEWER = ("parts", "pooled")  # metadata of version 2


def parse(path: str | os.PathLike[str], text: str) -> Meta:
    """The JSON of a header -> its metadata, checked. Raises DamagedArtifactError or VersionError."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"metadata that is no JSON ({_short(error)})", "JSON") from error
    if type(raw) is not dict:
        raise _damaged(path, f"metadata that is {_called(raw)}", "an object")
    version = raw.pop("format_version", None)
    if type(version) is not int or version not in FORMAT_VERSIONS:
        known = " or ".join(map(str, FORMAT_VERSIONS))
        raise VersionError(path, f"format version {_short(version)}", f"version {known}", "Update ZhCLIP.")
    newer = NEWER if version > 1 else ()
    unknown = sorted(set(raw) - {f.name for f in fields(Meta) if f.name not in NEWER} - {*newer})
    if unknown:
        names = _short(", ".join(unknown))
        raise VersionError(path, f"unknown metadata {names}", f"format version {version} alone", "Update ZhCLIP.")
    parts = {"dimensions": Dimensions, "special_ids": SpecialIds, "teacher": TeacherInfo, "corpus": CorpusInfo}
    made: dict[str, Any] = {}
    for name, kind in parts.items():
        part, own = raw.get(name), {f.name for f in fields(kind)}
        if type(part) is not dict or set(part) != own:
            found = _called(part) if type(part) is not dict else f"{{{_short(', '.join(sorted(part)))}}}"
            raise _damaged(path, f"metadata whose {name} is {found}", f"{', '.join(sorted(own))}")
        made[name] = kind(**part)
    wanted = ("window", "mask_padding", "position0", "strategy", "licence", *newer)
    missing = [name for name in wanted if name not in raw]
    if missing:
        raise _damaged(path, f"metadata without {', '.join(missing)}", f"all of format version {version}")
    if newer:
        made["parts"] = _parts(path, raw["parts"])
    meta = Meta(**{**raw, **made})
    check(path, meta)
    return meta


def _parts(path: str | os.PathLike[str], given: Any) -> tuple[PartInfo, ...]:
    if type(given) is not list or not 1 <= len(given) <= MOST_PARTS:
        raise _damaged(path, f"metadata whose parts are {_called(given)}", f"a list of 1 to {MOST_PARTS}")
    if not all(type(part) is dict and set(part) == {"name", "width"} for part in given):
        raise _damaged(path, "metadata with a part that is something else", "a name and a width each")
    return tuple(PartInfo(**part) for part in given)


def check(path: str | os.PathLike[str], meta: Meta) -> None:
    """Refuse metadata of a wrong type or out of range. Raises DamagedArtifactError."""
    _check_types(path, meta, "")
    for name in ("dimensions", "special_ids", "teacher", "corpus"):
        _check_types(path, getattr(meta, name), f"{name}.")
    _check_parts(path, meta)
    d, special, window = meta.dimensions, meta.special_ids, meta.window
    ranges = {f"dimensions.{name}": (getattr(d, name), 1, largest) for name, largest in LARGEST.items()}
    ranges |= {f"special_ids.{name}": (value, 0, d.vocabulary - 1) for name, value in vars(special).items()}
    ranges["teacher.width"] = (meta.teacher.width, 1, LARGEST["width"])
    ranges["teacher.layer"] = (meta.teacher.layer, -LARGEST["layers"], LARGEST["layers"])
    ranges["corpus.rows"] = (meta.corpus.rows, 0, 2**63)
    ranges["window"] = (window, SMALLEST_WINDOW, d.positions)
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise _damaged(path, f"metadata whose {name} is {_short(value)}", f"{least} to {most}")
    if d.width % d.heads:
        raise _damaged(path, f"metadata with {d.heads} heads over a width of {d.width}", "heads that divide it")
    if not 0 < d.layer_norm_eps < 1:  # NaN is not either
        raise _damaged(path, f"metadata whose layer_norm_eps is {d.layer_norm_eps}", "a number between 0 and 1")
    if special.end in (special.start, special.unknown):
        raise _damaged(path, f"metadata whose end is token {special.end}, as another is", "an end of its own")
    if meta.position0 not in ("stored", "learnt"):
        raise _damaged(path, f"metadata whose position0 is {_short(meta.position0)}", "stored or learnt")
    for rare, known in meta.folding.items():
        if type(known) is not str or len(rare) != 1 or len(known) != 1:
            raise _damaged(path, "metadata whose folding maps something else", "single characters to single characters")
    _check_nesting(path, meta)
    _check_report(path, meta.report)


def _check_parts(path: str | os.PathLike[str], meta: Meta) -> None:
    for part in meta.parts:
        _check_types(path, part, "parts.")
        if not 1 <= part.width <= LARGEST["width"]:
            raise _damaged(path, f"metadata with a part {_short(part.width)} wide", f"1 to {LARGEST['width']}")
    if not 0 <= meta.pooled <= LARGEST["width"]:
        raise _damaged(path, f"metadata whose pooled is {_short(meta.pooled)}", f"0 to {LARGEST['width']}")
    if meta.pooled and not meta.parts:
        raise _damaged(path, "metadata with a pooled vector and no parts", "the parts that it belongs to")
    if meta.parts and meta.keys not in {kind.keys for kind in KINDS}:
        names = _short(", ".join(meta.keys))
        raise VersionError(path, f"an encoder of the parts {names}", "those of a known checkpoint", "Update ZhCLIP.")
    if meta.parts and kind_of(meta.keys).pooled != bool(meta.pooled):
        raise _damaged(path, f"metadata whose pooled is {meta.pooled}", "a pooled vector where the UNet reads one")
    if sum(meta.widths) != meta.teacher.width:
        raise _damaged(path, f"metadata with parts {sum(meta.widths)} wide", f"{meta.teacher.width}, the teacher's")


def _check_types(path: str | os.PathLike[str], part: Any, prefix: str) -> None:
    for f in fields(part):
        wanted, value = TYPES.get(str(f.type)), getattr(part, f.name)
        if wanted is None or type(value) is wanted or (wanted is float and type(value) is int):
            long = type(value) is str and len(value) > TEXT
            if not long:
                continue
            raise _damaged(path, f"metadata whose {prefix}{f.name} has {len(value)} characters", f"at most {TEXT}")
        raise _damaged(path, f"metadata whose {prefix}{f.name} is {_called(value)}", CALLED[wanted])


def _check_nesting(path: str | os.PathLike[str], meta: Meta) -> None:
    """Level by level, and not by recursion, which ends at some depth of its own."""
    level: list[Any] = [meta.report, meta.recipe]
    for _ in range(NESTING):
        level = [
            value
            for item in level
            for value in (item.values() if isinstance(item, dict) else item)
            if isinstance(value, (dict, list, tuple))
        ]
    if level:
        raise _damaged(path, f"a report or recipe of more than {NESTING} nested levels", "fewer")


def _check_report(path: str | os.PathLike[str], report: dict[str, Any]) -> None:
    """The figures that the nodes and the model card read; what else a report holds is only shown."""
    losses = {"loss": report.get("loss")}
    for group in ("baselines", "retrieval", "baselines_retrieval"):
        found = report.get(group)
        if found is not None and type(found) is not dict:
            raise _damaged(path, f"a report whose {group} is {_called(found)}", "an object")
    losses |= {f"baselines.{name}": each for name, each in (report.get("baselines") or {}).items()}
    for name, loss in losses.items():
        if loss is None:
            continue
        if type(loss) is not dict:
            raise _damaged(path, f"a report whose {_short(name)} is {_called(loss)}", "an object")
        for zone, value in loss.items():
            if value is not None or zone == "all":  # which is compared
                _check_number(path, f"{name}.{zone}", value)
    recalls = {"retrieval": report.get("retrieval")}
    recalls |= {f"baselines_retrieval.{name}": each for name, each in (report.get("baselines_retrieval") or {}).items()}
    for name, sides in recalls.items():
        side = sides.get("zh_to_en") if type(sides) is dict else None
        if type(side) is dict and "R@1" in side:
            _check_number(path, f"{name}.zh_to_en.R@1", side["R@1"])


def _check_number(path: str | os.PathLike[str], name: str, value: Any) -> None:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _damaged(path, f"a report whose {_short(name)} is {_called(value)}", "a finite number")


def _called(value: Any) -> str:
    if value is None:
        return "missing"
    if type(value) is float and not math.isfinite(value):
        return str(value)
    return CALLED.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _damaged(path: str | os.PathLike[str], found: str, expected: str) -> ArtifactError:
    return DamagedArtifactError(path, found, expected, "Export the file again, or ask whoever made it.")
