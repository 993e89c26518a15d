"""The figures of a finished comparison: each cell's, and each row's means over prompts and seeds."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from ..base.files import read_json
from ..base.html import markdown_table
from .cells import Prompt, Reader
from .likeness import Scorer, pixel_distance
from .painting import CURE, Gallery

MEANS = ("attention_cosine", "attention_error", "noise_cosine", "noise_error")
COLUMNS = {
    "attention_cosine": ("attention cosine", 4),
    "attention_error": ("attention error", 3),
    "noise_cosine": ("noise cosine", 4),
    "noise_error": ("noise error", 4),
    "pixel_distance": ("pixel distance", 3),
    "clip_distance": ("CLIP distance", 3),
    "clip_score": ("CLIP score", 1),
}
NO_CEILING = "The ceiling `English paraphrase` is left out: the prompts have no column `paraphrase`."


def summary(clip: str | None, gallery: Gallery, prompts: list[Prompt], readers: list[Reader]) -> dict[str, Any]:
    """Everything that the page shows: each cell's figures, and each row's means."""
    scorer = Scorer(clip) if clip else None
    cells = []
    for cell in tqdm(gallery.cells, desc="figures", unit="picture"):
        picture, reference = gallery.picture(cell), gallery.picture(gallery.reference(cell))
        cells.append(
            {
                **{"row": cell.reader.label, "column": cell.column, "seed": cell.seed, "text": cell.text},
                "picture": picture.relative_to(gallery.folder).as_posix(),
                "agreement": read_json(gallery.agreement(cell), CURE),
                **_by_pictures(scorer, picture, reference, prompts[cell.column].en),
            }
        )
    return {
        "prompts": [vars(prompt) for prompt in prompts],
        "seeds": list(dict.fromkeys(cell.seed for cell in gallery.cells)),
        "ceiling": any(reader.kind == "ceiling" for reader in readers),
        "rows": [{"label": one.label, "kind": one.kind, **_means(cells, one.label)} for one in readers],
        "cells": cells,
    }


def _by_pictures(scorer: Scorer | None, own: Path, reference: Path, text: str) -> dict[str, float]:
    distance = {"pixel_distance": pixel_distance(own, reference)}
    if scorer is None:
        return distance
    vector = scorer.picture(own)
    apart = max(0.0, 1 - float(vector @ scorer.picture(reference)))
    return distance | {"clip_distance": apart, "clip_score": 100 * float(vector @ scorer.text(text))}


def _means(cells: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """A row's figures over its prompts and seeds; `by_layer` and `by_timestep` are means over the rest."""
    own = [cell for cell in cells if cell["row"] == label]
    means = {name: torch.tensor([cell["agreement"][name] for cell in own]).double().mean(0) for name in MEANS}
    pictures = [name for name in COLUMNS if name in own[0]]
    return {
        **{name: float(value.mean()) for name, value in means.items()},
        "by_layer": means["attention_cosine"].mean(0).tolist(),
        "by_timestep": means["noise_cosine"].tolist(),
        **{name: fmean(cell[name] for cell in own) for name in pictures},
    }


def table(figures: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """The rows' means as text, and the columns' names."""
    columns = {name: column for name, column in COLUMNS.items() if name in figures["rows"][0]}
    body = [
        [row["label"], row["kind"], *(f"{row[name]:.{digits}f}" for name, (_, digits) in columns.items())]
        for row in figures["rows"]
    ]
    return body, ["", "", *(title for title, _ in columns.values())]


def to_markdown(figures: dict[str, Any]) -> str:
    """The table, and over what its figures are means."""
    note = f"Means over {len(figures['prompts'])} prompts and {len(figures['seeds'])} seeds, against the row `english`."
    return "\n".join([note, *([] if figures["ceiling"] else [NO_CEILING]), "", markdown_table(*table(figures)), ""])
