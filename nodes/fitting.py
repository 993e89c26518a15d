"""Runs an encoder and a checkpoint's CLIP over pairs, and solves for the projections that fit the one to the other."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ..zhclip.artifact import Artifact
from ..zhclip.calibration import Calibration, Projection, Score
from ..zhclip.sampling import EVERY, Batch, TokenPair, batches
from .clip import SKIP_LAYER, encoder_of
from .teacher import Teacher

Pairs = list[tuple[str, str]]
LEAST = 20  # held-out pairs below which a figure says nothing
JUDGE, CHOOSE, FIT = "judge", "choose", "fit"


class Layer:
    """One of the student's layers against the CLIP's: what follows it now, and what shall."""

    def __init__(self, now: dict[str, torch.Tensor], empty: torch.Tensor, width: int) -> None:
        self.now = now
        self.start = Projection(now.get("proj_weight"), now.get("proj_bias"))
        self.calibration = Calibration(self.start, empty.shape[0], width, empty.shape[1], causal=True)
        self.empty = empty.clone()  # (W, D); a file holds no tensor twice
        self.held: list[tuple[torch.Tensor, torch.Tensor, Batch]] = []
        self.before, self.after, self.constant = Score(), Score(), Score()

    def add(self, use: str, x: torch.Tensor, y: torch.Tensor, batch: Batch) -> None:
        """A batch's states (B, P, S) and the CLIP's vectors (B, P, D)."""
        if use == JUDGE:
            self.held.append((x, y, batch))
        else:
            self.calibration.add(x, y, batch.weights, use == CHOOSE)

    def solve(self) -> dict[str, torch.Tensor | None]:
        """What shall follow the layer, by the artifact's names; scores both on the held-out pairs."""
        new, constant = self.calibration.solve(), self.calibration.constant()
        for x, y, batch in self.held:
            self.before.add(placed(self.start.apply(x), self.now.get("position0")), y, batch)
            self.after.add(placed(new.apply(x), self.empty[0]), y, batch)
            self.constant.add(constant[: batch.positions].expand_as(y), y, batch)
        return {
            "proj_weight": new.weight,
            "proj_bias": new.bias,
            "position0": self.empty[0].clone(),
            "empty": self.empty,
            "norms": self.calibration.norms(),
        }

    def helps(self, gain: float) -> bool:
        """Whether the loss falls by more than that share of itself."""
        return self.after.loss() < (1 - gain) * self.before.loss()

    def figures(self) -> dict[str, Any]:
        """For the file's report."""
        loss = {"before": self.before.loss(), "after": self.after.loss(), "constant": self.constant.loss()}
        recall = {"before": self.before.recall(), "after": self.after.recall()}
        return {"loss": loss, "R@1 zh_to_en": recall, "penalty": self.calibration.penalty}

    def line(self, name: str, gain: float) -> str:
        """The figures as a sentence."""
        before, after = self.before, self.after
        verdict = "" if self.helps(gain) else f", which is less than {gain:.0%} better: left as it was"
        return (
            f"{name}: cosine loss {before.loss():.3f} before, {after.loss():.3f} after "
            f"(a constant: {self.constant.loss():.3f}); R@1 {before.recall():.3f} before, {after.recall():.3f} after"
            f"{verdict}."
        )


def placed(z: torch.Tensor, position0: torch.Tensor | None) -> torch.Tensor:
    """(B, P, D) with the first position replaced, where a vector is stored for it."""
    return z if position0 is None else torch.cat([position0.to(z).expand(len(z), 1, -1), z[:, 1:]], dim=1)


def fit(
    zhclip: Any, old: Artifact, teacher: Teacher, sentences: Pairs, others: Pairs
) -> dict[str, tuple[Layer, dict[str, torch.Tensor | None]]]:
    """The layers "last" and "skip", each with the tensors that shall follow it.

    Half of the sentences judge, half choose the penalty, and the others are fitted. Raises ValueError for an encoder
    and a CLIP that do not fit each other, and the host's own exception when the user interrupts.
    """
    require_match(zhclip, old, teacher)
    meta = old.meta
    every = EVERY if meta.mask_padding else 1  # where padding is seen as keys a short pass is another pass
    comfy.model_management.load_models_gpu([zhclip.patcher, teacher.clip.patcher])
    groups = {JUDGE: sentences[::2], CHOOSE: sentences[1::2], FIT: others}
    work = [
        (use, batch)
        for use, pairs in groups.items()
        for batch in batches(token_pairs(zhclip, teacher, pairs, meta.window), meta.window, every)
    ]
    if sum(len(batch.pairs) for use, batch in work if use == JUDGE) < LEAST:
        raise ValueError(
            f"The encoder reads {meta.window} positions, and too few of the captions fit: it is too short."
        )
    empty = teacher.states([teacher.windows("")[0][: meta.window]])
    main = 1 if meta.teacher.layer == SKIP_LAYER else 0  # which of the CLIP's two outputs the encoder is aligned to
    stored = {name: getattr(old, name) for name in ("proj_weight", "proj_bias", "position0")}
    now = {name: tensor.float() for name, tensor in stored.items() if tensor is not None}
    width = meta.dimensions.width
    last = Layer(now, empty[main][0], width)
    skip = Layer({name: tensor.float() for name, tensor in old.skip.items()} or now, empty[1][0], width)
    progress = comfy.utils.ProgressBar(len(work))
    for use, batch in work:
        comfy.model_management.throw_exception_if_processing_interrupted()
        with half_on_cpu():
            x = student_states(zhclip, batch.ids("zh"))
            y = teacher.states(batch.ids("en"))
        last.add(use, x[0], y[main], batch)
        skip.add(use, x[1], y[1], batch)
        progress.update(1)
    return {"last": (last, last.solve()), "skip": (skip, skip.solve())}


def half_on_cpu() -> Any:
    """A context in which a CPU with bf16 instructions multiplies in bf16, several times as fast; elsewhere bf16 is
    emulated, and slower. It has no effect on a GPU. What is stored as it comes, the empty prompt, is computed outside.
    """
    # get_capabilities came after torch 2.4
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(capabilities.get("avx512_bf16")))


def require_match(zhclip: Any, old: Artifact, teacher: Teacher) -> None:
    """Raise ValueError unless the encoder can be fitted to this CLIP."""
    meta = old.meta
    if meta.teacher.width != teacher.width:
        raise ValueError(
            f"The encoder's vectors are {meta.teacher.width} wide (teacher {meta.teacher.id}) and those of the CLIP at "
            f"`clip` {teacher.width}: connect the CLIP of a checkpoint of the encoder's own kind."
        )
    if meta.window > teacher.positions or meta.teacher.layer not in (-1, SKIP_LAYER) or meta.dimensions.layers < 2:
        raise ValueError(
            f"The encoder answers for layer {meta.teacher.layer} of its teacher at {meta.window} positions, by "
            f"{meta.dimensions.layers} layers; calibration knows layers -1 and -2, at most {teacher.positions} "
            "positions, and two layers or more: train the encoder on this checkpoint's CLIP instead."
        )
    if zhclip.patcher.patches:
        raise ValueError("The encoder at `zhclip` carries a LoRA, which its copy would lose: add the LoRA behind it.")


def token_pairs(zhclip: Any, teacher: Teacher, pairs: Pairs, window: int) -> list[TokenPair]:
    """The pairs of which both sides fit one window."""
    prompt = zhclip.tokenizer.clip_l.prompt
    found = []
    for zh, en in pairs:
        zh_windows, en_windows = prompt.windows(zh), teacher.windows(en)
        if len(zh_windows) > 1 or len(en_windows) > 1:
            continue
        ends = zh_windows[0].index(prompt.special.end) + 1, teacher.length(en_windows[0])
        if max(ends) <= window:
            found.append(TokenPair(zh_windows[0], en_windows[0][:window], *ends))
    return found


def student_states(zhclip: Any, windows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of P ids -> the last hidden states and those before the last, (B, P, S) fp32."""
    encoder = encoder_of(zhclip)
    embeds, mask, count = encoder.process_tokens(windows, zhclip.patcher.load_device)[:3]
    last, skip = encoder.transformer.states(
        None, mask, embeds=embeds, num_tokens=count, intermediate_output=SKIP_LAYER, dtype=torch.float32
    )
    return last.float().cpu(), skip.float().cpu()
