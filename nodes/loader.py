"""The node that loads an encoder from models/text_encoders as a CLIP."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..zhclip.artifact import read_meta
from ..zhclip.io import ArtifactError
from .common import FOLDER, HOW_TO_ADD, encoder_names, file_stamp, schema
from .report import alignment_warning, summary

NONE_FOUND = "(none found: put a ZhCLIP encoder into models/text_encoders, then press R)"
NOTEBOOK = "https://colab.research.google.com/github/zhclip/zhclip/blob/main/notebooks/first_encoder.ipynb"


class ZhCLIPLoader(io.ComfyNode):
    """Loads an aligned encoder as a stock CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node, computed for every /object_info: the list of files is current."""
        return schema(
            node_id="ZhCLIPLoader",
            display_name="Load ZhCLIP Encoder",
            category="loaders/ZhCLIP",
            description="Loads a Chinese text encoder aligned to a Stable Diffusion 1.5 or SDXL checkpoint, in place "
            "of its CLIP. Connect it to the stock CLIP Text Encode and write the prompt in Chinese, English or both.",
            search_aliases=["Chinese CLIP", "Chinese prompt", "zhclip", "Taiyi"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=encoder_names() or [NONE_FOUND],
                    tooltip="Files of models/text_encoders that ZhCLIP's trainer wrote, known by their metadata.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Optional: the MODEL that the conditioning will meet. An encoder for another kind of "
                    "model is then refused here and not in the sampler.",
                ),
            ],
            outputs=[io.Clip.Output("clip", display_name="CLIP", tooltip="For every node that takes a CLIP.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """True, or the error that ComfyUI shows on the node before the queue runs; `file` is None for a link."""
        if file is None:
            return True
        path = folder_paths.get_full_path(FOLDER, file)
        if path is None:
            # The first folder is where new files go; the others are old names of it.
            folder = folder_paths.get_folder_paths(FOLDER)[0]
            if file == NONE_FOUND:
                return f"There is no ZhCLIP encoder in {folder}. {how_to_get_one(folder)}"
            return f"There is no file {file} in {folder}. {HOW_TO_ADD}"
        try:
            read_meta(path)
        except ArtifactError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: Any) -> str:
        """Changes with the file: an encoder that was trained again under the same name is loaded again."""
        path = folder_paths.get_full_path(FOLDER, file) if file else None
        return file_stamp(path) if path else ""

    @classmethod
    def execute(cls, file: str, model: Any = None) -> io.NodeOutput:
        """The encoder as a CLIP. Raises ArtifactError, whose message the user reads."""
        from .host.clip import load_clip
        from .host.model import require_fit

        path = folder_paths.get_full_path_or_raise(FOLDER, file)
        meta = read_meta(path)
        if model is not None:
            require_fit(path, meta, model)
        warning = alignment_warning(meta)
        if warning:
            logging.warning("ZhCLIP: %s %s: images may be black or unrelated to the prompt.", path, warning)
        return io.NodeOutput(load_clip(path), ui=ui.PreviewText(summary(meta)))


def how_to_get_one(folder: str) -> str:
    """How to train, convert or copy an encoder into `folder`, as commands for this machine."""
    pack, python = Path(__file__).absolute().parents[1], sys.executable
    python = f'"{python}"' if " " in python else python
    # In cmd, /d changes the drive as well; PowerShell's cd has no such flag.
    terminal, cd = ("command prompt (cmd)", "cd /d") if os.name == "nt" else ("terminal", "cd")
    return (
        "To get one, do one of these:\n1. Add the node Train ZhCLIP Encoder, choose your checkpoint, and press Run.\n"
        f"2. Train it in a terminal: open a {terminal} and enter these lines. The last one first says "
        f'what it will take, and puts the encoder there.\n{cd} "{pack}"\n{python} -m pip install -e ".[trainer]"\n'
        f"{python} -m trainer run\nThat is for SD1.5; for SDXL add --config recipes/sdxl.yaml to it. Without a GPU, a "
        f"notebook trains it on Colab's: {NOTEBOOK}\n"
        "3. Convert a published one: the first two of those lines, and\n"
        f"{python} -m trainer convert --source IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1 "
        f'--out "{Path(folder) / "taiyi.safetensors"}"\n'
        "4. Copy a ZhCLIP file that somebody shares there.\nThen press R, and choose it."
    )
