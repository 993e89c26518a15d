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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from zhclip.prompt import normalise

from ..base.device import has_bf16, processes
from ..base.files import sweep, write_text
from ..base.locks import hold
from ..base.recipe import SettingsError, Source
from ..base.settings import check_settings, require
from ..base.stage_settings import TranslateSettings, Translation
from ..corpus.lines import Row
from ..corpus.rows import read, source_sha256
from .judgement import judge, read_shard
from .translator import Output, Translator, load_translator, model_folder, model_sha256

if TYPE_CHECKING:
    from accelerate import PartialState

CODE_VERSION = 1
SHAPING = ("column", "limit", "shard_rows", "beams", "length_penalty", "max_tokens", "target_code")


@dataclass(frozen=True)
class Part:
    """One direction of translation: its folder of shards, its model and the language that this writes."""

    folder: Path
    model: Path
    target: str

    def shard(self, index: int) -> Path:
        """Path of a shard."""
        return self.folder / f"{index:05d}.jsonl"


def run(translation: Translation) -> None:
    """Stage `translate`. Raises BusyError, CorpusError, ModelError, SettingsError."""
    settings = translation.translate
    out = Path(require(settings.out, "translate.out", "the pairs to write, a .tsv"))
    _check(settings, out)
    state = processes()
    try:
        with hold(Path(f"{out}.parts") / ".lock", f"--translate.out {out}", "--translate.out"):
            _run(settings, out, state)
    except OSError as error:
        raise SettingsError(
            f"{error.filename or out}: {error.strerror or error}; see that it is there and may be read and written, or "
            "give another --translate.out. What is translated so far is kept."
        ) from error


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


def _run(settings: TranslateSettings, out: Path, state: PartialState) -> None:
    if state.is_main_process:
        count = f"{state.num_processes} process{'es' * (state.num_processes > 1)}"
        print(f"translate: {count}, {state.device.type}, {'bf16' if _bf16(settings) else 'fp32'}")
    parts = _parts(settings, Path(f"{out}.parts"), state)
    shards = 0
    for part in parts:
        shards = _translate(settings, part, parts[0], state)
        state.wait_for_everyone()
    if state.is_main_process:
        sweep(Path(f"{out}.parts"), "*/*.tmp")
        judge(settings, out, [[part.shard(i) for part in parts] for i in range(shards)])
    state.wait_for_everyone()


def _parts(settings: TranslateSettings, folder: Path, state: PartialState) -> list[Part]:
    """The directions to translate, forth and, if asked for, back; each folder guarded by its settings."""
    made_with = {"code": CODE_VERSION, "source sha256": source_sha256(_source(settings)), "bf16": _bf16(settings)}
    made_with |= {name: getattr(settings, name) for name in SHAPING}
    parts = []
    for name, target, model in (("forth", "zh", settings.model), ("back", "en", settings.back_model)):
        if not model:
            continue
        part = Part(folder / name, model_folder(model, target), target)
        # The back part depends on the forth part's settings too: it translates what that wrote.
        made_with |= {f"{name} model": model, f"{name} model sha256": model_sha256(part.model)}
        with state.main_process_first():
            check_settings(part.folder, made_with, "--translate.out")
        parts.append(part)
    return parts


def _translate(settings: TranslateSettings, part: Part, forth: Part, state: PartialState) -> int:
    """Make this process's shards of a part that are not there yet. Returns the count of all shards."""
    translator: Translator | None = None
    index = -1
    captions = read_captions(settings)
    shards = iter(lambda: list(islice(captions, settings.shard_rows)), [])
    bar = tqdm(shards, desc=f"translate {part.folder.name}", unit="shard", disable=not state.is_main_process)
    for index, rows in enumerate(bar):
        if index % state.num_processes != state.process_index or part.shard(index).is_file():
            continue
        dtype = torch.bfloat16 if _bf16(settings) else torch.float32
        translator = translator or load_translator(part.model, part.target, settings, state.device, dtype)
        records = _forth(rows, translator) if part is forth else _back(forth.shard(index), translator)
        write_text(part.shard(index), "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return index + 1


def read_captions(settings: TranslateSettings) -> Iterator[Row]:
    """The source's rows as far as the limit goes, their English tidied. A fault says why one is not translated."""
    seen: set[bytes] = set()  # digests: fifteen million captions are many gigabytes, their digests are not
    for row in islice(read(_source(settings)), settings.limit):
        en = " ".join(row.en.split())
        digest = hashlib.blake2b(normalise(en).lower().encode(), digest_size=12).digest()
        fault = row.fault or ("" if any(c.isalpha() for c in en) else "no words")
        yield replace(row, en=en, fault=fault or ("duplicate caption" if digest in seen else ""))
        seen.add(digest)


def _source(settings: TranslateSettings) -> Source:
    """The source as a corpus without a Chinese side."""
    return Source(require(settings.source, "translate.source", "the English captions"), zh="", en=settings.column)


def _forth(rows: list[Row], translator: Translator) -> list[dict[str, Any]]:
    outputs = iter(translator.translate([row.en for row in rows if not row.fault]))
    records = []
    for row in rows:
        output = Output("", row.fault) if row.fault else next(outputs)
        records.append({"file": row.source, "row": row.number, "en": row.en, "zh": output.text, "fault": output.fault})
    return records


def _back(shard: Path, translator: Translator) -> list[dict[str, Any]]:
    texts = ["" if record["fault"] else record["zh"] for record in read_shard(shard)]
    outputs = iter(translator.translate([text for text in texts if text]))
    return [{"back": next(outputs).text if text else ""} for text in texts]


def _bf16(settings: TranslateSettings) -> bool:
    gpu = torch.cuda.is_available() and has_bf16()
    return gpu if settings.precision == "auto" else settings.precision == "bf16"
