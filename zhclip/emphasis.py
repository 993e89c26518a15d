"""Prompt weights as arithmetic between encodings. Pure tensors.

For each weighted span s of a window, with weight w_s:

    z = z_full + sum over s of (w_s - 1) * (z_full - z_without_s)

where z_without_s is the same window with that span hidden as keys: the difference is what the span contributes,
wherever in the output it went. The student answers position by position for English words in English order, so the
position of a Chinese token does not hold its meaning, and scaling it, as for CLIP, would weigh another word. In what a
small diffusion network reads, a weight of 1.5 moved its word 7.4 times as far as another word of the prompt, scaling
1.8 times. Norms are left as they grow: scaled back, they take from the other words, and 7.4 becomes 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from .prompt import bounded
from .tokens import Window

ROWS = 2_000  # of one prompt, which has some 270 windows at most


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one weight other than 1: positions [begin, end) of a window."""

    begin: int
    end: int
    weight: float


@dataclass(frozen=True)
class Row:
    """A window as the encoder runs it: `hidden` positions are masked as keys."""

    ids: list[int]
    hidden: range


def runs(weights: Sequence[float]) -> list[Run]:
    """The weighted spans of a window. Weights are bounded as prompt.py has it."""
    out: list[Run] = []
    at = 0
    for weight, group in groupby(map(bounded, weights)):
        end = at + len(list(group))
        if weight != 1.0:
            out.append(Run(at, end, weight))
        at = end
    return out


def rows(windows: Sequence[Window]) -> list[Row]:
    """What to encode, in one batch: every window, then every window once more for each of its spans, without it.
    Raises ValueError for more than ROWS."""
    whole = [Row(window.ids, range(0)) for window in windows]
    without = [Row(w.ids, range(run.begin, run.end)) for w in windows for run in runs(w.weights)]
    if len(whole) + len(without) > ROWS:
        raise ValueError(
            f"The prompt takes {len(whole)} windows and has {len(without)} stretches with a weight, each an encoding "
            f"of its own: give at most {ROWS} of both together."
        )
    return whole + without


def combine(encoded: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
    """The encodings (rows, ...) of `rows(windows)`, any float dtype -> (windows, ...), weights applied. A window
    without a weighted span comes out as it was."""
    out = list(encoded[: len(windows)])
    without = iter(encoded[len(windows) :])
    for at, window in enumerate(windows):
        full = out[at]
        for run in runs(window.weights):
            out[at] = out[at] + (run.weight - 1.0) * (full - next(without))
    return torch.stack(out)
