"""The node that shows how an encoder reads a prompt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from .common import schema
from .messages import message
from .report import alignment_warning, scores

if TYPE_CHECKING:
    from ..zhclip.tokens import Window
    from .page import Page


class ZhCLIPInspector(io.ComfyNode):
    """Shows a prompt's tokens, windows and languages as a picture and as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        return schema(
            node_id="ZhCLIPInspector",
            display_name="ZhCLIP Inspector",
            category="ZhCLIP",
            description="Shows how a ZhCLIP encoder reads a prompt: tokens, unknown ones marked, weights, windows and "
            "languages; and the encoder's evaluation.",
            search_aliases=["token count", "prompt debug", "zhclip"],
            is_output_node=True,
            inputs=[
                io.Clip.Input("zhclip", tooltip="From Load ZhCLIP Encoder."),
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt, as you write it for a picture."
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The findings, 1024 pixels wide."),
                io.String.Output("report", display_name="STRING", tooltip="The same as text."),
            ],
        )

    @classmethod
    def execute(cls, zhclip: Any, text: str) -> io.NodeOutput:
        """The picture and the report. Raises ValueError or ArtifactError, whose message the user reads."""
        page = inspect(zhclip, text)
        image = page.image()
        return io.NodeOutput(image, page.text(), ui=ui.PreviewImage(image, cls=cls))


def inspect(zhclip: Any, text: str) -> Page:
    """How an encoder reads a prompt, and its evaluation."""
    from .host.clip import encoder_of, layer_in_use, tokenizer_of
    from .page import Page

    encoder, tokenizer = encoder_of(zhclip), tokenizer_of(zhclip)
    windows = tokenizer.weighted_windows(text)
    page = Page(message("inspector", file=os.path.basename(encoder.path)))
    page.note(message("teacher", teacher=encoder.meta.teacher.id))
    page.note(message("layer_in_use", layer=layer_in_use(zhclip)))
    warning = alignment_warning(encoder.meta)
    if warning:
        page.warning(message("this_file", why=warning))
    if encoder.overrides:
        page.warning(message("calibrated_in_memory"))
    write_prompt(page, text)
    for number, window in enumerate(windows, 1):
        page.heading(message("window", number=number, tokens=len(window.pieces), most=tokenizer.window - 2))
        write_tokens(page, window, tokenizer.special.unknown)
    unknown = tokenizer.unknown_pieces(windows)
    if unknown:
        page.heading(message("not_in_vocabulary"))
        page.note("  ".join(unknown))
    page.scores(scores(encoder.meta))
    return page


def write_prompt(page: Page, text: str) -> None:
    """The prompt with its languages underlined and its weights beside them."""
    from ..zhclip.languages import spans
    from . import drawing
    from .page import NOTE_SIZE, WIDTH

    colors = {"zh": drawing.BLUE, "en": drawing.ORANGE, "break": drawing.FAINT}
    language_spans = spans(text)
    page.heading(message("prompt"))
    lines = [text, "", message("spans")]
    lines += [f"  {span.language}  {span.weight:g}  {span.text.strip()}" for span in language_spans] or [
        message("no_spans")
    ]
    marked = [
        drawing.TextSpan(s.text, colors[s.language], "" if s.weight == 1 else f"{s.weight:.3g}", s.weight != 1)
        for s in language_spans
    ]
    page.block(drawing.flow(marked, WIDTH, 20), lines)
    legend = [
        drawing.TextSpan(f"{name}: {message(f'read_{name}')}", colors[name])
        for name in dict.fromkeys(span.language for span in language_spans)
    ]
    page.block(drawing.flow(legend, WIDTH, NOTE_SIZE, spacing=16), [])


def write_tokens(page: Page, window: Window, unknown: int) -> None:
    """A window's tokens, each in a box: weighted ones on a tint, those with the id `unknown` marked."""
    from . import drawing
    from .page import WIDTH

    boxes, words, mark = [], [], message("unknown")
    for piece, token, weight in zip(window.pieces, window.ids[1:], window.weights[1:]):
        known = token != unknown
        boxes.append(
            drawing.TextSpan(piece, tinted=weight != 1) if known else drawing.TextSpan(piece, drawing.RED, mark)
        )
        words.append(piece if known else f"[{mark}: {piece}]")
    page.block(drawing.flow(boxes, WIDTH, spacing=6), [f"  {' '.join(words) or message('empty_prompt')}"])
