"""Runs an encoder and a checkpoint's CLIP over pairs of captions, and fits the one's projections to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..zhclip.artifact import Artifact
from ..zhclip.calibration import CHOOSE, FIT, JUDGE, Layer
from ..zhclip.sampling import EVERY, TokenPair, batches
from ..zhclip.structure import Structure
from . import host

Pairs = list[tuple[str, str]]
PAIRS = Path(__file__).parent.parent / "zhclip" / "pairs.tsv"
SENTENCES = 200  # the file begins with so many that were written whole; the others were composed from tables
LEAST = 20  # held-out pairs below which a figure says nothing


def read_pairs(count: int) -> dict[str, Pairs]:
    """So many of the pack's pairs (Chinese, English), by use: half of the sentences judge, half choose the penalty, and
    the others are fitted."""
    lines = PAIRS.read_text(encoding="utf-8").splitlines()[1:]
    rows = [(zh, en) for zh, en in (line.split("\t") for line in lines)]
    judging = min(SENTENCES, count // 2)
    return {
        JUDGE: rows[:judging:2],
        CHOOSE: rows[1:judging:2],
        FIT: rows[SENTENCES : SENTENCES + count - judging],
    }


def fit(zhclip: Any, old: Artifact, teacher: host.Teacher, count: int) -> dict[str, Layer]:
    """The layers "last" and "skip", solved on so many of the pack's pairs.

    Raises ValueError for an encoder and a CLIP that do not fit each other, and the host's own exception when the user
    interrupts.
    """
    require_match(zhclip, old, teacher)
    encoder, meta = host.encoder_of(zhclip), old.meta
    device = host.place(zhclip, teacher.clip)
    every = EVERY if meta.mask_padding else 1  # where padding is seen as keys a short pass is another pass
    work = [
        (use, batch)
        for use, pairs in read_pairs(count).items()
        for batch in batches(token_pairs(zhclip, teacher, pairs, meta.window), meta.window, every)
    ]
    if sum(len(batch.pairs) for use, batch in work if use == JUDGE) < LEAST:
        raise ValueError(
            f"The encoder reads {meta.window} positions, and too few of the captions fit: it is too short."
        )
    empty = teacher.states([teacher.windows("")[0][: meta.window]])
    main = 1 if meta.teacher.layer == host.SKIP_LAYER else 0  # which of the CLIP's two outputs it is aligned to
    last = Layer(projection(Structure.of(old)), empty[main][0])
    skip = Layer(projection(Structure.of_skip(old) or Structure.of(old)), empty[1][0])
    for use, batch in host.steps(work):
        with half_on_cpu():
            x = encoder.states(batch.ids("zh"), device)
            y = teacher.states(batch.ids("en"))
        last.add(use, x[0], y[main], batch)
        skip.add(use, x[1], y[1], batch)
    last.solve()
    skip.solve()
    return {"last": last, "skip": skip}


def projection(structure: Structure) -> Structure:
    """The part that gives vectors their directions, fp32."""
    parts = structure.tensors()
    return Structure(
        **{name: parts[name].float() for name in ("proj_weight", "proj_bias", "position0") if name in parts}
    )


def half_on_cpu() -> Any:
    """A context in which a CPU with bf16 instructions multiplies in bf16, several times as fast; elsewhere bf16 is
    emulated, and slower. It has no effect on a GPU. What is stored as it comes, the empty prompt, is computed outside.
    """
    # get_capabilities came after torch 2.4
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(capabilities.get("avx512_bf16")))


def require_match(zhclip: Any, old: Artifact, teacher: host.Teacher) -> None:
    """Raise ValueError unless the encoder can be fitted to this CLIP."""
    meta = old.meta
    if meta.teacher.width != teacher.width:
        raise ValueError(
            f"The encoder's vectors are {meta.teacher.width} wide (teacher {meta.teacher.id}) and those of the CLIP at "
            f"`clip` {teacher.width}: connect the CLIP of a checkpoint of the encoder's own kind."
        )
    if meta.window > teacher.positions or meta.teacher.layer not in (-1, host.SKIP_LAYER) or meta.dimensions.layers < 2:
        raise ValueError(
            f"The encoder answers for layer {meta.teacher.layer} of its teacher at {meta.window} positions, by "
            f"{meta.dimensions.layers} layers; calibration knows layers -1 and -2, at most {teacher.positions} "
            "positions, and two layers or more: train the encoder on this checkpoint's CLIP instead."
        )
    if host.has_lora(zhclip):
        raise ValueError("The encoder at `zhclip` carries a LoRA, which its copy would lose: add the LoRA behind it.")


def token_pairs(zhclip: Any, teacher: host.Teacher, pairs: Pairs, window: int) -> list[TokenPair]:
    """The pairs of which both sides fit one window."""
    tokenizer = host.tokenizer_of(zhclip)
    fitting = []
    for zh, en in pairs:
        zh_windows, en_windows = tokenizer.windows(zh), teacher.windows(en)
        if len(zh_windows) > 1 or len(en_windows) > 1:
            continue
        ends = zh_windows[0].index(tokenizer.special.end) + 1, teacher.length(en_windows[0])
        if max(ends) <= window:
            fitting.append(TokenPair(zh_windows[0], en_windows[0][:window], *ends))
    return fitting
