"""A comparison as one HTML page with all pictures inside and a slider over the seeds."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

TEMPLATE = Path(__file__).with_name("compare.html")
QUALITY = 92  # of the page's JPEGs; the PNGs are beside it


def page(folder: Path, figures: dict[str, Any]) -> str:
    """The page, which needs no other file and no network. `folder`: the folder of `pictures`."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text("utf-8"))
    cells = {(cell["row"], cell["column"], cell["seed"]): cell for cell in figures["cells"]}
    images = {cell["picture"]: jpeg(folder / cell["picture"]) for cell in figures["cells"]}
    return template.render(figures=figures, cells=cells, images=images)


def jpeg(path: Path) -> str:
    """A picture as a data URL."""
    out = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
