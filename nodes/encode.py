"""The node that encodes a prompt in two languages with two encoders."""

from __future__ import annotations

import functools
from typing import Any

import torch
from comfy_api.latest import io

from ..zhclip.languages import route
from ..zhclip.models import kind_of
from .common import core_category, schema
from .messages import message

ConditioningEntry = list[Any]  # of ComfyUI's CONDITIONING: [tensor (1, tokens, D), dict with pooled_output and others]
NOT_CONNECTED = object()  # a checkpoint without a text encoder gives None


class ZhCLIPTextEncode(io.ComfyNode):
    """Encodes Chinese with ZhCLIP and, where a second CLIP is connected, English with that."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        return schema(
            node_id="ZhCLIPTextEncode",
            display_name="ZhCLIP Text Encode (Prompt)",
            category=core_category("conditioning"),
            description="Chinese -> ZhCLIP, english -> CLIP. Encodes a prompt with a ZhCLIP encoder. If the "
            "checkpoint's own CLIP is connected too, it reads the English: clauses of Latin letters alone, "
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
        from .host.clip import encoder_of

        meta = encoder_of(zhclip).meta
        if clip is NOT_CONNECTED:
            return io.NodeOutput(encode(zhclip, text))
        check_checkpoint_clip(clip, meta.keys)
        segments = route(text)
        encoders = {"zh": zhclip, "en": clip}
        encoded = [encode(encoders[segment.language], segment.prompt) for segment in segments]
        languages = [segment.language for segment in segments]
        return io.NodeOutput(concatenate(encoded, languages.index("zh") if "zh" in languages else 0))


def check_checkpoint_clip(clip: Any, keys: tuple[str, ...], field: str = "clip") -> None:
    """Raise ValueError unless the CLIP at an input is a checkpoint's own whose tokenizers have these keys."""
    if clip is None:
        raise ValueError(message("clip_is_none", field=field))
    from .host.clip import is_aligned

    if is_aligned(clip):
        raise ValueError(message("clip_is_zhclip", field=field))
    given = clip.tokenize("").keys()
    if given != set(keys):
        found = {"kind": kind_of(keys).name, "keys": ", ".join(keys), "found": ", ".join(given)}
        raise ValueError(message("clip_of_other_kind", field=field, **found))


def encode(clip: Any, text: str) -> list[ConditioningEntry]:
    """What the stock CLIP Text Encode returns, hooks included."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def concatenate(conditionings: list[list[ConditioningEntry]], main: int) -> list[ConditioningEntry]:
    """Concatenate conditionings along the token axis, in order, as the stock Conditioning (Concat) does.

    The pooled vector and other values are those of conditioning number `main`; hooks are those of all. Raises
    ValueError for a conditioning of several entries, which hooks with keyframes give.
    """
    if len(conditionings) == 1:
        return conditionings[0]
    if any(len(entries) > 1 for entries in conditionings):
        raise ValueError(message("hook_keyframes"))
    tensors, extras = zip(*(entries[0] for entries in conditionings))
    extra = dict(extras[main])
    groups = [other["hooks"] for other in extras if other.get("hooks")]
    if groups:
        extra["hooks"] = functools.reduce(lambda joined, group: joined.clone_and_combine(group), groups)
    return [[torch.cat(tensors, dim=1), extra]]
