"""What all nodes share: a schema for every ComfyUI from 0.3.64 on, and text boxes of one entry a line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io


def schema(**values: Any) -> io.Schema:
    """The io.Schema of those keywords that this ComfyUI knows: an older one raises TypeError for a keyword that came
    later, such as search_aliases.

    Outputs need a display_name: without one, a version before 2026 shows the type, and a later one the id.
    """
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def lines(text: str) -> list[str]:
    """The lines of a text box that are not blank, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]
