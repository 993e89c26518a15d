"""Prompt weights as arithmetic between encodings.

For each weighted span s of a window, with weight w_s:

    z = z_full + sum over s of (w_s - 1) * (z_full - z_without_s)

where z_without_s is the same window with that span hidden as keys: the difference is what the span contributes at every
position of the output. A student's position does not hold its own token's meaning (docs/weights.md), so scaling it, as
for CLIP, would weigh another word. Norms are left as they grow: scaled back, they take from the other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from .prompt import bounded
from .tokens import Window

MAX_ROWS = 2_000  # of one prompt, which has some 270 windows at most


def weighted_spans(weights: Sequence[float]) -> list[tuple[range, float]]:
    """The positions of each run of one weight other than 1, and that weight, bounded as prompt.py has it."""
    spans: list[tuple[range, float]] = []
    begin = 0
    for weight, group in groupby(map(bounded, weights)):
        end = begin + len(list(group))
        if weight != 1.0:
            spans.append((range(begin, end), weight))
        begin = end
    return spans


def rows(windows: Sequence[Window]) -> list[tuple[list[int], range]]:
    """The batch to encode, as ids and the positions that are masked as keys: every window, then every window once more
    for each of its weighted spans, without it. Raises ValueError for more than MAX_ROWS."""
    whole = [(window.ids, range(0)) for window in windows]
    without = [(window.ids, span) for window in windows for span, _ in weighted_spans(window.weights)]
    if len(whole) + len(without) > MAX_ROWS:
        counts = f"{len(whole)} windows and has {len(without)} weighted spans"
        raise ValueError(f"The prompt takes {counts}: give at most {MAX_ROWS} of both together.")
    return whole + without


def combine(encoded: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
    """The encodings (rows, ...) of `rows(windows)`, any float dtype -> (windows, ...), weights applied. A window
    without a weighted span stays as it was."""
    out = list(encoded[: len(windows)])
    without = iter(encoded[len(windows) :])
    for at, window in enumerate(windows):
        full = out[at]
        for _, weight in weighted_spans(window.weights):
            out[at] = out[at] + (weight - 1.0) * (full - next(without))
    return torch.stack(out)
