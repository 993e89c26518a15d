"""Stage `translate`: English captions to Chinese/English pairs by a translation model.

python -m trainer translate --translate.source captions.tsv --translate.out pairs.tsv
torchrun --nproc_per_node 4 -m trainer translate ...    # the same bytes, by several GPUs or CPU processes

Writes OUT, OUT.rejects.tsv, OUT.summary.json, and OUT.parts with unchecked translations in shards of JSON lines. A
killed run resumes after its last shard, and other limits of the checks need no second translation. A shard depends on
its own rows alone: shard i is made by process i modulo their count.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from zhclip.device import best_precision, usable_gpu
from zhclip.io import atomic_write
from zhclip.prompt import normalise

from ..base.device import processes
from ..base.files import file_sha256, write_text
from ..base.locks import hold
from ..base.recipe import SettingsError, Source
from ..base.settings import check_settings, public_name, require
from ..base.stage_settings import TranslateSettings, Translation
from ..corpus.lines import Row
from ..corpus.readers import read, source_sha256
from ..models.load import ModelError, resolve
from ..progress import Listener, track
from .checks import back_score, fault
from .translator import FILES, FLAGS, OLD_WEIGHTS, Output, load_translator

log = logging.getLogger(__name__)
CODE_VERSION = 2  # of the shards
WEIGHTS = (".bin", ".json", ".model", ".safetensors", ".spm")
SHAPING = ("column", "limit", "shard_rows", "beams", "max_tokens", "target_code")  # settings that shape a shard


@dataclass(frozen=True)
class Direction:
    """One translation of all shards: its folder, its model, and the language that it writes, zh or en."""

    folder: Path
    model: Path
    target: str

    def shard(self, index: int) -> Path:
        """Path of a shard."""
        return self.folder / f"{index:05d}.jsonl"

    def read(self, index: int, rows: int) -> list[Output]:
        """A shard's outputs, one a row. Raises SettingsError where it is damaged."""
        path = self.shard(index)
        try:
            outputs = [Output(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{path}: damaged ({error}); delete it and run translate again") from error
        if len(outputs) != rows:
            raise SettingsError(f"{path}: {len(outputs)} rows instead of {rows}; delete it and run translate again")
        return outputs


def run(translation: Translation, progress: Listener | None = None) -> None:
    """Stage `translate`. Raises BusyError, CorpusError, ModelError, SettingsError; Cancelled by the listener."""
    settings = translation.translate
    out = Path(require(settings.out, "translate.out", "the pairs to write, a .tsv"))
    check_flags(settings, out)
    parts, state = Path(f"{out}.parts"), processes()
    with hold(parts, "--translate.out"):
        shards = list(read_shards(settings))
        forth, *back = directions = open_directions(settings, parts, state)

        def translated(index: int) -> list[str]:
            return [output.text for output in forth.read(index, len(shards[index]))]

        captions = [["" if row.fault else row.en for row in rows] for rows in shards]
        translate(forth, captions.__getitem__, len(shards), settings, progress)
        for direction in back:
            translate(direction, translated, len(shards), settings, progress)
        if state.is_main_process:
            outputs = [[one.read(i, len(rows)) for one in directions] for i, rows in enumerate(shards)]
            write_pairs(settings, out, shards, outputs)
        state.wait_for_everyone()


def check_flags(settings: TranslateSettings, out: Path) -> None:
    """Raise SettingsError for the first setting that cannot be used."""
    if out.suffix != ".tsv":
        raise SettingsError(f"--translate.out {out}: pairs are written as .tsv; give a name that ends so")
    for name in ("beams", "max_tokens", "batch", "shard_rows"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"--translate.{name} {getattr(settings, name)}: give 1 or more")
    if settings.min_ratio >= settings.max_ratio:
        raise SettingsError(f"--translate.min_ratio {settings.min_ratio:g}: not below max_ratio {settings.max_ratio:g}")


def read_shards(settings: TranslateSettings) -> Iterator[list[Row]]:
    """The captions in shards, their white space tidied. A row's `fault` says why it is not translated."""
    source = Source(require(settings.source, "translate.source", "the English captions"), zh="", en=settings.column)
    captions = islice(read(source), settings.limit)
    seen: set[bytes] = set()  # digests, which are smaller than captions
    while rows := list(islice(captions, settings.shard_rows)):
        for at, row in enumerate(rows):
            en = " ".join(row.en.split())
            digest = hashlib.blake2b(normalise(en).lower().encode(), digest_size=12).digest()
            fault = row.fault or ("" if any(c.isalpha() for c in en) else "no words")
            rows[at] = replace(row, en=en, fault=fault or ("duplicate caption" if digest in seen else ""))
            seen.add(digest)
        yield rows


def open_directions(settings: TranslateSettings, parts: Path, state: Any) -> list[Direction]:
    """Into Chinese and, with a back_model, back. Raises SettingsError where shards of other settings are there."""
    source = Source(str(settings.source), zh="", en=settings.column)
    shaping = {"code": CODE_VERSION, "source sha256": source_sha256(source), "dtype": str(dtype_of(settings))}
    shaping |= {name: getattr(settings, name) for name in SHAPING}
    directions = []
    for name, target, model in (("forth", "zh", settings.model), ("back", "en", settings.back_model)):
        if not model:
            continue
        folder = resolve(model, FLAGS[target], FILES)
        if not list(folder.glob("*.safetensors")):
            resolve(model, FLAGS[target], OLD_WEIGHTS)
        if not folder.is_dir():
            raise ModelError(f"--{FLAGS[target]} {model}: not a folder; give a translation model's, or a hub id")
        weights = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
        shaping |= {f"{name} model": model, f"{name} model sha256": file_sha256(*weights, named=True)}
        with state.main_process_first():
            check_settings(parts / name, shaping, "--translate.out")
        directions.append(Direction(parts / name, folder, target))
    return directions


def translate(
    direction: Direction,
    texts: Callable[[int], list[str]],
    shards: int,
    settings: TranslateSettings,
    progress: Listener | None,
) -> None:
    """Make this process's missing shards of a direction, and wait for the other processes. `texts`: a shard's texts, an
    empty one for a row that is not translated."""
    state = processes()
    missing = [i for i in range(state.process_index, shards, state.num_processes) if not direction.shard(i).is_file()]
    if missing:
        translator = load_translator(direction.model, direction.target, settings, state.device, dtype_of(settings))
    for index in track(missing, f"translate into {direction.target}", len(missing), progress):
        outputs = iter(translator.translate([text for text in texts(index) if text]))
        lines = [asdict(next(outputs) if text else Output("")) for text in texts(index)]
        write_text(direction.shard(index), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    state.wait_for_everyone()


def dtype_of(settings: TranslateSettings) -> torch.dtype:
    """bf16 where it is asked for, or `auto` and a GPU computes in it; else fp32."""
    gpu = usable_gpu() and best_precision(gpu=True) == "bf16"
    return torch.bfloat16 if settings.precision == "bf16" or (settings.precision == "auto" and gpu) else torch.float32


def write_pairs(settings: TranslateSettings, out: Path, shards: list[list[Row]], outputs: list) -> None:
    """Check all translations; write OUT, OUT.rejects.tsv and OUT.summary.json. `outputs`: for each shard one list of
    outputs a direction. Raises SettingsError when no pair is left."""
    rejected: Counter[str] = Counter()
    scores: list[float] = []
    pairs = 0
    with atomic_write(out) as accepted, atomic_write(Path(f"{out}.rejects.tsv")) as rejects:
        accepted.write(b"zh\ten\n")
        rejects.write(b"file\trow\treason\tzh\ten\n")
        for row, forth, *back in (parts for rows, lists in zip(shards, outputs) for parts in zip(rows, *lists)):
            reason = row.fault or forth.fault or fault(row.en, forth.text, settings.min_ratio, settings.max_ratio)
            if back and not reason:
                scores.append(back_score(row.en, back[0].text))
                reason = "back-translation" if scores[-1] < settings.back_threshold else ""
            if reason:
                rejected[reason] += 1
                rejects.write(f"{row.source}\t{row.number}\t{reason}\t{forth.text}\t{row.en}\n".encode())
            else:
                pairs += 1
                accepted.write(f"{forth.text}\t{row.en}\n".encode())
    summary: dict[str, Any] = {
        "rows": sum(map(len, shards)),
        "pairs": pairs,
        "rejected": dict(sorted(rejected.items())),
    }
    if scores:
        summary["mean back-translation chrF"] = round(sum(scores) / len(scores), 2)
    local = {name: public_name(getattr(settings, name)) for name in ("source", "out", "model", "back_model")}
    write_text(Path(f"{out}.summary.json"), json.dumps(summary | {"settings": asdict(settings) | local}, indent=1))
    log.info("translate: %d pairs of %d captions; rejected: %s", pairs, summary["rows"], summary["rejected"])
    if not pairs:
        raise SettingsError(f"{out}: no usable pair of {summary['rows']} captions; rejected: {summary['rejected']}")
