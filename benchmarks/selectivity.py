"""How far weights move a weighted word's own score, and how far they move the others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.readout import Probes
from benchmarks.weighted import Case

WEIGHTS = (0.0, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0)
SHOWN = (0.0, 1.5, 2.0)
RESAMPLES = 1000


@dataclass(frozen=True)
class Figures:
    """One way of weighting, measured. Tensors over weights, then cases."""

    own: Tensor  # change of the weighted word's score
    others: Tensor  # mean absolute change of the scores of the prompt's other words
    absent: Tensor  # root mean square change of the scores of the words that it does not have
    along: Tensor  # cosine of the read-out's change with what the word's removal from the English caption changes
    norms: Tensor  # ratio of norms to those without weights, averaged over the window
    before: Tensor  # (cases,) the weighted word's score without weights


def measure(
    method: Callable[[float], Tensor],
    read_out: Callable[[Tensor], Tensor],
    probes: Probes,
    cases: Sequence[Case],
    removal: Tensor,
) -> Figures:
    """Encode all cases by `method` at each of WEIGHTS, and compare with weight 1. `removal` (cases, R)."""
    plain = method(1.0)
    base = read_out(plain)
    scores = probes.score(base)
    own, others = masks(cases, scores.shape[1])
    absent = ~own & ~others
    at_weights: list[list[Tensor]] = []
    for weight in WEIGHTS:
        z = method(weight)
        change = read_out(z) - base
        moved = probes.score(base + change) - scores
        at_weights.append(
            [
                moved[own],
                (moved.abs() * others).sum(dim=1) / others.sum(dim=1),
                ((moved.square() * absent).sum(dim=1) / absent.sum(dim=1)).sqrt(),
                torch.cosine_similarity(change, removal),
                (z.norm(dim=-1) / plain.norm(dim=-1)).mean(dim=1),
            ]
        )
    moves, sideways, elsewhere, along, norms = map(torch.stack, zip(*at_weights))
    return Figures(moves, sideways, elsewhere, along, norms, scores[own])


def masks(cases: Sequence[Case], words: int) -> tuple[Tensor, Tensor]:
    """(cases, words) bool: the weighted word, and the prompt's other words."""
    own = torch.zeros(len(cases), words, dtype=torch.bool)
    others = torch.zeros_like(own)
    for at, case in enumerate(cases):
        own[at, case.word] = True
        others[at, case.others] = True
    return own, others


def interval(above: Tensor, below: Tensor, prompts: Sequence[int]) -> tuple[float, float, float]:
    """Ratio of two means over cases, and the bounds that 95 % of RESAMPLES bootstraps over prompts keep to."""
    sums = np.stack([np.bincount(prompts, weights=x.numpy()) for x in (above, below)])  # (2, prompts)
    chosen = np.random.default_rng(0).integers(sums.shape[1], size=(RESAMPLES, sums.shape[1]))
    a, b = sums[:, chosen].sum(axis=2)
    low, high = np.percentile(a / b, [2.5, 97.5])
    return float(above.sum() / below.sum()), float(low), float(high)


def monotone(own: Tensor) -> float:
    """Share of cases whose own score rises with every step of WEIGHTS."""
    return float((own.diff(dim=0) > 0).all(dim=0).double().mean())


HEAD = (
    "| | score at 1 | monotone | own, w 0 | own, w 1.5 | others, w 1.5 | absent, w 1.5 | own / others | along removal "
    "| norms, w 1.5 | norms, w 2 |"
)


def line(name: str, figures: Figures, prompts: Sequence[int]) -> str:
    """One row of the table under HEAD."""
    none, more, double = (WEIGHTS.index(w) for w in SHOWN)
    ratio, low, high = interval(figures.own[more], figures.others[more], prompts)
    cells = [
        f"{figures.before.mean():.2f}",
        f"{monotone(figures.own):.3f}",
        f"{figures.own[none].mean():+.3f}",
        f"{figures.own[more].mean():+.3f}",
        f"{figures.others[more].mean():.3f}",
        f"{figures.absent[more].mean():.3f}",
        f"{ratio:.1f} ({low:.1f} to {high:.1f})",
        f"{figures.along[more].mean():.2f}",
        f"{figures.norms[more].mean():.3f}",
        f"{figures.norms[double].mean():.3f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def table(figures: dict[str, Figures], prompts: Sequence[int]) -> str:
    """Every way of weighting as a table in Markdown."""
    rule = "|---" * (HEAD.count("|") - 1) + "|"
    return "\n".join([HEAD, rule, *(line(name, each, prompts) for name, each in figures.items())])
