"""The same prompts through several encoders and one SD1.5, painted by diffusers and measured. It stands beside the
other rooms, and hands on figures, grids and a page."""

from . import stage
from .cells import ENGLISH, Cell, Prompt, cells, file_sha256, rows
from .conditioning import Conditionings
from .stage import run

__all__ = [
    "ENGLISH",
    "Cell",
    "Conditionings",
    "Prompt",
    "cells",
    "file_sha256",
    "rows",
    "run",
    "stage",
]
