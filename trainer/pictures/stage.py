"""Paint the same prompts through several encoders and one SD1.5, and measure how alike the outcomes are.

python -m trainer compare --checkpoint SD15 --encoders A.safetensors,B.safetensors --seeds 1,2,3 --out DIR

The checkpoint's own CLIP reads the English side, and is what all others are held against. Beside the encoders stand a
ceiling, the English prompt in other words, and two floors, another prompt and the empty one. Every finished picture and
figure is a file of its own, so a run that was stopped goes on behind the last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from zhclip.artifact import read_meta

from ..base import (
    CompareSettings,
    SettingsError,
    hold,
    public_name,
    read_tensors,
    require,
    sweep,
    write_tensors,
    write_text,
)
from ..encoders import TOKENIZER_FILES, ModelError, resolve
from .cells import DEFAULT, ENGLISH, Cell, Prompt, Row, cells, file_sha256, read_prompts, rows
from .conditioning import Conditionings, encode_all

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PIPELINE = [
    *("model_index.json", "scheduler/scheduler_config.json", *(f"tokenizer/{name}" for name in TOKENIZER_FILES)),
    *("text_encoder/config.json", "text_encoder/model.safetensors", "unet/config.json", "vae/config.json"),
    *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
]
WEIGHTS = ("unet", "vae", "text_encoder")
CURE = "delete it and start the comparison again"
MEANS = ("attention_cosine", "attention_error", "noise_cosine", "noise_error")


def run(settings: CompareSettings) -> dict[str, Any]:
    """The stage: pictures, figures.json, figures.md, a grid for each seed and index.html in the folder `out`."""
    folder = Path(settings.out)
    with hold(folder / ".lock", f"--out {settings.out}", "--out"):
        sweep(folder, "*.tmp", "*/*.tmp")
        return _run(settings, folder)


def _run(settings: CompareSettings, folder: Path) -> dict[str, Any]:
    checkpoint = resolve(require(settings.checkpoint, "checkpoint", "a Stable Diffusion 1.5"), "checkpoint", PIPELINE)
    _check(settings)
    prompts = read_prompts(Path(settings.prompts) if settings.prompts else DEFAULT)
    digest = checkpoint_sha256(checkpoint)
    made = rows(settings, all(prompt.paraphrase for prompt in prompts), digest)
    layer = clip_layer(made)
    shared = common(settings, digest, layer)
    every = cells(settings, prompts, made, shared)
    work = missing(folder, every)
    if work:
        from .pipeline import load_pipeline

        conditionings = encode_all(settings, checkpoint, needed(every, work), layer)
        paint_cells(folder, every, work, conditionings, load_pipeline(checkpoint, settings.sampler))
    return write_outcome(settings.clip, folder, shared, prompts, made, every)


def write_outcome(
    clip: str | None, folder: Path, shared: dict[str, Any], prompts: list[Prompt], made: list[Row], every: list[Cell]
) -> dict[str, Any]:
    """figures.json, figures.md, the grids and the page of finished pictures. Returns the figures."""
    shared = shared | {"clip": public_name(clip), "torch": torch.__version__.partition("+")[0]}
    figures = {"settings": shared, **summary(clip, folder, prompts, made, every)}
    write_text(folder / "figures.json", json.dumps(figures, ensure_ascii=False, indent=1))

    from .page import to_markdown, write_grids, write_page

    write_text(folder / "figures.md", to_markdown(figures))
    write_grids(folder, figures)
    write_page(folder, figures)
    print(to_markdown(figures))
    print(folder / "index.html")
    return figures


def _check(settings: CompareSettings) -> None:
    for name, least in (("steps", 1), ("width", 8), ("height", 8)):
        if getattr(settings, name) < least or (least == 8 and getattr(settings, name) % 8):
            of = "a multiple of 8" if least == 8 else "1 or more"
            raise SettingsError(f"--{name} {getattr(settings, name)}: give {of}")
    try:
        from .likeness import Scorer
        from .pipeline import scheduler_class
    except ImportError as error:
        raise SettingsError(f'{error.name} is not installed: pip install "diffusers>=0.35" pillow') from error
    scheduler_class(settings.sampler)
    if settings.clip:
        Scorer(settings.clip)  # what is wrong with it shows before the first picture, not behind the last


def checkpoint_sha256(checkpoint: Path) -> str:
    """Digest of a checkpoint file, or of a folder's three models. Raises ModelError for a folder that lacks one."""
    if checkpoint.is_file():
        return file_sha256(checkpoint)
    files = []
    for part in WEIGHTS:
        found = sorted(path for kind in ("*.safetensors", "*.bin") for path in (checkpoint / part).glob(kind))
        if not found:
            raise ModelError(f"--checkpoint {checkpoint}: no weights in {part}/; give a diffusers folder of SD1.5")
        files += found
    return file_sha256(*files)


def clip_layer(made: list[Row]) -> int:
    """The hidden state of the CLIP that the encoders answer for. Raises SettingsError where they differ."""
    layers = {row.label: read_meta(row.encoder).teacher.layer for row in made if row.encoder != ENGLISH}
    if len(set(layers.values())) > 1:
        said = ", ".join(f"{label}: {layer}" for label, layer in layers.items())
        raise SettingsError(
            f"--encoders: they answer for different layers of the CLIP ({said}); compare each kind apart"
        )
    return next(iter(layers.values()), -1)


def common(settings: CompareSettings, digest: str, layer: int) -> dict[str, Any]:
    """What all pictures are made with."""
    names = ("sampler", "steps", "guidance", "width", "height")
    return {
        "checkpoint": public_name(settings.checkpoint),
        "checkpoint sha256": digest,
        "clip layer": layer,
        "precision": "fp16" if torch.cuda.is_available() else "fp32",
        **{name: getattr(settings, name) for name in names},
    }


def picture(folder: Path, cell: Cell) -> Path:
    """Where a cell's picture lies."""
    return folder / "pictures" / f"{cell.name}.png"


def queries(folder: Path, cell: Cell) -> Path:
    """Where it lies what the UNet was asked for a cell's picture."""
    return folder / "queries" / f"{cell.name}.safetensors"


def agreed(folder: Path, cell: Cell, reference: Cell) -> Path:
    """Where a cell's agreement with the reference lies."""
    return folder / "agreement" / f"{cell.name}-{reference.name.rpartition('-')[2]}.json"


def references(every: list[Cell]) -> dict[tuple[int, int], Cell]:
    """The English cell of each prompt and seed."""
    return {(cell.column, cell.seed): cell for cell in every if cell.row.kind == "reference"}


def missing(folder: Path, every: list[Cell]) -> list[Cell]:
    """The cells whose picture, or agreement with the reference, is not there."""
    english = references(every)
    return [
        cell
        for cell in every
        if not picture(folder, cell).is_file()
        or not agreed(folder, cell, english[cell.column, cell.seed]).is_file()
        or (cell.row.encoder == ENGLISH and not queries(folder, cell).is_file())
    ]


def needed(every: list[Cell], work: list[Cell]) -> list[Cell]:
    """The cells whose conditionings the work takes: its own, and those of the English ones that it is held against."""
    english = references(every)
    found = {cell.name: cell for one in work for cell in (one, english[one.column, one.seed])}
    return list(found.values())


def paint_cells(
    folder: Path, every: list[Cell], work: list[Cell], conditionings: Conditionings, pipeline: StableDiffusionPipeline
) -> None:
    """Paint the cells of `work`, each picture with its agreement. Raises ModelError where widths do not fit."""
    from .agreement import agreement, reference_answers
    from .pipeline import paint

    english = references(every)
    _check_widths(work, conditionings, pipeline.unet.config.cross_attention_dim)
    progress = tqdm(work, desc="paint", unit="picture")
    answers_of, answers = None, None
    for cell in progress:
        progress.set_postfix_str(f"{cell.row.label}, seed {cell.seed}")
        reference = english[cell.column, cell.seed]
        own, negative = conditionings[cell.row.encoder, cell.text], conditionings[cell.row.encoder, ""]
        by_clip = cell.row.encoder == ENGLISH  # any of these may be the reference of another column
        if not picture(folder, cell).is_file() or (by_clip and not queries(folder, cell).is_file()):
            png, asked = paint(pipeline, own, negative, cell.made_with)
            if by_clip:
                write_tensors(queries(folder, cell), asked)
            _write(picture(folder, cell), png)
        target = agreed(folder, cell, reference)
        if target.is_file():
            continue
        asked = read_tensors(queries(folder, reference), CURE, verify=True)
        if answers_of != reference.name:
            answers_of, answers = reference.name, None  # the old ones go before the new ones come
            answers = reference_answers(pipeline.unet, asked, conditionings[ENGLISH, reference.text])
        write_text(target, json.dumps(agreement(pipeline.unet, asked, answers or [], own)))


def _check_widths(work: list[Cell], conditionings: Conditionings, width: int) -> None:
    for cell in work:
        found = conditionings[cell.row.encoder, cell.text].shape[1]
        if found != width:
            raise ModelError(
                f"{cell.row.encoder}: its vectors are {found} wide, and the checkpoint's UNet reads {width}"
            )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def summary(
    clip: str | None, folder: Path, prompts: list[Prompt], made: list[Row], every: list[Cell]
) -> dict[str, Any]:
    """Everything that the page shows: each cell's figures, and each row's means."""
    english = references(every)
    score = _scores(clip)
    shown = []
    for cell in tqdm(every, desc="figures", unit="picture"):
        reference = english[cell.column, cell.seed]
        found = json.loads(agreed(folder, cell, reference).read_text(encoding="utf-8"))
        of = {"row": cell.row.label, "column": cell.column, "seed": cell.seed, "text": cell.text}
        of |= {"picture": picture(folder, cell).relative_to(folder).as_posix(), "agreement": found}
        of |= score(picture(folder, cell), picture(folder, reference), prompts[cell.column].en)
        shown.append(of)
    return {
        "prompts": [vars(prompt) for prompt in prompts],
        "seeds": list(dict.fromkeys(cell.seed for cell in every)),
        "ceiling": any(row.kind == "ceiling" for row in made),
        "rows": [{"label": row.label, "kind": row.kind, **_means(shown, row.label)} for row in made],
        "cells": shown,
    }


def _scores(clip: str | None) -> Callable[[Path, Path, str], dict[str, float]]:
    """A function of a picture, the reference's and the English prompt. Each picture is read by the CLIP once."""
    from .likeness import Scorer, pixel_distance

    scorer = Scorer(clip) if clip else None
    vectors: dict[Path, torch.Tensor] = {}
    texts: dict[str, torch.Tensor] = {}

    def score(own: Path, reference: Path, text: str) -> dict[str, float]:
        found = {"pixel_distance": pixel_distance(own, reference)}
        if scorer is None:
            return found
        for path in (own, reference):
            if path not in vectors:
                vectors[path] = scorer.picture(path)
        if text not in texts:
            texts[text] = scorer.text(text)
        found["clip_distance"] = max(0.0, 1 - float(vectors[own] @ vectors[reference]))
        return found | {"clip_score": 100 * float(vectors[own] @ texts[text])}

    return score


def _means(shown: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """A row's figures over its prompts and seeds; `layers` and `timesteps` are means over the rest."""
    own = [cell for cell in shown if cell["row"] == label]
    found = [cell["agreement"] for cell in own]
    means = {name: torch.tensor([one[name] for one in found]).double().mean(0) for name in MEANS}
    result: dict[str, Any] = {name: float(value.mean()) for name, value in means.items()}
    result["by_layer"] = means["attention_cosine"].mean(0).tolist()
    result["by_timestep"] = means["noise_cosine"].tolist()
    for name in ("pixel_distance", "clip_distance", "clip_score"):
        if name in own[0]:
            result[name] = fmean(cell[name] for cell in own)
    return result
