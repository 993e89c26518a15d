"""The node that loads an encoder from models/text_encoders as a CLIP."""

from __future__ import annotations

import logging
import sys
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..zhclip.artifact import read_meta
from ..zhclip.io import ArtifactError
from .common import FOLDER, core_category, encoder_names, file_stamp, schema
from .encode import check_checkpoint_clip
from .messages import message
from .report import alignment_warning, summary

PAGE = "https://github.com/zhclip/zhclip/blob/main/docs/train.md"


class ZhCLIPLoader(io.ComfyNode):
    """Loads an aligned encoder as a stock CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node, computed for every /object_info: the list of files is current."""
        return schema(
            node_id="ZhCLIPLoader",
            display_name="Load ZhCLIP Encoder",
            category=core_category("loaders"),
            description="Loads a Chinese text encoder aligned to a Stable Diffusion 1.5 or SDXL checkpoint, in place "
            "of its CLIP. Connect it to the stock CLIP Text Encode and write the prompt in Chinese, English or both.",
            search_aliases=["Chinese CLIP", "Chinese prompt", "zhclip", "Taiyi"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=encoder_names() or [message("none_found")],
                    tooltip="Files of models/text_encoders that ZhCLIP's trainer wrote, known by their metadata.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Optional: the MODEL that you sample with. An encoder for another kind of model is then "
                    "refused here and not in the sampler.",
                ),
                io.Clip.Input(
                    "checkpoint_clip",
                    optional=True,
                    tooltip="Optional: the checkpoint's own CLIP. The node then warns of an encoder that was aligned "
                    "to another text encoder, such as SDXL's under Illustrious.",
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
            folder, names = folder_paths.get_folder_paths(FOLDER)[0], encoder_names()
            if names:
                return message("no_such_file", file=file, folder=folder, names=", ".join(names))
            return first_encoder(folder)
        try:
            read_meta(path)
        except ArtifactError as error:
            return message("unusable_file", error=error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: Any) -> str:
        """Changes with the file: an encoder that was trained again under the same name is loaded again."""
        path = folder_paths.get_full_path(FOLDER, file) if file else None
        return file_stamp(path) if path else ""

    @classmethod
    def execute(cls, file: str, model: Any = None, checkpoint_clip: Any = None) -> io.NodeOutput:
        """The encoder as a CLIP. Raises ValueError or ArtifactError, whose message the user reads."""
        from .host.clip import load_clip
        from .host.model import SAME_TEACHER, require_fit, teacher_difference

        path = folder_paths.get_full_path_or_raise(FOLDER, file)
        meta, shown = read_meta(path), []
        if model is not None:
            require_fit(path, meta, model)
        warning = alignment_warning(meta)
        if warning:
            logging.warning(message("unaligned", path=path, why=warning))
        loaded = load_clip(path)
        if checkpoint_clip is not None:
            check_checkpoint_clip(checkpoint_clip, meta.keys, "checkpoint_clip")
            difference = teacher_difference(loaded, checkpoint_clip)
            if difference > SAME_TEACHER:
                shown.append(message("other_teacher", teacher=meta.teacher.id, difference=f"{difference:.2f}"))
        return io.NodeOutput(loaded, ui=ui.PreviewText("\n".join([*shown, summary(meta)])))


def first_encoder(folder: str) -> str:
    """How to train or copy an encoder into `folder`, with the line that installs what training needs."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return message("first_encoder", folder=folder, python=python, page=PAGE)
