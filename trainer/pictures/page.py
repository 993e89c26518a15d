"""A comparison as one page with everything inside: pictures, figures and a slider over the seeds."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from .figures import NO_CEILING, table

TEMPLATE = Path(__file__).with_name("compare.html")
QUALITY = 92  # of the page's JPEGs; the PNGs lie beside it


def page(folder: Path, figures: dict[str, Any]) -> str:
    """The HTML, which needs no other file and no network. `folder`: where the pictures lie."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text("utf-8"))
    body, head = table(figures)
    return template.render(
        figures=figures,
        cells={(cell["row"], cell["column"], cell["seed"]): cell for cell in figures["cells"]},
        images={cell["picture"]: _embedded(folder / cell["picture"]) for cell in figures["cells"]},
        head=head,
        body=body,
        agreement=figures["cells"][0]["agreement"],
        low=min(min(row["by_layer"]) for row in figures["rows"]),
        notes=[] if figures["ceiling"] else [NO_CEILING.replace("`", "")],
    )


def _embedded(path: Path) -> str:
    out = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
