"""Stage `compare`: the same prompts through several encoders and one Stable Diffusion 1.5, from the same noise.

python -m trainer compare --checkpoint SD15 --encoders A.safetensors,B.safetensors --seeds 1,2,3 --out DIR

The checkpoint's own CLIP reads the English prompt; all else is measured against it. Beside the encoders are the English
prompt in other words, another prompt and the empty one. A finished picture is a file named by a digest of all that
shapes it, so the same command resumes a stopped comparison, and rows that need the same picture share it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zhclip.artifact import read_meta
from zhclip.device import usable_gpu
from zhclip.io import atomic_write, save_tensors
from zhclip.pipelines import check_fit

from ..base.files import file_sha256, hold, read_json, read_tensors, write_text
from ..base.recipe import SettingsError
from ..base.settings import public_name, require
from ..base.stage_settings import CompareSettings
from ..models.load import resolve
from ..progress import Counter, Listener
from ..report.tables import markdown_table
from .painting import (
    ENGLISH,
    FILES,
    Encoded,
    checkpoint_sha256,
    encode_texts,
    load_pipeline,
    noise_errors,
    paint,
    scheduler_class,
)
from .prompts import DEFAULT, another, listed, parse_seeds, read_prompts

log = logging.getLogger(__name__)
KINDS = {"en": "reference", "zh": "encoder", "paraphrase": "ceiling", "other": "baseline", "empty": "baseline"}
TEMPLATE = Path(__file__).with_name("compare.html")
CURE = "delete it and start the comparison again"


class Row(NamedTuple):
    """A row of the grid: an encoder's path (or ENGLISH) and what it reads: en, zh, paraphrase, other or empty."""

    label: str
    encoder: str
    reads: str
    sha256: str


@dataclass
class Painter:
    """Makes the pictures and figures that a folder lacks. `settings`: what all pictures share; `texts`: what each
    encoder reads."""

    folder: Path
    checkpoint: Path
    layout: str
    settings: dict[str, Any]
    texts: dict[str, list[str]]
    encoded: dict[str, Encoded] = field(default_factory=dict)

    @cached_property
    def pipe(self) -> Any:
        """The pipeline, loaded at first use. Raises ArtifactError for an encoder that its UNet does not fit."""
        pipe = load_pipeline(self.checkpoint, self.settings["sampler"], self.layout)
        for encoder in set(self.texts) - {ENGLISH}:
            check_fit(encoder, read_meta(encoder), pipe)
        return pipe

    def conditioning(self, encoder: str, text: str) -> torch.Tensor:
        """(T, D) of a text; the first call encodes all texts of that encoder."""
        if encoder not in self.encoded:
            texts = ["", *self.texts[encoder]]
            self.encoded[encoder] = encode_texts(self.pipe, encoder, texts, self.settings["clip layer"])
        return self.encoded[encoder][text]

    def picture(self, row: Row, text: str, seed: int) -> str:
        """Paint a picture unless it is there. Returns its name without suffix, which ends in a digest of all settings
        that shape it."""
        encoder = ENGLISH if row.encoder == ENGLISH else Path(row.label).name
        own = {**self.settings, "encoder": encoder, "encoder sha256": row.sha256, "prompt": text, "seed": seed}
        settings = json.dumps(own, ensure_ascii=False, sort_keys=True)
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", encoder)
        name = f"{label}-seed{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
        path = self.folder / "pictures" / f"{name}.png"
        if not path.is_file():
            conditioning, empty = (self.conditioning(row.encoder, each) for each in (text, ""))
            image, inputs = paint(self.pipe, conditioning, empty, own)
            save_tensors(self.folder / "inputs" / f"{name}.safetensors", inputs)
            metadata = PngInfo()
            metadata.add_itxt("zhclip", settings)
            with atomic_write(path) as file:
                image.save(file, "PNG", pnginfo=metadata)
        return name

    def measure(self, name: str, row: Row, text: str, english_name: str, english: str) -> list[float]:
        """Noise errors against the English picture's prompt, at the timesteps recorded with that picture."""
        path = self.folder / "errors" / f"{name}-{english_name.rpartition('-')[2]}.json"
        if not path.is_file():
            inputs = read_tensors(self.folder / "inputs" / f"{english_name}.safetensors", CURE)
            both = self.conditioning(ENGLISH, english), self.conditioning(row.encoder, text)
            write_text(path, json.dumps(noise_errors(self.pipe.unet, inputs, *both)))
        return read_json(path, CURE)


def run(settings: CompareSettings, progress: Listener | None = None) -> dict[str, Any]:
    """Paint what is missing; write figures.json, figures.md and index.html into the folder `out`. Returns the figures.

    Raises ArtifactError, CorpusError, ModelError, SettingsError; Cancelled by the listener.
    """
    folder = Path(settings.out)
    checkpoint = resolve(require(settings.checkpoint, "checkpoint", "a Stable Diffusion 1.5"), "checkpoint", FILES)
    check_flags(settings)
    prompts = read_prompts(Path(settings.prompts) if settings.prompts else DEFAULT)
    with hold(folder, "--out"):
        sha256 = checkpoint_sha256(checkpoint)
        rows, layer = make_rows(settings, all(prompt.paraphrase for prompt in prompts), sha256)
        common: dict[str, Any] = {"checkpoint": public_name(str(settings.checkpoint)), "checkpoint sha256": sha256}
        common |= {"clip layer": layer, "precision": "fp16" if usable_gpu() else "fp32"}
        common |= {name: getattr(settings, name) for name in ("sampler", "steps", "guidance", "width", "height")}
        columns = [{**p._asdict(), "empty": "", "other": another(prompts, at)} for at, p in enumerate(prompts)]
        texts: dict[str, list[str]] = {}
        for row in rows:
            texts.setdefault(row.encoder, []).extend(column[row.reads] for column in columns)
        painter = Painter(folder, checkpoint, settings.layout, common, texts)
        cells = paint_cells(painter, rows, columns, parse_seeds(settings.seeds), progress)
        figures = {
            "settings": common,
            "prompts": [prompt._asdict() for prompt in prompts],
            "seeds": parse_seeds(settings.seeds),
            "rows": [row_figures(row, cells) for row in rows],
            "cells": cells,
        }
        write_text(folder / "figures.json", json.dumps(figures, ensure_ascii=False, indent=1))
        write_text(folder / "figures.md", to_markdown(figures))
        write_text(folder / "index.html", to_page(folder, figures))
    log.info("%s\n%s", to_markdown(figures), folder / "index.html")
    return figures


def paint_cells(
    painter: Painter, rows: list[Row], columns: list[dict[str, str]], seeds: list[int], progress: Listener | None
) -> list[dict[str, Any]]:
    """Every picture of the grid with its figures, seed by seed and prompt by prompt."""
    counter = Counter("compare", len(seeds) * len(columns) * len(rows), progress)
    cells = []
    for seed in seeds:
        for at, column in enumerate(columns):
            english = painter.picture(rows[0], column["en"], seed)
            for row in rows:
                text = column[row.reads]
                name = painter.picture(row, text, seed)
                errors = painter.measure(name, row, text, english, column["en"])
                cell = {"row": row.label, "column": at, "seed": seed, "text": text, "picture": f"pictures/{name}.png"}
                cells.append(cell | {"noise_error": errors})
                counter.add()
    return cells


def check_flags(settings: CompareSettings) -> None:
    """Raise SettingsError for the first flag that cannot be used."""
    if settings.steps < 1:
        raise SettingsError(f"--steps {settings.steps}: give 1 or more")
    for name in ("width", "height"):
        if getattr(settings, name) < 8 or getattr(settings, name) % 8:
            raise SettingsError(f"--{name} {getattr(settings, name)}: give a multiple of 8")
    scheduler_class(settings.sampler)
    parse_seeds(settings.seeds)


def make_rows(settings: CompareSettings, paraphrased: bool, sha256: str) -> tuple[list[Row], int]:
    """The reference, the encoders, the ceiling if there is one, the baselines; and the layer of the CLIP that the
    encoders were aligned to. Raises ArtifactError; SettingsError where their layers differ."""
    paths = [path for path in listed(settings.encoders) if path != ENGLISH]
    short = [Path(path).resolve().parent.name if Path(path).stem == "encoder" else Path(path).stem for path in paths]
    layers = {path: read_meta(path).teacher.layer for path in paths}
    if len(set(layers.values())) > 1:
        raise SettingsError(f"--encoders: aligned to different layers of the CLIP, {layers}; compare each kind apart")
    rows = [Row(ENGLISH, ENGLISH, "en", sha256)]
    for path, name in zip(paths, short):
        label = name if short.count(name) == 1 and name != ENGLISH else path
        rows.append(Row(label, path, "zh", file_sha256(Path(path))))
    labels = {"English paraphrase": "paraphrase"} if paraphrased else {}
    labels |= {"another prompt": "other", "empty prompt": "empty"}
    rows += [Row(label, ENGLISH, reads, sha256) for label, reads in labels.items()]
    return rows, next(iter(layers.values()), -1)


def row_figures(row: Row, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A row's mean error over prompts, seeds and timesteps."""
    errors = [error for cell in cells if cell["row"] == row.label for error in cell["noise_error"]]
    return {"label": row.label, "kind": KINDS[row.reads], "noise_error": fmean(errors)}


def to_markdown(figures: dict[str, Any]) -> str:
    """The rows' errors as a table."""
    lines = [[row["label"], row["kind"], f"{row['noise_error']:.4f}"] for row in figures["rows"]]
    note = f"Means over {len(figures['prompts'])} prompts and {len(figures['seeds'])} seeds, against the row `english`."
    return f"{note}\n\n{markdown_table(lines, ['', '', 'noise error'])}\n"


def to_page(folder: Path, figures: dict[str, Any]) -> str:
    """One HTML page with all pictures of `folder` inside and a slider over the seeds."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text("utf-8"))
    cells = {(cell["row"], cell["column"], cell["seed"]): cell for cell in figures["cells"]}
    images = {cell["picture"]: data_url(folder / cell["picture"]) for cell in figures["cells"]}
    return template.render(figures=figures, cells=cells, images=images)


def data_url(path: Path) -> str:
    """A picture as the data URL of a JPEG."""
    out = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(out, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
