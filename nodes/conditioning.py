"""ComfyUI's CONDITIONING: made from a prompt, and several joined on the token axis."""

from __future__ import annotations

import itertools
from typing import Any

import torch

Entry = list[Any]  # [conditioning (1, tokens, D), dict of what belongs to it]
START, END = "clip_start_percent", "clip_end_percent"  # the part of sampling that a scheduled entry is for, of [0, 1]


def encode(clip: Any, text: str) -> list[Entry]:
    """What the stock CLIP Text Encode does, hooks and their schedules included."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def join(conditionings: list[list[Entry]], main: int) -> list[Entry]:
    """Concatenate conditionings on the token axis, in order, as the stock Conditioning (Concat) does for one entry.

    Scheduled ones have an entry for each range of sampling: the result has one for each range in which none of them
    changes. Whatever else an entry carries (the pooled vector) is of the conditioning number `main`; hooks are of all.
    """
    if len(conditionings) == 1:
        return conditionings[0]
    borders = sorted({border for entries in conditionings for entry in entries for border in _range(entry)})
    out: list[Entry] = []
    for start, end in itertools.pairwise(borders):
        chosen = [[entry for entry in entries if _covers(entry, start, end)] for entries in conditionings]
        if not all(chosen):
            continue
        row = [entries[0] for entries in chosen]
        extra = row[main][1] | _hooks([other for _, other in row])
        if any(START in other for _, other in row):
            extra |= {START: start, END: end}
        out.append([torch.cat([cond for cond, _ in row], dim=1), extra])
    return out


def _range(entry: Entry) -> tuple[float, float]:
    return entry[1].get(START, 0.0), entry[1].get(END, 1.0)


def _covers(entry: Entry, start: float, end: float) -> bool:
    first, last = _range(entry)
    return first <= start and end <= last


def _hooks(extras: list[dict[str, Any]]) -> dict[str, Any]:
    groups = [extra["hooks"] for extra in extras if extra.get("hooks")]
    if not groups:
        return {}
    joined = groups[0]
    for group in groups[1:]:
        joined = joined.clone_and_combine(group)
    return {"hooks": joined}
