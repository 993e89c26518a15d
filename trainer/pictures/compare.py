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

from ..base.files import file_sha256, hold, read_tensors, write_text
from ..base.recipe import SettingsError, Source
from ..base.settings import public_name, require
from ..base.stage_settings import CompareSettings
from ..corpus.lines import CorpusError
from ..corpus.readers import read_rows
from ..models.load import resolve
from ..progress import Listener, track
from ..report.tables import markdown_table
from .painting import ENGLISH, FILES, checkpoint_sha256, encode_texts, load_pipeline, noise_errors, paint

log = logging.getLogger(__name__)
TEMPLATE, PROMPTS = (Path(__file__).with_name(name) for name in ("compare.html", "prompts.tsv"))


class Prompt(NamedTuple):
    """One prompt in both languages. `paraphrase`: the English in other words, or an empty text."""

    zh: str
    en: str
    paraphrase: str = ""


class Row(NamedTuple):
    """A row of the grid: an encoder's path or ENGLISH, the digest of its weights, what it reads of each prompt, and
    conditionings (T, D) by text."""

    label: str
    kind: str
    encoder: str
    sha256: str
    texts: list[str]
    conditionings: dict[str, torch.Tensor]


def run(settings: CompareSettings, progress: Listener | None = None) -> None:
    """Paint what is missing; write figures.json, figures.md and index.html into the folder `out`.

    Raises ArtifactError, CorpusError, ModelError, SettingsError; Cancelled by the listener.
    """
    folder = Path(settings.out)
    try:
        seeds = [int(seed) for seed in settings.seeds.split(",")]
    except ValueError as error:
        raise SettingsError(f"--seeds {settings.seeds}: give whole numbers, such as 42 or 1,2,3") from error
    if settings.steps < 1:
        raise SettingsError(f"--steps {settings.steps}: give 1 or more")
    for side in ("width", "height"):
        if getattr(settings, side) < 8 or getattr(settings, side) % 8:
            raise SettingsError(f"--{side} {getattr(settings, side)}: give a multiple of 8")
    checkpoint = resolve(require(settings.checkpoint, "checkpoint", "a Stable Diffusion 1.5"), "checkpoint", FILES)
    prompts = read_prompts(Path(settings.prompts) if settings.prompts else PROMPTS)
    encoders = [path for path in settings.encoders.split(",") if path != ENGLISH]
    layers = {path: read_meta(path).teacher.layer for path in encoders}
    if len(set(layers.values())) > 1:
        raise SettingsError(f"--encoders: aligned to different layers of the CLIP, {layers}; compare each kind apart")
    with hold(folder, "--out"):
        pipe = load_pipeline(checkpoint, settings.sampler, settings.layout)
        common: dict[str, Any] = {"checkpoint": public_name(str(settings.checkpoint))}
        common |= {"checkpoint sha256": checkpoint_sha256(checkpoint), "clip layer": next(iter(layers.values()), -1)}
        common |= {"precision": "fp16" if usable_gpu() else "fp32"}
        common |= {name: getattr(settings, name) for name in ("sampler", "steps", "guidance", "width", "height")}
        rows = make_rows(pipe, encoders, prompts, common)
        grid = [(seed, column, row) for seed in seeds for column in range(len(prompts)) for row in rows]
        cells: list[dict[str, Any]] = []
        inputs: dict[str, torch.Tensor] = {}
        for seed, column, row in track(grid, "compare", len(grid), progress):
            name = paint_once(pipe, folder, common, row, row.texts[column], seed)
            if row is rows[0]:  # the reference, on whose steps the other rows of its prompt are measured
                hint = "delete it and its picture, and start the comparison again"
                inputs = read_tensors(folder / "inputs" / f"{name}.safetensors", hint)
            both = (each.conditionings[each.texts[column]] for each in (rows[0], row))
            cell = {"row": row.label, "column": column, "seed": seed, "text": row.texts[column]}
            cell |= {"picture": f"pictures/{name}.png", "noise_error": noise_errors(pipe.unet, inputs, *both)}
            cells.append(cell)
        figures = {
            "settings": common,
            "prompts": [prompt._asdict() for prompt in prompts],
            "seeds": seeds,
            "rows": [row_figures(row, cells) for row in rows],
            "cells": cells,
        }
        write_text(folder / "figures.json", json.dumps(figures, ensure_ascii=False, indent=1))
        write_text(folder / "figures.md", to_markdown(figures))
        write_text(folder / "index.html", to_page(folder, figures))
    log.info("%s\n%s", to_markdown(figures), folder / "index.html")


def make_rows(pipe: Any, encoders: list[str], prompts: list[Prompt], common: dict[str, Any]) -> list[Row]:
    """The reference, the encoders, the ceiling if there is one, the baselines. Raises ArtifactError for an encoder that
    the UNet does not fit."""
    files = [Path(path).resolve() for path in encoders]
    names = [ENGLISH, *(file.parent.name if file.stem == "encoder" else file.stem for file in files)]
    given = [(ENGLISH, "reference", ENGLISH, [prompt.en for prompt in prompts])]
    for name, path in zip(names[1:], encoders):
        label = name if names.count(name) == 1 else path
        given.append((label, "encoder", path, [prompt.zh for prompt in prompts]))
    if all(prompt.paraphrase for prompt in prompts):
        given.append(("English paraphrase", "ceiling", ENGLISH, [prompt.paraphrase for prompt in prompts]))
    given.append(("another prompt", "baseline", ENGLISH, [another(prompts, at) for at in range(len(prompts))]))
    given.append(("empty prompt", "baseline", ENGLISH, [""] * len(prompts)))
    rows = []
    for label, kind, encoder, texts in given:
        sha256 = common["checkpoint sha256"] if encoder == ENGLISH else file_sha256(Path(encoder))
        conditionings = encode_texts(pipe, encoder, ["", *texts], common["clip layer"])
        rows.append(Row(label, kind, encoder, sha256, texts, conditionings))
    return rows


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a table, read as a corpus is. Raises CorpusError, which names the row."""
    pairs = list(read_rows(Source(str(path))))
    try:
        paraphrases = [row.en for row in read_rows(Source(str(path), zh="", en="paraphrase"))]
    except CorpusError:  # no such column
        paraphrases = [""] * len(pairs)
    prompts = [Prompt(row.zh.strip(), row.en.strip(), text.strip()) for row, text in zip(pairs, paraphrases)]
    for row, prompt in zip(pairs, prompts):
        if row.fault or not (prompt.zh and prompt.en):
            raise CorpusError(f"--prompts {path}: row {row.number}: {row.fault or 'an empty column'}")
    if not prompts:
        raise CorpusError(f"--prompts {path}: it has a header and no prompt")
    return prompts


def another(prompts: list[Prompt], column: int) -> str:
    """An English prompt other than this one: the next of the file, or one of the default ones."""
    following = [prompt.en for prompt in [*prompts[column + 1 :], *prompts[:column], *read_prompts(PROMPTS)]]
    return next(text for text in following if text != prompts[column].en)


def paint_once(pipe: Any, folder: Path, common: dict[str, Any], row: Row, text: str, seed: int) -> str:
    """Name of a picture, painted unless the folder has it. The name ends in a digest of all its settings."""
    encoder = ENGLISH if row.encoder == ENGLISH else Path(row.label).name
    settings = {**common, "encoder": encoder, "encoder sha256": row.sha256, "prompt": text, "seed": seed}
    description = json.dumps(settings, ensure_ascii=False, sort_keys=True)
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", encoder)
    name = f"{label}-seed{seed}-{hashlib.sha256(description.encode()).hexdigest()[:16]}"
    path = folder / "pictures" / f"{name}.png"
    if not path.is_file():
        image, inputs = paint(pipe, row.conditionings[text], row.conditionings[""], settings)
        save_tensors(folder / "inputs" / f"{name}.safetensors", inputs)
        metadata = PngInfo()
        metadata.add_itxt("zhclip", description)
        with atomic_write(path) as file:
            image.save(file, "PNG", pnginfo=metadata)
    return name


def row_figures(row: Row, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A row's mean error over prompts, seeds and timesteps."""
    errors = [error for cell in cells if cell["row"] == row.label for error in cell["noise_error"]]
    return {"label": row.label, "kind": row.kind, "noise_error": fmean(errors)}


def to_markdown(figures: dict[str, Any]) -> str:
    """The rows' errors as a table."""
    lines = [[row["label"], row["kind"], f"{row['noise_error']:.4f}"] for row in figures["rows"]]
    note = f"Means over {len(figures['prompts'])} prompts and {len(figures['seeds'])} seeds, against the row `english`."
    return f"{note}\n\n{markdown_table(lines, ['', '', 'noise error'])}\n"


def to_page(folder: Path, figures: dict[str, Any]) -> str:
    """One HTML page with all pictures of `folder` inside, as JPEGs, and a slider over the seeds."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text("utf-8"))
    cells = {(cell["row"], cell["column"], cell["seed"]): cell for cell in figures["cells"]}
    images = {}
    for picture in sorted({cell["picture"] for cell in figures["cells"]}):
        jpeg = io.BytesIO()
        with Image.open(folder / picture) as image:
            image.convert("RGB").save(jpeg, "JPEG", quality=92)
        images[picture] = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
    return template.render(figures=figures, cells=cells, images=images)
