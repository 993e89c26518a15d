"""What an encoder makes of a prompt, as plain values: its tokens, and the captions nearest to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..zhclip.tokens import PromptTokenizer
from .host.clip import encoder_of
from .host.sentences import sentence_vectors

NEAREST = 5


@dataclass(frozen=True)
class Token:
    """A token: the stretch of the prompt that it stands for, and whether the vocabulary has it."""

    text: str
    known: bool
    weight: float


def windows_of(tokenizer: PromptTokenizer, text: str) -> list[list[Token]]:
    """The prompt's windows, without what frames and pads them."""
    return [
        [
            Token(piece, token != tokenizer.special.unknown, weight)
            for token, weight, piece in zip(window.ids[1:], window.weights[1:], window.pieces)
        ]
        for window in tokenizer.weighted_windows(text)
    ]


def nearest(clip: Any, text: str, reader: Any, captions: list[str]) -> list[tuple[str, float]]:
    """The captions nearest to the prompt with their cosines, best first.

    `reader` encodes the captions. All vectors are centred on the captions' mean: what every text has in common says
    nothing. Raises ValueError for fewer than two captions, whose mean would be the caption itself.
    """
    if len(captions) < 2:
        raise ValueError("captions holds one caption: give two or more, one a line, to compare the prompt with.")
    encoder = encoder_of(clip)
    asked = sentence_vectors(clip, [text], encoder)  # (1, D)
    bank = sentence_vectors(reader, captions, encoder)  # (N, D)
    centre = bank.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(asked - centre, bank - centre, dim=1)
    best = cosine.topk(min(NEAREST, len(captions)))
    return [(captions[i], float(value)) for value, i in zip(best.values, best.indices)]
