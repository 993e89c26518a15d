"""The node that encodes a prompt in two languages with two encoders."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..zhclip.languages import route
from ..zhclip.models import kind_of
from .common import schema

if TYPE_CHECKING:
    from ..zhclip.schema import Meta

ConditioningEntry = list[Any]  # of ComfyUI's CONDITIONING: [tensor (1, tokens, D), dict with pooled_output and others]
NOT_CONNECTED = object()  # a checkpoint without a text encoder gives None
RANGE_START, RANGE_END = (
    "clip_start_percent",
    "clip_end_percent",
)  # the range of sampling, within [0, 1], of a scheduled entry


class ZhCLIPTextEncode(io.ComfyNode):
    """Encodes Chinese with ZhCLIP and, where a second CLIP is connected, English with that."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
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
        """The prompt's conditioning. Raises ValueError, whose message the user reads."""
        meta = require_meta(zhclip)
        if clip is NOT_CONNECTED:
            return io.NodeOutput(encode(zhclip, text))
        check_second_clip(clip, meta.keys)
        segments = route(text)
        encoders = {"zh": zhclip, "en": clip}
        encoded = [encode(encoders[segment.language], segment.prompt) for segment in segments]
        width = meta.teacher.width
        for other in {cond.shape[-1] for entries in encoded for cond, _ in entries} - {width}:
            raise ValueError(
                f"The input clip encodes {other} numbers wide, the ZhCLIP encoder {width}: no MODEL reads both. "
                "Connect the CLIP of the checkpoint that paints, and load an encoder that was aligned to its kind."
            )
        languages = [segment.language for segment in segments]
        return io.NodeOutput(join(encoded, languages.index("zh") if "zh" in languages else 0))


def require_meta(zhclip: Any) -> Meta:
    """The metadata of an aligned encoder's file. Raises ValueError for another kind of CLIP."""
    if zhclip is None:
        raise ValueError("The input zhclip is None: connect the output of Load ZhCLIP Encoder.")
    from .host.clip import encoder_of

    try:
        return encoder_of(zhclip).meta
    except ValueError as error:
        raise ValueError(f"The input zhclip: {error}") from error


def check_second_clip(clip: Any, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless this is a checkpoint's own CLIP whose tokenizers have these keys."""
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
    given = clip.tokenize("").keys()
    if given != set(keys):
        raise ValueError(
            f"The input clip is of another kind of model: the ZhCLIP encoder is for {kind_of(keys).name}, whose CLIP "
            f"has {name_tokenizers(keys)}, and this one has {name_tokenizers(given)}. Connect the CLIP of the "
            "checkpoint that paints."
        )


def name_tokenizers(keys: Iterable[str]) -> str:
    """`the tokenizers g, l`."""
    names = sorted(keys)
    return f"the tokenizer{'s' if len(names) > 1 else ''} {', '.join(names)}"


def encode(clip: Any, text: str) -> list[ConditioningEntry]:
    """What the stock CLIP Text Encode returns, hooks and their schedules included."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def join(conditionings: list[list[ConditioningEntry]], main: int) -> list[ConditioningEntry]:
    """Concatenate conditionings along the token axis, in order, as the stock Conditioning (Concat) does for one entry.

    A scheduled conditioning has an entry for each range of sampling; the result has one for each range in which none of
    them changes. The pooled vector and other values are those of conditioning number `main`; hooks are those of all.
    """
    if len(conditionings) == 1:
        return conditionings[0]
    borders = sorted({border for entries in conditionings for _, extra in entries for border in _range(extra)})
    joined: list[ConditioningEntry] = []
    for start, end in itertools.pairwise(borders):
        active = [[entry for entry in entries if _covers(entry[1], start, end)] for entries in conditionings]
        if not all(active):
            continue
        tensors, extras = zip(*(entries[0] for entries in active))
        extra = extras[main] | _combine_hooks(extras)
        if any(RANGE_START in other for other in extras):
            extra |= {RANGE_START: start, RANGE_END: end}
        joined.append([torch.cat(tensors, dim=1), extra])
    return joined


def _range(extra: dict[str, Any]) -> tuple[float, float]:
    return extra.get(RANGE_START, 0.0), extra.get(RANGE_END, 1.0)


def _covers(extra: dict[str, Any], start: float, end: float) -> bool:
    first, last = _range(extra)
    return first <= start and end <= last


def _combine_hooks(extras: Iterable[dict[str, Any]]) -> dict[str, Any]:
    groups = [extra["hooks"] for extra in extras if extra.get("hooks")]
    if not groups:
        return {}
    combined = groups[0]
    for group in groups[1:]:
        combined = combined.clone_and_combine(group)
    return {"hooks": combined}
