"""Paint the same prompts through several encoders and one SD1.5, and measure how alike the outcomes are.

python -m trainer compare --checkpoint SD15 --encoders A.safetensors,B.safetensors --seeds 1,2,3 --out DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.locks import hold
from ..base.recipe import SettingsError
from ..base.stage_settings import CompareSettings


def run(settings: CompareSettings) -> dict[str, Any]:
    """The stage: pictures, figures.json, figures.md and index.html in the folder `out`. Returns the figures."""
    try:
        from .comparison import compare  # the one stage that needs these
    except ImportError as error:
        raise SettingsError(f'{error.name} is not installed: pip install "diffusers>=0.35" pillow') from error
    folder = Path(settings.out)
    with hold(folder, "--out"):
        return compare(settings, folder)
