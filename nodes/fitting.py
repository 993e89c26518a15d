"""Runs an encoder and a checkpoint's CLIP over pairs of captions, and fits the one's projections to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..zhclip.artifact import Artifact
from ..zhclip.calibration import CHOOSE, FIT, JUDGE, Layer
from ..zhclip.positions import WHOLE_EVERY, TokenPair, batches
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
    """The layers "last", "skip" for an encoder that is not aligned to clip skip itself, and "pooled" where the file has
    it, solved on so many of the pack's pairs.

    Raises ValueError for an encoder and a CLIP that do not fit each other, and the host's own exception when the user
    interrupts.
    """
    require_match(zhclip, old, teacher)
    encoder, meta = host.encoder_of(zhclip), old.meta
    device = host.place(zhclip, teacher.clip)
    whole_every = WHOLE_EVERY if meta.mask_padding else 1  # where padding is seen as keys a short pass is another pass
    work = [
        (use, batch)
        for use, pairs in read_pairs(count).items()
        for batch in batches(token_pairs(zhclip, teacher, pairs, meta.window), meta.window, whole_every)
    ]
    if sum(len(batch.pairs) for use, batch in work if use == JUDGE) < LEAST:
        raise ValueError(
            f"The encoder reads {meta.window} positions, and too few of the captions fit: it is too short."
        )
    empty = teacher.states([teacher.windows("")[0][: meta.window]])
    main = "skip" if meta.teacher.layer == host.SKIP_LAYER else "last"  # which of the CLIP's it is aligned to
    pooled = Structure.of_pooled(old)
    layers = {"last": Layer(projection(Structure.of(old)), empty[main][0])}
    if main == "last" and not meta.parts:
        layers["skip"] = Layer(projection(Structure.of_skip(old) or Structure.of(old)), empty["skip"][0])
    if pooled is not None:
        layers["pooled"] = Layer(projection(pooled), empty["pooled"][0], constant_first=False)
    for use, batch in host.steps(work):
        with half_on_cpu():
            last, skip = encoder.states(batch.ids("zh"), device)
            y = teacher.states(batch.ids("en"))
        x = {"last": last, "skip": skip, "pooled": last[:, :1]}
        y["last"] = y[main]
        for name, layer in layers.items():
            layer.add(use, x[name], y[name], batch.first_position() if name == "pooled" else batch)
    for layer in layers.values():
        layer.solve()
    return layers


def projection(structure: Structure) -> Structure:
    """What gives vectors their directions, and what these are standardised by, fp32."""
    parts = structure.tensors()
    names = ("proj_weight", "proj_bias", "position0", "mean", "std")
    return Structure(**{name: parts[name].float() for name in names if name in parts}, widths=structure.widths)


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
    if (meta.widths, meta.pooled) != (teacher.widths, teacher.pooled_width):
        raise ValueError(
            f"The encoder's vectors are {wide(meta.widths, meta.pooled)} wide (teacher {meta.teacher.id}) and those of "
            f"the CLIP at `clip` {wide(teacher.widths, teacher.pooled_width)}: connect the CLIP of a checkpoint of the "
            "encoder's own kind."
        )
    if meta.window > teacher.positions or meta.teacher.layer not in (-1, host.SKIP_LAYER) or meta.dimensions.layers < 2:
        raise ValueError(
            f"The encoder answers for layer {meta.teacher.layer} of its teacher at {meta.window} positions, by "
            f"{meta.dimensions.layers} layers; calibration knows layers -1 and -2, at most {teacher.positions} "
            "positions, and two layers or more: train the encoder on this checkpoint's CLIP instead."
        )
    if host.has_lora(zhclip):
        raise ValueError("The encoder at `zhclip` carries a LoRA, which its copy would lose: add the LoRA behind it.")


def wide(widths: tuple[int, ...], pooled: int) -> str:
    """`768`, or `768 + 1280 and 1280 pooled`."""
    return " + ".join(map(str, widths)) + (f" and {pooled} pooled" if pooled else "")


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
