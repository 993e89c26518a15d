"""What each encoder of a comparison makes of its texts, one encoder in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from zhclip.artifact import load

from ..base.device import default_device
from ..base.stage_settings import CompareSettings
from ..models.load import ModelError
from ..models.student import Student
from ..models.teacher import Teacher, load_teacher
from .cells import ENGLISH, Cell

WINDOW = 77  # CLIP's

Conditionings = dict[tuple[str, str], torch.Tensor]
"""(encoder, text) -> (windows * W, D) fp32 on the CPU."""


def encode_all(settings: CompareSettings, checkpoint: Path, cells: Iterable[Cell], layer: int) -> Conditionings:
    """The conditioning of every cell and of each encoder's empty prompt. `layer`: the hidden state of the CLIP."""
    wanted: dict[str, dict[str, None]] = {}
    for cell in cells:
        wanted.setdefault(cell.reader.encoder, {"": None})[cell.text] = None
    made: Conditionings = {}
    for encoder, texts in tqdm(wanted.items(), desc="encode", unit="encoder"):
        if encoder == ENGLISH:
            teacher = load_clip(settings, checkpoint, layer)
            made |= {(encoder, text): english(teacher, text) for text in texts}
        else:
            student = Student.from_artifact(load(encoder)).to(default_device())
            made |= {(encoder, text): student.encode_prompt(text).float().cpu() for text in texts}
    return made


def load_clip(settings: CompareSettings, checkpoint: Path, layer: int) -> Teacher:
    """The checkpoint's own text encoder. Raises ModelError that names the comparison's flags."""
    try:
        return load_teacher(str(checkpoint), WINDOW, layer, settings.tokenizer, default_device())
    except ModelError as error:
        raise ModelError(str(error).replace("--teacher.model", "--checkpoint").replace("teacher.", "")) from error


def english(teacher: Teacher, text: str) -> torch.Tensor:
    """A prompt of any length -> (windows * W, D), cut between words where a window is full."""
    windows, window = [], ""
    for word in text.split():
        longer = f"{window} {word}".strip()
        if window and teacher.length(longer) > teacher.window:
            windows.append(window)
            longer = word
        window = longer
    return teacher.encode([*windows, window])[0].flatten(0, 1).float().cpu()
