"""A comparison as a person reads it: a table, a labelled grid for each seed, and one page with all of it inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..base import write_text
from .contact_sheet import contact_sheet

TEMPLATE = Path(__file__).with_name("compare.html")
QUALITY = 92  # of the page's JPEGs; the PNGs lie beside it
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


def table(figures: dict[str, Any]) -> list[list[str]]:
    """Header and rows, as text."""
    names = [name for name in COLUMNS if name in figures["rows"][0]]
    head = ["", "", *(COLUMNS[name][0] for name in names)]
    return [head] + [
        [row["label"], row["kind"], *(f"{row[name]:.{COLUMNS[name][1]}f}" for name in names)] for row in figures["rows"]
    ]


def to_markdown(figures: dict[str, Any]) -> str:
    """The table, and over what its figures are means."""
    head, *body = table(figures)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
    said = f"Means over {len(figures['prompts'])} prompts and {len(figures['seeds'])} seeds, against the row `english`."
    return "\n".join([said, *([] if figures["ceiling"] else [NO_CEILING]), "", *lines]) + "\n"


def write_grids(folder: Path, figures: dict[str, Any]) -> None:
    """grid-seedN.png: rows are encoders, columns prompts."""
    heads = [[prompt["zh"], prompt["en"]] for prompt in figures["prompts"]]
    labels = [row["label"] for row in figures["rows"]]
    for seed in figures["seeds"]:
        pictures = [[folder / _cell(figures, row, at, seed)["picture"] for at in range(len(heads))] for row in labels]
        target = folder / f"grid-seed{seed}.png"
        temporary = target.with_name(target.name + ".tmp")
        contact_sheet(pictures, labels, heads).save(temporary, "PNG")
        temporary.replace(target)


def write_page(folder: Path, figures: dict[str, Any]) -> None:
    """index.html, which needs no other file and no network."""
    cells = {(cell["row"], cell["column"], cell["seed"]): cell for cell in figures["cells"]}
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text("utf-8"))
    head, *body = table(figures)
    found = figures["cells"][0]["agreement"]
    write_text(
        folder / "index.html",
        template.render(
            figures=figures,
            cells=cells,
            images={cell["picture"]: _embedded(folder / cell["picture"]) for cell in figures["cells"]},
            head=head,
            body=body,
            layers=found["layers"],
            timesteps=found["timesteps"],
            low=min(min(row["by_layer"]) for row in figures["rows"]),
            notes=[] if figures["ceiling"] else [NO_CEILING.replace("`", "")],
        ),
    )


def _cell(figures: dict[str, Any], row: str, column: int, seed: int) -> dict[str, Any]:
    return next(c for c in figures["cells"] if (c["row"], c["column"], c["seed"]) == (row, column, seed))


def _embedded(path: Path) -> str:
    out = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
