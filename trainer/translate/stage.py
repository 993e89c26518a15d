"""Stage `translate`: English captions to Chinese/English pairs by a translation model.

python -m trainer translate --translate.source captions.tsv --translate.out pairs.tsv
torchrun --nproc_per_node 4 -m trainer translate ...    # the same bytes, by several GPUs or CPU processes

Writes OUT, OUT.rejects.tsv, and OUT.parts with unchecked translations in shards of JSON lines. A killed run resumes
after its last shard, and another threshold needs no second translation. Process i of n makes the shards i, i + n, ...
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from zhclip.io import atomic_write
from zhclip.prompt import normalise

from ..base.device import processes
from ..base.files import file_sha256, hold, write_text
from ..base.recipe import SettingsError, Source
from ..base.settings import check_settings, require
from ..base.stage_settings import TranslateSettings
from ..corpus.clean import english_fault
from ..corpus.lines import Row
from ..corpus.readers import read_rows, source_sha256
from ..models.load import ModelError, resolve
from ..progress import Listener, track
from .checks import back_score, fault
from .translator import FLAGS, Output, Translator

log = logging.getLogger(__name__)
FILES = ["*.json", "*.spm", "*.model", "model.safetensors", "model-*.safetensors"]  # of a translation model on the hub
OLD_WEIGHTS = ["pytorch_model.bin", "pytorch_model-*.bin"]  # read where there are none in safetensors
WEIGHTS = (".bin", ".json", ".model", ".safetensors", ".spm")
SHARD_SETTINGS = ("column", "limit", "shard_rows", "beams", "max_tokens")  # that determine the translations


def run(settings: TranslateSettings, progress: Listener | None = None) -> None:
    """Stage `translate`. Raises BusyError, CorpusError, ModelError, SettingsError; Cancelled by the listener."""
    out = Path(require(settings.out, "translate.out", "the pairs to write, a .tsv"))
    check_flags(settings, out)
    parts, state = Path(f"{out}.parts"), processes()
    with hold(parts, "--translate.out"):
        rows = read_captions(settings)
        with state.main_process_first():
            models = open_models(settings, parts)
        texts = ["" if row.fault else row.en for row in rows]
        outputs = {}
        for target, model in models.items():
            outputs[target] = translate(texts, target, model, settings, parts / target, progress)
            texts = [output.text for output in outputs[target]]
        if state.is_main_process:
            write_pairs(settings, out, rows, outputs["zh"], outputs.get("en"))
        state.wait_for_everyone()


def check_flags(settings: TranslateSettings, out: Path) -> None:
    """Raise SettingsError for the first setting that cannot be used."""
    if out.suffix != ".tsv":
        raise SettingsError(f"--translate.out {out}: pairs are written as .tsv; give a name that ends so")
    for name in ("beams", "max_tokens", "batch", "shard_rows"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"--translate.{name} {getattr(settings, name)}: give 1 or more")


def read_captions(settings: TranslateSettings) -> list[Row]:
    """The captions, their white space tidied. A row's `fault` says why it is not translated. Raises CorpusError."""
    source = Source(require(settings.source, "translate.source", "the English captions"), zh="", en=settings.column)
    rows = []
    seen = set()
    for row in islice(read_rows(source), settings.limit):
        en = " ".join(row.en.split())
        key = normalise(en).lower()
        fault = row.fault or english_fault(row.en) or ("" if any(c.isalpha() for c in en) else "no words")
        rows.append(replace(row, en=en, fault=fault or ("duplicate caption" if key in seen else "")))
        seen.add(key)
    return rows


def open_models(settings: TranslateSettings, parts: Path) -> dict[str, Path]:
    """Folders of the models by the language they translate into: zh and, with a back_model, en.

    Raises ModelError; SettingsError where `parts` has shards of other settings.
    """
    source = Source(str(settings.source), zh="", en=settings.column)
    shared = {"source sha256": source_sha256(source)} | {name: getattr(settings, name) for name in SHARD_SETTINGS}
    models = {}
    for target, model in (("zh", settings.model), ("en", settings.back_model)):
        if model:
            models[target] = folder = resolve(model, FLAGS[target], FILES)
            if not list(folder.glob("*.safetensors")):
                resolve(model, FLAGS[target], OLD_WEIGHTS)
            if not folder.is_dir():
                raise ModelError(f"--{FLAGS[target]} {model}: not a folder; give a translation model's, or a hub id")
            weights = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
            shared |= {f"{target} model": model, f"{target} model sha256": file_sha256(*weights, named=True)}
            check_settings(parts / target, shared, "--translate.out")
    return models


def translate(
    texts: list[str], target: str, model: Path, settings: TranslateSettings, folder: Path, progress: Listener | None
) -> list[Output]:
    """Translations of the texts that are not empty, into shards in `folder`: this process makes its missing ones and
    waits for the other processes'. Raises ModelError, SettingsError."""
    size = settings.shard_rows
    shards = {folder / f"{at // size:05d}.jsonl": texts[at : at + size] for at in range(0, len(texts), size)}
    state = processes()
    missing = [path for path in list(shards)[state.process_index :: state.num_processes] if not path.is_file()]
    if missing:
        translator = Translator(model, target, settings, state.device)
    for path in track(missing, f"translate into {target}", len(missing), progress):
        outputs = iter(translator.translate([text for text in shards[path] if text]))
        lines = [asdict(next(outputs) if text else Output("")) for text in shards[path]]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    state.wait_for_everyone()
    return [output for path, rows in shards.items() for output in read_shard(path, len(rows))]


def read_shard(path: Path, rows: int) -> list[Output]:
    """A shard's outputs, one a row. Raises SettingsError where it is damaged."""
    try:
        outputs = [Output(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{path}: damaged ({error}); delete it and run translate again") from error
    if len(outputs) != rows:
        raise SettingsError(f"{path}: {len(outputs)} rows instead of {rows}; delete it and run translate again")
    return outputs


def write_pairs(
    settings: TranslateSettings, out: Path, rows: list[Row], outputs: list[Output], back: list[Output] | None
) -> None:
    """Check all translations; write OUT and OUT.rejects.tsv. Raises SettingsError when no pair is left."""
    rejected: Counter[str] = Counter()
    with atomic_write(out) as accepted, atomic_write(Path(f"{out}.rejects.tsv")) as rejects:
        accepted.write(b"zh\ten\n")
        rejects.write(b"file\trow\treason\tzh\ten\n")
        for at, (row, output) in enumerate(zip(rows, outputs)):
            reason = row.fault or output.fault or fault(row.en, output.text)
            if back and not reason and back_score(row.en, back[at].text) < settings.back_threshold:
                reason = "back-translation"
            if reason:
                rejected[reason] += 1
                rejects.write(f"{row.source}\t{row.number}\t{reason}\t{output.text}\t{row.en}\n".encode())
            else:
                accepted.write(f"{output.text}\t{row.en}\n".encode())
    result = f"{len(rows) - rejected.total()} pairs of {len(rows)} captions; rejected: {dict(sorted(rejected.items()))}"
    if rejected.total() == len(rows):
        raise SettingsError(f"{out}: {result}")
    log.info("translate: %s", result)
