"""Stage `compare`: the same prompts through several encoders and one Stable Diffusion 1.5, from the same noise.

python -m trainer compare --checkpoint SD15 --encoders A.safetensors,B.safetensors --seeds 1,2,3 --out DIR

The checkpoint's own CLIP reads the English prompt; all else is measured against it. Beside the encoders are the English
prompt in other words, another prompt and the empty one. A finished picture is a file named by a digest of all that
shapes it, so the same command resumes a stopped comparison, and rows that need the same picture share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL.PngImagePlugin import PngInfo

from zhclip.artifact import read_meta
from zhclip.device import usable_gpu
from zhclip.io import atomic_write
from zhclip.pipelines import check_fit

from ..base.files import file_sha256, read_json, read_tensors, write_tensors, write_text
from ..base.locks import hold
from ..base.recipe import SettingsError
from ..base.settings import public_name, require
from ..base.stage_settings import CompareSettings
from ..models.load import resolve
from ..progress import Counter, Listener
from ..report.tables import markdown_table
from .page import page
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
CURE = "delete it and start the comparison again"


@dataclass(frozen=True)
class Row:
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
            write_tensors(self.folder / "inputs" / f"{name}.safetensors", inputs)
            metadata = PngInfo()
            metadata.add_itxt("zhclip", settings)
            with atomic_write(path) as file:
                image.save(file, "PNG", pnginfo=metadata)
        return name

    def measure(self, name: str, row: Row, text: str, english_name: str, english: str) -> dict[str, list[float]]:
        """`noise_error` against the English picture's prompt, and the `timesteps` it was measured at."""
        path = self.folder / "errors" / f"{name}-{english_name.rpartition('-')[2]}.json"
        if not path.is_file():
            inputs = read_tensors(self.folder / "inputs" / f"{english_name}.safetensors", CURE)
            both = self.conditioning(ENGLISH, english), self.conditioning(row.encoder, text)
            errors = noise_errors(self.pipe.unet, inputs, *both)
            write_text(path, json.dumps({"noise_error": errors, "timesteps": inputs["timestep"].tolist()}))
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
        rows = make_rows(settings, all(prompt.paraphrase for prompt in prompts), sha256)
        common: dict[str, Any] = {"checkpoint": public_name(settings.checkpoint), "checkpoint sha256": sha256}
        common |= {"clip layer": clip_layer(rows), "precision": "fp16" if usable_gpu() else "fp32"}
        common |= {name: getattr(settings, name) for name in ("sampler", "steps", "guidance", "width", "height")}
        columns = [{**vars(p), "empty": "", "other": another(prompts, at)} for at, p in enumerate(prompts)]
        texts: dict[str, list[str]] = {}
        for row in rows:
            texts.setdefault(row.encoder, []).extend(column[row.reads] for column in columns)
        painter = Painter(folder, checkpoint, settings.layout, common, texts)
        cells = paint_cells(painter, rows, columns, parse_seeds(settings.seeds), progress)
        figures = {
            "settings": common,
            "prompts": [vars(prompt) for prompt in prompts],
            "seeds": parse_seeds(settings.seeds),
            "rows": [row_figures(row, cells) for row in rows],
            "cells": cells,
        }
        write_text(folder / "figures.json", json.dumps(figures, ensure_ascii=False, indent=1))
        write_text(folder / "figures.md", to_markdown(figures))
        write_text(folder / "index.html", page(folder, figures))
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
                figures = painter.measure(name, row, text, english, column["en"])
                cell = {"row": row.label, "column": at, "seed": seed, "text": text, "picture": f"pictures/{name}.png"}
                cells.append({**cell, **figures})
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


def make_rows(settings: CompareSettings, paraphrased: bool, sha256: str) -> list[Row]:
    """The reference, the encoders, the ceiling if there is one, the baselines. Raises ArtifactError."""
    paths = [path for path in listed(settings.encoders) if path != ENGLISH]
    short = [Path(path).resolve().parent.name if Path(path).stem == "encoder" else Path(path).stem for path in paths]
    rows = [Row(ENGLISH, ENGLISH, "en", sha256)]
    for path, name in zip(paths, short):
        read_meta(path)  # raises for a file that is no encoder, before anything is painted
        unique = short.count(name) == 1 and name != ENGLISH
        rows.append(Row(name if unique else path, path, "zh", file_sha256(Path(path))))
    labels = {"English paraphrase": "paraphrase"} if paraphrased else {}
    labels |= {"another prompt": "other", "empty prompt": "empty"}
    return rows + [Row(label, ENGLISH, reads, sha256) for label, reads in labels.items()]


def clip_layer(rows: list[Row]) -> int:
    """The layer of the CLIP that the encoders were aligned to. Raises SettingsError where they differ."""
    layers = {row.label: read_meta(row.encoder).teacher.layer for row in rows if row.encoder != ENGLISH}
    if len(set(layers.values())) > 1:
        raise SettingsError(f"--encoders: aligned to different layers of the CLIP, {layers}; compare each kind apart")
    return next(iter(layers.values()), -1)


def row_figures(row: Row, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A row's mean error over prompts, seeds and timesteps, and by timestep."""
    by_timestep = [
        fmean(values) for values in zip(*(cell["noise_error"] for cell in cells if cell["row"] == row.label))
    ]
    return {"label": row.label, "kind": KINDS[row.reads], "noise_error": fmean(by_timestep), "by_timestep": by_timestep}


def to_markdown(figures: dict[str, Any]) -> str:
    """The rows' errors as a table."""
    timesteps = [f"{timestep:.0f}" for timestep in figures["cells"][0]["timesteps"]]
    lines = [
        [row["label"], row["kind"], *(f"{error:.4f}" for error in (row["noise_error"], *row["by_timestep"]))]
        for row in figures["rows"]
    ]
    note = f"Means over {len(figures['prompts'])} prompts and {len(figures['seeds'])} seeds, against the row `english`."
    return f"{note}\n\n{markdown_table(lines, ['', '', 'noise error', *(f'at {step}' for step in timesteps)])}\n"
