"""From English captions to pairs, by a translation model.

python -m trainer translate --translate.source captions.tsv --translate.out pairs.tsv
torchrun --nproc_per_node 4 -m trainer translate ...    # the same bytes, by several GPUs or CPU processes

Beside OUT stand OUT.rejects.tsv, OUT.summary.json, OUT.sample.md and OUT.parts. The parts are shards of so many rows,
each written whole by a rename and holding what the model said, unjudged; a killed stage goes on at the next one, and
checks with other limits need no second translation. A shard depends on nothing but its own rows, so any number of
processes can share them out: shard i is made by process i modulo their count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from zhclip.prompt import normalise

from .. import corpus as rows
from ..base import SettingsError, Source, TranslateSettings, Translation, guard, hold, require
from ..corpus import Row
from .judgement import judge, read_shard
from .translator import Direction, Search, Translator, files_sha256, load_translator, model_folder

CODE_VERSION = 1
PATIENCE = timedelta(days=7)  # how long a process that is done waits for the others


@dataclass(frozen=True)
class Part:
    """One direction of translation: its folder of shards, and what it is made with."""

    folder: Path
    model: Path
    flag: str
    direction: Direction

    def shard(self, index: int) -> Path:
        """Path of a shard."""
        return self.folder / f"{index:05d}.jsonl"


def run(translation: Translation) -> None:
    """Stage `translate`. Raises BusyError, CorpusError, ModelError, SettingsError."""
    settings = translation.translate
    out = Path(require(settings.out, "translate.out", "the pairs to write, a .tsv"))
    _check(settings, out)
    # Without a GPU, gloo joins the processes of a launcher only where the CPU is asked for.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    try:
        with hold(Path(f"{out}.parts") / ".lock", f"--translate.out {out}", "--translate.out"):
            _run(settings, out, state)
    except OSError as error:
        raise SettingsError(
            f"{error.filename or out}: {error.strerror or error}; see that it is there and may be read and written, or "
            "give another --translate.out. What is translated so far is kept."
        ) from error


def _run(settings: TranslateSettings, out: Path, state: PartialState) -> None:
    if state.is_main_process:
        processes = f"{state.num_processes} process{'es' * (state.num_processes > 1)}"
        print(f"translate: {processes}, {state.device.type}, {'bf16' if _bf16(settings) else 'fp32'}")
    parts = _parts(settings, out, state)
    count = 0
    for part in parts:
        count = _translate(settings, part, parts[0], state)
        state.wait_for_everyone()
    if state.is_main_process:
        for left in Path(f"{out}.parts").rglob("*.tmp"):
            left.unlink(missing_ok=True)
        judge(settings, out, [[part.shard(i) for part in parts] for i in range(count)])
    state.wait_for_everyone()


def _check(settings: TranslateSettings, out: Path) -> None:
    if out.suffix != ".tsv":
        raise SettingsError(f"--translate.out {out}: pairs are written as .tsv; give a name that ends so")
    for name in ("beams", "max_tokens", "batch", "shard_rows"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"--translate.{name} {getattr(settings, name)}: give 1 or more")
    if settings.min_ratio >= settings.max_ratio:
        raise SettingsError(
            f"--translate.min_ratio {settings.min_ratio:g} is not below --translate.max_ratio {settings.max_ratio:g}"
        )


def _parts(settings: TranslateSettings, out: Path, state: PartialState) -> list[Part]:
    """The directions to translate, forth and, if asked for, back; each folder guarded by its settings."""
    folder = Path(f"{out}.parts")
    made_with = {
        "code": CODE_VERSION,
        "source sha256": source_sha256(settings),
        "column": settings.column,
        "limit": settings.limit,
        "shard_rows": settings.shard_rows,
        "beams": settings.beams,
        "length_penalty": settings.length_penalty,
        "max_tokens": settings.max_tokens,
        "bf16": _bf16(settings),
    }
    parts = []
    for name, flag, model in (
        ("forth", "translate.model", settings.model),
        ("back", "translate.back_model", settings.back_model),
    ):
        if not model:
            continue
        path = model_folder(model, flag)
        direction = Direction("en", "zh", settings.target_code) if name == "forth" else Direction("zh", "en")
        part = Part(folder / name, path, flag, direction)
        # The back part depends on the forth part's settings too: it translates what that wrote.
        made_with = made_with | {f"{name} model": model, f"{name} model sha256": files_sha256(path)}
        if name == "forth":
            made_with["target_code"] = settings.target_code
        with state.main_process_first():
            guard(part.folder, made_with, "--translate.out")
        parts.append(part)
    return parts


def _translate(settings: TranslateSettings, part: Part, forth: Part, state: PartialState) -> int:
    """Make this process's shards of a part that are not there yet. Returns the count of all shards."""
    translator: Translator | None = None
    index = -1
    captions = groups_of(read_captions(settings), settings.shard_rows)
    bar = tqdm(captions, desc=f"translate {part.folder.name}", unit="shard", disable=not state.is_main_process)
    for index, group in enumerate(bar):
        if index % state.num_processes != state.process_index or part.shard(index).is_file():
            continue
        translator = translator or _translator(settings, part, state.device)
        records = _forth(group, translator) if part is forth else _back(forth.shard(index), translator)
        write_shard(part.shard(index), records)
    return index + 1


def read_captions(settings: TranslateSettings) -> Iterator[Row]:
    """The source's rows as far as the limit goes, their English tidied. A fault says why one is not translated."""
    seen: set[bytes] = set()  # digests: fifteen million captions are many gigabytes, their digests are not
    for row in islice(rows.read(english_only(settings)), settings.limit):
        en = " ".join(row.en.split())
        digest = hashlib.blake2b(normalise(en).lower().encode(), digest_size=12).digest()
        fault = row.fault or ("" if any(c.isalpha() for c in en) else "no words")
        yield replace(row, en=en, fault=fault or ("duplicate caption" if digest in seen else ""))
        seen.add(digest)


def english_only(settings: TranslateSettings) -> Source:
    """The source as a corpus without a Chinese side."""
    return Source(require(settings.source, "translate.source", "the English captions"), zh="", en=settings.column)


def groups_of(captions: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """The rows by shards."""
    while group := list(islice(captions, size)):
        yield group


def _translator(settings: TranslateSettings, part: Part, device: torch.device) -> Translator:
    search = Search(settings.beams, settings.length_penalty, settings.max_tokens)
    dtype = torch.bfloat16 if _bf16(settings) else torch.float32
    return load_translator(part.model, part.flag, part.direction, search, settings.batch, device, dtype)


def _forth(group: list[Row], translator: Translator) -> list[dict[str, Any]]:
    outputs = iter(translator.translate([caption.en for caption in group if not caption.fault]))
    records = []
    for caption in group:
        record = {"file": caption.source, "row": caption.number, "en": caption.en, "zh": "", "fault": caption.fault}
        if not caption.fault:
            output = next(outputs)
            record |= {"zh": output.text, "fault": output.fault}
        records.append(record)
    return records


def _back(shard: Path, translator: Translator) -> list[dict[str, Any]]:
    records = read_shard(shard)
    good = [bool(record["zh"]) and not record["fault"] for record in records]
    outputs = iter(translator.translate([record["zh"] for record, translated in zip(records, good) if translated]))
    return [{"back": next(outputs).text if translated else ""} for translated in good]


def write_shard(path: Path, records: list[dict[str, Any]]) -> None:
    """JSON lines, whole or not at all. The process's number keeps two runs in one folder from one temporary file."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    temporary.write_bytes(text.encode())
    try:
        temporary.replace(path)
    except FileNotFoundError:  # another run in this folder was through, and swept up
        if not path.is_file():
            raise


def source_sha256(settings: TranslateSettings) -> str:
    """Digest of the source's files, or the id of a dataset of the hub."""
    source = english_only(settings)
    if rows.is_hub(source.path):
        return source.path
    total = hashlib.sha256()
    for path in rows.files(source):
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            with file.open("rb") as handle:
                while block := handle.read(1 << 22):
                    total.update(block)
    return total.hexdigest()


def _bf16(settings: TranslateSettings) -> bool:
    if settings.precision != "auto":
        return settings.precision == "bf16"
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
