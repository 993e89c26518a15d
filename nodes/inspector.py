"""The node that shows how an encoder reads a prompt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from .common import numbered_lines, schema
from .report import alignment_warning, scores

if TYPE_CHECKING:
    from .host.encoder import WindowEncoder
    from .page import Findings

NEAREST_SHOWN = 5  # captions that are shown


class ZhCLIPInspector(io.ComfyNode):
    """Shows a prompt's tokens, windows and languages as a picture and as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        return schema(
            node_id="ZhCLIPInspector",
            display_name="ZhCLIP Inspector",
            category="ZhCLIP",
            description="Shows how a ZhCLIP encoder reads a prompt: tokens, unknown ones marked, weights, windows, "
            "languages, and which of a list of captions are nearest to it.",
            search_aliases=["token count", "prompt debug", "zhclip"],
            is_output_node=True,
            inputs=[
                io.Clip.Input("zhclip", tooltip="From Load ZhCLIP Encoder."),
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt, as you would paint with it."
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Optional: the checkpoint's own CLIP, which then reads the captions."
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
    def execute(cls, zhclip: Any, text: str, clip: Any = None, captions: str = "") -> io.NodeOutput:
        """The picture and the report. Raises ValueError or ArtifactError, whose message the user reads."""
        from . import drawing
        from .page import render

        report, picture = render(collect(zhclip, text, clip, captions))
        image = drawing.to_tensor(picture)
        return io.NodeOutput(image, report, ui=ui.PreviewImage(image, cls=cls))


def collect(zhclip: Any, text: str, clip: Any, captions: str) -> Findings:
    """Tokenizes the prompt, and compares it with the captions if there are any."""
    from ..zhclip.languages import spans
    from .host.clip import encoder_of, layer_in_use, tokenizer_of
    from .page import Findings, Token

    encoder, tokenizer = encoder_of(zhclip), tokenizer_of(zhclip)
    windows = tokenizer.weighted_windows(text)
    return Findings(
        file=os.path.basename(encoder.path),
        teacher=encoder.meta.teacher.id,
        layer=layer_in_use(zhclip),
        warnings=warnings(encoder),
        text=text,
        spans=spans(text),
        windows=[
            [
                Token(piece, token != tokenizer.special.unknown, weight)
                for token, weight, piece in zip(window.ids[1:], window.weights[1:], window.pieces)
            ]
            for window in windows
        ],
        capacity=tokenizer.window - 2,
        unknown=tokenizer.unknown_pieces(windows),
        scores=scores(encoder.meta),
        nearest=nearest(zhclip, text, clip or zhclip, [line for _, line in numbered_lines(captions)]),
        captions_by="the checkpoint's CLIP" if clip else "this encoder",
    )


def warnings(encoder: WindowEncoder) -> list[str]:
    """Sentences about the encoder that the user should read before the rest."""
    warning = alignment_warning(encoder.meta)
    sentences = [f"this file {warning}."] if warning else []
    if encoder.changes:
        changed = ", ".join(sorted(encoder.changes))
        sentences.append(f"changed in memory since it was loaded ({changed}): the report is of the file.")
    return sentences


def nearest(zhclip: Any, text: str, reader: Any, captions: list[str]) -> list[tuple[str, float]]:
    """The captions nearest to the prompt with their cosines, best first; `reader` encodes the captions.

    All vectors are centred on the captions' mean, since what all texts have in common distinguishes none. Raises
    ValueError for a single caption, whose mean would be the caption itself.
    """
    from .host.clip import encoder_of
    from .host.sentences import sentence_vectors

    if not captions:
        return []
    if len(captions) < 2:
        raise ValueError("captions holds one caption: give two or more, one a line, to compare the prompt with.")
    encoder = encoder_of(zhclip)
    prompt = sentence_vectors(zhclip, [text], encoder)  # (1, D)
    bank = sentence_vectors(reader, captions, encoder)  # (N, D)
    center = bank.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(prompt - center, bank - center, dim=1)
    best = cosine.topk(min(NEAREST_SHOWN, len(captions)))
    return [(captions[i], float(value)) for value, i in zip(best.values, best.indices)]
