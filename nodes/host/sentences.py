"""Sentence vectors of a CLIP, and a loop that shows its progress in ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import torch

from ...zhclip.models import kind_of
from ...zhclip.vectors import unit
from .encoder import WindowEncoder

BATCH = 16
Item = TypeVar("Item")


def with_progress(items: Sequence[Item]) -> Iterator[Item]:
    """Yields the items with a progress bar. Raises ComfyUI's own exception when the user interrupts."""
    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)


def sentence_vectors(clip: Any, texts: list[str], encoder: WindowEncoder) -> torch.Tensor:
    """(N, D): of each text the mean of the unit vectors at its tokens, start and end included, as the trainer's
    retrieval computes it.

    Parts and standardisation are those of `encoder`. Raises ValueError where `clip` has other text encoders, or
    another width, than the CLIP that `encoder` replaces.
    """
    vectors = []
    for begin in with_progress(range(0, len(texts), BATCH)):
        tokens = [clip.tokenize(text) for text in texts[begin : begin + BATCH]]
        if tokens[0].keys() != set(encoder.meta.keys):
            raise ValueError(
                f"clip has the text encoders {', '.join(tokens[0])}; connect the CLIP of a checkpoint of "
                f"{kind_of(encoder.meta.keys).name}."
            )
        vectors += _batch_vectors(clip, tokens, encoder)
    return torch.stack(vectors)


def _batch_vectors(clip: Any, texts: list[dict[str, Any]], encoder: WindowEncoder) -> list[torch.Tensor]:
    """A sentence vector for each text's windows; all windows are encoded at once."""
    widths, key = encoder.meta.widths, encoder.meta.keys[0]
    joined = {key: [window for text in texts for window in text[key]] for key in texts[0]}
    states = clip.encode_from_tokens(joined)
    if states.shape[-1] != sum(widths):
        raise ValueError(
            f"clip gives a conditioning {states.shape[-1]} wide and the encoder one of {sum(widths)}: connect the CLIP "
            "of a checkpoint of the kind that the encoder was aligned to."
        )
    z = unit(encoder.transformer.structure.standardised(states.float().cpu()), widths)
    z = z.reshape(len(joined[key]), -1, sum(widths))
    end = getattr(clip.tokenizer, f"clip_{key}").end_token
    lengths = [[pair[0] for pair in window].index(end) + 1 for window in joined[key]]
    of_windows = iter(vectors[:length] for vectors, length in zip(z, lengths))
    return [torch.cat([next(of_windows) for _ in text[key]]).mean(dim=0) for text in texts]
