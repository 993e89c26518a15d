"""The artifact's tokenizer with the interface that ComfyUI and other packs expect."""

from __future__ import annotations

import itertools
from typing import Any

import comfy.sd1_clip

from ...zhclip.prompt import check_length
from ...zhclip.tokenizer import guard_panics
from ...zhclip.tokens import PromptTokenizer
from ..messages import message
from .bert import warn_once

Windows = list[list[tuple[Any, ...]]]


class FramedTokenizer:
    """The artifact's tokenizer with the part of transformers' interface that core and other packs call."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.prompt = tokenizer

    @classmethod
    def from_pretrained(cls, tokenizer: PromptTokenizer, **_: Any) -> FramedTokenizer:
        """Called by core in place of reading a folder: the vocabulary came with the artifact."""
        return cls(tokenizer)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Start, the text's ids, end; no padding."""
        special = self.prompt.special
        return {"input_ids": [special.start, *self.prompt.ids(text), special.end]}

    def decode(self, ids: int | list[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """Ids to text, as the tokenizer joins its pieces."""
        ids = [int(i) for i in ([ids] if isinstance(ids, int) else ids)]
        if skip_special_tokens:  # the file need not say which they are
            special = self.prompt.special
            ids = [i for i in ids if i not in (special.start, special.end, special.pad)]
        with guard_panics(self.prompt.path):
            return self.prompt.tokenizer.decode(ids, skip_special_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return self.prompt.tokenizer.get_vocab()


class WindowTokenizer(comfy.sd1_clip.SDTokenizer):
    """Core's tokenizer interface over the artifact's windows."""

    def __init__(self, tokenizer: PromptTokenizer, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(
            tokenizer,
            max_length=tokenizer.window,
            pad_with_end=False,
            pad_token=tokenizer.special.pad,
            embedding_directory=None,
            tokenizer_class=FramedTokenizer,
            tokenizer_data=tokenizer_data or {},
        )
        self.prompt = tokenizer

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, disable_weights: bool = False, **_: Any
    ) -> Windows:
        """A prompt -> windows of (id, weight), or (id, weight, word) with word 0 for what frames a window. Raises
        ValueError for a prompt that is too long."""
        check_length(text)
        if self.embedding_identifier in text:
            warn_once(message("embedding_as_text"))
        windows = self.prompt.weighted_windows(text, syntax=not disable_weights)
        unknown = self.prompt.unknown_pieces(windows)
        if unknown:
            warn_once(message("unknown_pieces", pieces=" ".join(unknown)))
        if not return_word_ids:
            return [list(zip(window.ids, window.weights)) for window in windows]
        words = itertools.count(1)
        numbered: Windows = []
        for window in windows:
            end = window.ids.index(self.end_token)
            numbers = [next(words) if 0 < at < end else 0 for at in range(len(window.ids))]
            numbered.append(list(zip(window.ids, window.weights, numbers)))
        return numbered


class PartsTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """Core's tokenizer of one text encoder, which gives its windows under each of `keys`."""

    def __init__(self, keys: tuple[str, ...], embedding_directory: Any = None, **options: Any) -> None:
        super().__init__(embedding_directory, **options)
        self.keys = keys
        for key in keys:  # as packs look for a checkpoint's
            setattr(self, f"clip_{key}", getattr(self, self.clip))

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, Windows]:
        """A prompt -> its windows under each key, in lists of its own: CLIPTextEncodeSDXL adds to them in place."""
        (windows,) = super().tokenize_with_weights(text, return_word_ids, **options).values()
        return {key: [list(window) for window in windows] for key in self.keys}
