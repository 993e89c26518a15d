"""A comparison from its settings to its page.

The checkpoint's own CLIP reads the English side, and is what all others are held against. Beside the encoders stand a
ceiling, the English prompt in other words, and two floors, another prompt and the empty one. Every finished picture and
figure is a file of its own, so a run that was stopped goes on behind the last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from zhclip.artifact import read_meta

from ..base.files import file_sha256, write_text
from ..base.recipe import SettingsError
from ..base.settings import public_name, require
from ..base.stage_settings import CompareSettings
from ..models.load import TOKENIZER_FILES, ModelError, resolve
from .cells import DEFAULT, ENGLISH, Reader, cells, read_prompts, readers
from .conditioning import encode_all
from .figures import summary, to_markdown
from .likeness import Scorer
from .page import page
from .painting import Gallery
from .pipeline import load_pipeline, scheduler_class

PIPELINE = [
    *("model_index.json", "scheduler/scheduler_config.json", *(f"tokenizer/{name}" for name in TOKENIZER_FILES)),
    *("text_encoder/config.json", "text_encoder/model.safetensors", "unet/config.json", "vae/config.json"),
    *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
]
WEIGHTS = ("unet", "vae", "text_encoder")


def compare(settings: CompareSettings, folder: Path) -> dict[str, Any]:
    """Paint what is missing, and write figures.json, figures.md and index.html. Returns the figures."""
    checkpoint = resolve(require(settings.checkpoint, "checkpoint", "a Stable Diffusion 1.5"), "checkpoint", PIPELINE)
    check(settings)
    prompts = read_prompts(Path(settings.prompts) if settings.prompts else DEFAULT)
    digest = checkpoint_sha256(checkpoint)
    rows = readers(settings, all(prompt.paraphrase for prompt in prompts), digest)
    layer = clip_layer(rows)
    shared = common(settings, digest, layer)
    gallery = Gallery(folder, cells(settings, prompts, rows, shared))
    if work := gallery.missing():
        conditionings = encode_all(settings, checkpoint, gallery.needed(work), layer)
        gallery.paint(work, conditionings, load_pipeline(checkpoint, settings.sampler))
    shared |= {"clip": public_name(settings.clip), "torch": torch.__version__.partition("+")[0]}
    figures = {"settings": shared, **summary(settings.clip, gallery, prompts, rows)}
    write_text(folder / "figures.json", json.dumps(figures, ensure_ascii=False, indent=1))
    write_text(folder / "figures.md", to_markdown(figures))
    write_text(folder / "index.html", page(folder, figures))
    print(to_markdown(figures))
    print(folder / "index.html")
    return figures


def check(settings: CompareSettings) -> None:
    """Raises what is wrong with the settings before the first picture, not behind the last."""
    if settings.steps < 1:
        raise SettingsError(f"--steps {settings.steps}: give 1 or more")
    for name in ("width", "height"):
        pixels = getattr(settings, name)
        if pixels < 8 or pixels % 8:
            raise SettingsError(f"--{name} {pixels}: give a multiple of 8")
    scheduler_class(settings.sampler)
    if settings.clip:
        Scorer(settings.clip)


def checkpoint_sha256(checkpoint: Path) -> str:
    """Digest of a checkpoint file, or of a folder's three models. Raises ModelError for a folder that lacks one."""
    if checkpoint.is_file():
        return file_sha256(checkpoint)
    files = []
    for part in WEIGHTS:
        weights = sorted(path for kind in ("*.safetensors", "*.bin") for path in (checkpoint / part).glob(kind))
        if not weights:
            raise ModelError(f"--checkpoint {checkpoint}: no weights in {part}/; give a diffusers folder of SD1.5")
        files += weights
    return file_sha256(*files)


def clip_layer(rows: list[Reader]) -> int:
    """The hidden state of the CLIP that the encoders answer for. Raises SettingsError where they differ."""
    layers = {row.label: read_meta(row.encoder).teacher.layer for row in rows if row.encoder != ENGLISH}
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
