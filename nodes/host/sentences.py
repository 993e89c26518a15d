"""Sentence vectors of an aligned encoder, and of the CLIPs that it can be compared with."""

from __future__ import annotations

from typing import Any

import torch

from ...zhclip.models import kind_of
from ...zhclip.vectors import unit
from .encoder import WindowEncoder
from .progress import steps

BATCH = 16


def same_width(vectors: torch.Tensor, width: int) -> torch.Tensor:
    """The clip's vectors, if they are as wide as the encoder's. Raises ValueError."""
    if vectors.shape[-1] != width:
        raise ValueError(
            f"clip gives a conditioning {vectors.shape[-1]} wide and the encoder one of {width}: connect the CLIP of a "
            "checkpoint of the kind that the encoder was aligned to."
        )
    return vectors


def sentence_vectors(clip: Any, texts: list[str], encoder: WindowEncoder) -> torch.Tensor:
    """(N, D): of each text the mean of the unit vectors at its own positions, start and end included.

    It is what the trainer's retrieval figures are of; the parts of a vector and what it is standardised by are those
    of `encoder`. Raises ValueError for a CLIP of other text encoders, or of another width, than the one that `encoder`
    takes the place of.
    """
    vectors = []
    for begin in steps(range(0, len(texts), BATCH)):
        tokens = [clip.tokenize(text) for text in texts[begin : begin + BATCH]]
        if sorted(tokens[0]) != sorted(encoder.meta.keys):
            raise ValueError(
                f"clip has the text encoders {', '.join(tokens[0])}; connect the CLIP of a checkpoint of "
                f"{kind_of(encoder.meta.keys).name}."
            )
        vectors += _vectors(clip, tokens, encoder)
    return torch.stack(vectors)


def _vectors(clip: Any, texts: list[dict[str, Any]], encoder: WindowEncoder) -> list[torch.Tensor]:
    """A sentence vector of each text's windows, all windows encoded at once."""
    widths, first = encoder.meta.widths, encoder.meta.keys[0]
    joined = {key: [window for text in texts for window in text[key]] for key in texts[0]}
    windows = joined[first]
    z = same_width(clip.encode_from_tokens(joined), sum(widths)).float().cpu()
    z = unit(encoder.transformer.structure.standardised(z), widths).reshape(len(windows), -1, z.shape[-1])  # (N, W, D)
    end = getattr(clip.tokenizer, f"clip_{first}").end_token
    own = iter(one[: [pair[0] for pair in window].index(end) + 1] for one, window in zip(z, windows))
    return [torch.cat([next(own) for _ in text[first]]).mean(dim=0) for text in texts]
