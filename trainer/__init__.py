"""Aligns a Chinese text encoder with a Stable Diffusion checkpoint's own: `python -m trainer STAGE --help`."""

from __future__ import annotations

from .base.recipe import Recipe
from .progress import Listener


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Train an encoder in this process: all stages of `python -m trainer run`. See trainer.pipeline.run."""
    from . import pipeline  # imports torch, transformers and accelerate

    pipeline.run(recipe, progress)
