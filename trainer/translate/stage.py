"""Stage `translate`: English captions to Chinese/English pairs by a translation model.

python -m trainer translate --translate.source captions.tsv --translate.out pairs.tsv

Writes OUT, OUT.rejects.tsv, and OUT.parts with unchecked translations in shards of JSON lines. A killed run resumes
after its last shard.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from zhclip.io import atomic_write
from zhclip.prompt import normalise

from ..base.device import default_device
from ..base.files import file_sha256, hold, write_text
from ..base.recipe import SettingsError, Source
from ..base.settings import check_settings, require
from ..base.stage_settings import TranslateSettings
from ..corpus.clean import HAN, english_fault
from ..corpus.lines import Row
from ..corpus.readers import read_rows, source_sha256
from ..models.load import resolve
from ..progress import Listener, track
from .translator import FLAG, Translation, Translator

log = logging.getLogger(__name__)
FILES = ["*.json", "*.spm", "*.model", "model.safetensors", "model-*.safetensors"]  # of a translation model on the hub
OLD_WEIGHTS = ["pytorch_model.bin", "pytorch_model-*.bin"]  # read where there are none in safetensors
WEIGHTS = (".bin", ".json", ".model", ".safetensors", ".spm")
SHARD_SETTINGS = ("column", "limit", "shard_rows", "model", "beams", "max_tokens")  # that determine the translations
LOOP = re.compile(r"([^\W\d]|\D{2,12}?)\1{3,}")
SLACK = 8  # characters beyond the ratio that a short caption's translation may have: a name can be long


def run(settings: TranslateSettings, progress: Listener | None = None) -> None:
    """Stage `translate`. Raises BusyError, CorpusError, ModelError, SettingsError; Cancelled by the listener."""
    out = Path(require(settings.out, "translate.out", "the pairs to write, a .tsv"))
    if out.suffix != ".tsv":
        raise SettingsError(f"--translate.out {out}: pairs are written as .tsv; give a name that ends so")
    for name in ("beams", "max_tokens", "batch", "shard_rows"):
        if getattr(settings, name) < 1:
            raise SettingsError(f"--translate.{name} {getattr(settings, name)}: give 1 or more")
    source = Source(require(settings.source, "translate.source", "the English captions"), zh="", en=settings.column)
    parts = Path(f"{out}.parts")
    with hold(parts, "--translate.out"):
        rows = read_captions(source, settings.limit)
        model = open_model(settings.model)
        shared = {name: getattr(settings, name) for name in SHARD_SETTINGS}
        shared |= {"source sha256": source_sha256(source), "model sha256": model_sha256(model)}
        check_settings(parts, shared, "--translate.out")
        write_pairs(out, rows, translate_shards(rows, model, settings, parts, progress))


def read_captions(source: Source, limit: int | None) -> list[Row]:
    """The captions, their white space tidied. A row's `fault` says why it is not translated. Raises CorpusError."""
    rows: list[Row] = []
    seen: set[str] = set()
    for row in islice(read_rows(source), limit):
        en = " ".join(row.en.split())
        fault = row.fault or english_fault(row.en) or ("" if any(map(str.isalpha, en)) else "no words")
        rows.append(replace(row, en=en, fault=fault or ("duplicate caption" if en.lower() in seen else "")))
        seen.add(en.lower())
    return rows


def open_model(model: str, flag: str = FLAG) -> Path:
    """Folder of a model, downloaded if it is a hub id. Raises ModelError."""
    folder = resolve(model, flag, FILES)
    if not list(folder.glob("*.safetensors")):
        resolve(model, flag, OLD_WEIGHTS)
    return folder


def model_sha256(folder: Path) -> str:
    """Digest of a model's files."""
    return file_sha256(*sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS), named=True)


def translate_shards(
    rows: list[Row], model: Path, settings: TranslateSettings, folder: Path, progress: Listener | None
) -> list[Translation]:
    """Translations of all rows, from shards in `folder`, of which the missing ones are made. Raises ModelError."""
    size = settings.shard_rows
    shards = {folder / f"{at // size:05d}.jsonl": rows[at : at + size] for at in range(0, len(rows), size)}
    missing = [path for path in shards if not path.is_file()]
    if missing:
        translator = Translator(model, settings, default_device())
    for path in track(missing, "translate", len(missing), progress):
        results = iter(translator.translate([row.en for row in shards[path] if not row.fault]))
        result = [asdict(Translation("") if row.fault else next(results)) for row in shards[path]]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in result))
    lines = [line for path in shards for line in path.read_text(encoding="utf-8").splitlines()]
    return [Translation(**json.loads(line)) for line in lines]


def write_pairs(out: Path, rows: list[Row], translations: list[Translation]) -> None:
    """Check all translations; write OUT and OUT.rejects.tsv. Raises SettingsError when no pair is left."""
    rejected: Counter[str] = Counter()
    with atomic_write(out) as accepted, atomic_write(Path(f"{out}.rejects.tsv")) as rejects:
        accepted.write(b"zh\ten\n")
        rejects.write(b"file\trow\treason\tzh\ten\n")
        for row, translation in zip(rows, translations, strict=True):
            if reason := row.fault or translation.fault or find_fault(row.en, translation.text):
                rejected[reason] += 1
                line = f"{row.source}\t{row.number}\t{reason}\t{translation.text}\t{row.en}\n"
                rejects.write(line.encode())
            else:
                accepted.write(f"{translation.text}\t{row.en}\n".encode())
    result = f"{len(rows) - rejected.total()} pairs of {len(rows)} captions; rejected: {dict(sorted(rejected.items()))}"
    if rejected.total() == len(rows):
        raise SettingsError(f"{out}: {result}")
    log.info("translate: %s", result)


def find_fault(en: str, zh: str) -> str:
    """The reason to reject a translation, or ""."""
    words = set(re.findall(r"\b[a-z]{4,}\b", en))
    copied = words & set(re.findall(r"[a-z]{4,}", zh))
    en_length, zh_length = len(en.split()), len(re.findall(r"[A-Za-z0-9.]+|[^\W_]", zh))
    numbers = [re.findall(r"\d+", unicodedata.normalize("NFKC", text).replace(",", "")) for text in (en, zh)]
    if not zh.strip():
        return "empty output"
    if normalise(en).lower() == normalise(zh).lower() or len(copied) > len(words) / 2:
        return "copy of the caption"
    if not HAN.search(zh):
        return "no Chinese"
    if has_loop(zh) and not has_loop(en):
        return "repetition loop"
    if not 0.5 * en_length - SLACK / 4 <= zh_length <= 4 * en_length + SLACK:
        return "length ratio"
    return "other numbers" if all(numbers) and not set(numbers[0]) & set(numbers[1]) else ""


def has_loop(text: str) -> bool:
    """Whether a text repeats something four times in a row (digits and single marks aside), or is half repetition."""
    fours = [text[i : i + 4] for i in range(len(text) - 3)]
    return bool(LOOP.search(text)) or (len(fours) >= 16 and len(set(fours)) < len(fours) / 2)
