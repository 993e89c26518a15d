"""The node that encodes a prompt of two languages by two encoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..zhclip.languages import route
from ..zhclip.models import kind_of
from ..zhclip.prompt import checked
from .conditioning import encode, join
from .schema import schema

if TYPE_CHECKING:
    from ..zhclip.artifact import Meta

NOT_CONNECTED = object()  # None is what a checkpoint without a text encoder gives


class ZhCLIPTextEncode(io.ComfyNode):
    """A prompt box for Chinese and English."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            node_id="ZhCLIPTextEncode",
            display_name="ZhCLIP Text Encode (Prompt)",
            category="conditioning/ZhCLIP",
            description="Chinese -> ZhCLIP, english -> CLIP. Encodes a prompt by a ZhCLIP encoder. With the "
            "checkpoint's own CLIP connected as well, that one reads the English: clauses of Latin letters alone, "
            "runs of two or more Latin words inside a Chinese clause, and anywhere LoRA trigger words with an "
            "underscore, embedding:names, tags in angle brackets and wildcards. BREAK begins a new window.",
            search_aliases=["Chinese prompt", "bilingual prompt", "Chinese CLIP", "zhclip", "trigger words"],
            inputs=[
                io.Clip.Input("zhclip", tooltip="From Load ZhCLIP Encoder."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    placeholder="Chinese -> ZhCLIP, english -> CLIP",
                    tooltip="The prompt, in Chinese, English or both. Brackets, colons and commas may be full-width.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Optional: the checkpoint's own CLIP, through its LoRA loaders, for the English in the "
                    "prompt. Without it ZhCLIP reads everything.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="CONDITIONING",
                    tooltip="For a sampler, as from CLIP Text Encode.",
                )
            ],
        )

    @classmethod
    def execute(cls, zhclip: Any, text: str, clip: Any = NOT_CONNECTED) -> io.NodeOutput:
        """The prompt's conditioning. Raises ValueError, whose message is what the user reads."""
        meta = checked_meta(zhclip)
        width = meta.teacher.width
        if clip is NOT_CONNECTED:
            return io.NodeOutput(encode(zhclip, text))
        check_second(clip, meta.keys)
        segments = route(checked(text))
        encoders = {"zh": zhclip, "en": clip}
        encoded = [encode(encoders[segment.language], segment.prompt) for segment in segments]
        for other in {cond.shape[-1] for entries in encoded for cond, _ in entries} - {width}:
            raise ValueError(
                f"The input clip encodes {other} numbers wide, the ZhCLIP encoder {width}: no MODEL reads both. "
                "Connect the CLIP of the checkpoint that paints, and load an encoder that was aligned to its kind."
            )
        languages = [segment.language for segment in segments]
        return io.NodeOutput(join(encoded, languages.index("zh") if "zh" in languages else 0))


def checked_meta(zhclip: Any) -> Meta:
    """What the encoder's file says of itself. Raises ValueError for what is no aligned encoder."""
    if zhclip is None:
        raise ValueError("The input zhclip is None: connect the output of Load ZhCLIP Encoder.")
    from .host.clip import encoder_of

    try:
        return encoder_of(zhclip).meta
    except ValueError as error:
        raise ValueError(f"The input zhclip: {error}") from error


def check_second(clip: Any, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless this can be the CLIP of a checkpoint whose tokens have these names."""
    if clip is None:
        raise ValueError(
            "The input clip is invalid: None\n\nIf the clip is from a checkpoint loader node your checkpoint does not "
            "contain a valid clip or text encoder model. Connect the CLIP of another checkpoint or of Load CLIP, or "
            "nothing: ZhCLIP then reads the English too."
        )
    from .host.clip import is_aligned

    if is_aligned(clip):
        raise ValueError(
            "The input clip is a ZhCLIP encoder like the input zhclip: connect the checkpoint's own CLIP, or nothing."
        )
    found = sorted(clip.tokenize(""))
    if found != sorted(keys):
        raise ValueError(
            f"The input clip is of another kind of model: the ZhCLIP encoder is for {kind_of(keys).name}, whose CLIP "
            f"has {tokenizers(keys)}, and this one has {tokenizers(found)}. Connect the CLIP of the checkpoint that "
            "paints."
        )


def tokenizers(keys: Iterable[str]) -> str:
    """`the tokenizers g, l`."""
    names = sorted(keys)
    return f"the tokenizer{'s' if len(names) > 1 else ''} {', '.join(names)}"
