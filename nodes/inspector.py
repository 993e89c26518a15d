"""The node that shows what an encoder makes of a prompt."""

from __future__ import annotations

import os
from typing import Any

from comfy_api.latest import io, ui

from .conditioning import encode
from .report import alignment_doubt, predictors
from .schema import lines, schema

ANOTHER = "a stone bridge over a river in the mountains"  # the floor that an unrelated caption reaches


class ZhCLIPInspector(io.ComfyNode):
    """A picture and a text of how a prompt is read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            node_id="ZhCLIPInspector",
            display_name="ZhCLIP Inspector",
            category="ZhCLIP",
            description="Shows how a ZhCLIP encoder reads a prompt: tokens, unknown ones marked, weights, windows and "
            "languages. With MODEL, the checkpoint's CLIP and the same prompt in English, also how alike the MODEL's "
            "cross-attention answers both.",
            search_aliases=["token count", "prompt debug", "attention", "zhclip"],
            is_output_node=True,
            inputs=[
                io.Clip.Input("zhclip", tooltip="From Load ZhCLIP Encoder."),
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt, as you would paint with it."
                ),
                io.Clip.Input("clip", optional=True, tooltip="Optional: the checkpoint's own CLIP, to compare with."),
                io.String.Input(
                    "english",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Optional: the prompt in English, which `clip` reads.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Optional: the checkpoint's MODEL, with `clip` and `english`, for the attention agreement.",
                ),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Optional: captions, one a line; the nearest to the prompt are shown. Read by `clip` where "
                    "it is connected, else by the encoder itself.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The findings, 1024 pixels wide."),
                io.String.Output("report", display_name="STRING", tooltip="The same as text."),
            ],
        )

    @classmethod
    def execute(
        cls, zhclip: Any, text: str, clip: Any = None, english: str = "", model: Any = None, captions: str = ""
    ) -> io.NodeOutput:
        """Picture and report. Raises ValueError or ArtifactError, whose message is what the user reads."""
        from . import drawing
        from .page import to_picture, to_text

        findings = inspect(zhclip, text, clip, english.strip(), model, captions)
        image = drawing.to_tensor(to_picture(findings))
        return io.NodeOutput(image, to_text(findings), ui=ui.PreviewImage(image, cls=cls))


def inspect(zhclip: Any, text: str, clip: Any, english: str, model: Any, captions: str) -> Any:
    """The Findings of page.py."""
    from ..zhclip.languages import spans
    from . import host, reading
    from .page import Findings

    encoder, tokenizer = host.encoder_of(zhclip), host.tokenizer_of(zhclip)
    meta = encoder.meta
    require_partners(clip, english, model)
    agreement = None
    if model is not None:
        host.require_fit(encoder.path, meta, model)
        read = [(clip, english), (zhclip, text), (clip, ""), (clip, ANOTHER)]
        entries = [encode(by, prompt)[0] for by, prompt in read]
        rows = [host.same_width(cond, meta.teacher.width) for cond, _ in entries]
        agreement = host.attention_agreement(model, rows, entries[0][1]["pooled_output"])
    listed = lines(captions)
    return Findings(
        file=os.path.basename(encoder.path),
        teacher=meta.teacher.id,
        layer=host.layer_in_use(zhclip),
        warnings=warnings(encoder),
        text=text,
        spans=spans(text),
        windows=reading.windows_of(tokenizer, text),
        room=tokenizer.window - 2,
        unknown=tokenizer.unknown(text),
        scores=predictors(meta),
        english=english,
        agreement=agreement,
        nearest=reading.nearest(zhclip, text, clip or zhclip, listed) if listed else [],
        captions_by="the checkpoint's CLIP" if clip else "this encoder",
    )


def require_partners(clip: Any, english: str, model: Any) -> None:
    """Raise ValueError when an input that compares lacks what it is compared with."""
    if english and clip is None:
        raise ValueError("english is given and clip is not: connect the checkpoint's own CLIP, which reads it.")
    if model is not None and (clip is None or not english):
        lacking = "clip" if clip is None else "english"
        raise ValueError(
            f"model is connected and {lacking} is missing: the attention agreement compares the prompt with the same "
            "in English (english), read by the checkpoint's own CLIP (clip). Give both, or disconnect model."
        )


def warnings(encoder: Any) -> list[str]:
    """What the user should know before trusting the picture."""
    doubt = alignment_doubt(encoder.meta)
    sentences = [f"this file {doubt}."] if doubt else []
    if encoder.changes:
        changed = ", ".join(sorted(encoder.changes))
        sentences.append(f"changed in memory since it was loaded ({changed}): the report is of the file.")
    return sentences
