"""Windows of tokens through the aligned BERT: the text encoder inside core's CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sd1_clip
import torch

from ...zhclip.artifact import Artifact, ArtifactError
from ...zhclip.emphasis import Row, combine, rows
from ...zhclip.tokens import Window
from .bert import SKIP_LAYER, AlignedBert, log_once, structures

BEHIND = (
    "ZhCLIP: CLIP Set Last Layer at {chosen}: this encoder was trained for layer {own} and has none behind it, so that "
    "one is used."
)
AT_ONCE = 256  # rows of a batch


class MaskedWindow(list[int]):
    """A window's ids, of which some positions are hidden as keys."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.ids)
        self.hidden = row.hidden


class WindowEncoder(comfy.sd1_clip.SDClipModel):
    """Runs windows of ids through the aligned BERT. `path` and `changes` are load_clip's; `wait` returns once the
    artifact's tensors are filled, which `load_sd` needs where core has put the model on a device."""

    def __init__(
        self,
        artifact: Artifact,
        path: str,
        wait: Callable[[], None],
        device: Any = "cpu",
        dtype: Any = None,
        model_options: Any = None,
    ) -> None:
        meta, special = artifact.meta, artifact.meta.special_ids
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            max_length=meta.window,
            textmodel_json_config=_config(artifact),
            special_tokens={"start": special.start, "end": special.end, "pad": special.pad},
            model_class=AlignedBert,
            enable_attention_masks=True,
            return_attention_masks=False,
        )
        self.meta = meta
        self.path, self.wait = path, wait
        self.changes: dict[str, Any] = {}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Core's, with the student's layer for the teacher's that CLIP Set Last Layer chose."""
        chosen = options.get("layer")
        if chosen is not None:
            options = {**options, "layer": self.layer_for(chosen)}
            if self.meta.teacher.layer < chosen < 0:
                log_once(BEHIND.format(chosen=chosen, own=self.meta.teacher.layer))
        super().set_clip_options(options)

    def layer_for(self, chosen: int) -> int:
        """The student's layer for one of the teacher's, both counted from the end: the file's own is the last, nothing
        is behind it, and one that there is not is the last too."""
        own = self.meta.teacher.layer
        layer = min(chosen - own - 1, -1) if chosen < 0 and own < 0 else chosen
        return layer if abs(layer) <= self.num_layers else -1  # as core does

    def load_sd(self, sd: dict[str, torch.Tensor]) -> Any:
        """Take the weights as they are, which saves core's copy. Returns core's missing and unexpected names, none.
        Raises ArtifactError for any."""
        model = {name: tensor for name, tensor in self.transformer.state_dict().items() if not tensor.is_meta}
        if model:
            self.wait()
        self.wait = lambda: None  # models are copied, and what waits cannot be
        fit = {name: tensor.to(model[name]) if name in model else tensor for name, tensor in sd.items()}
        odd = self.transformer.load_state_dict(fit, strict=False, assign=True)
        names = sorted([*odd.missing_keys, *odd.unexpected_keys])
        if names:  # core only logs this, and runs on with whatever the memory held
            mismatch = f"tensors that do not match core's BERT ({', '.join(names[:3])})"
            raise ArtifactError(self.path, mismatch, "the same names", "Update ZhCLIP.")
        return odd

    def encode_token_weights(self, token_weight_pairs: list[list[tuple[Any, ...]]]) -> Any:
        """Windows of (id, weight) pairs -> ((1, windows * W, D), pooled (1, D)).

        Core would move each position towards the empty prompt by its token's weight; this encoder's positions are the
        teacher's words, not the prompt's, so that would weigh the wrong words: zhclip/emphasis.py. All windows and all
        weighted spans run in one batch. Raises ValueError for other windows, and for too many.
        """
        for pairs in token_weight_pairs:
            if len(pairs) != self.max_length:
                raise ValueError(
                    f"A window of {len(pairs)} tokens reached a ZhCLIP encoder that reads {self.max_length}: a node "
                    "between the loader and the sampler cuts prompts for CLIP; use the stock CLIP Text Encode."
                )
        windows = [self._window(pairs) for pairs in token_weight_pairs] or [self._empty()]
        batch = rows(windows)
        z, pooled = self._encoded([MaskedWindow(row) for row in batch])
        device = comfy.model_management.intermediate_device()
        return combine(z, windows).flatten(0, 1)[None].to(device), combine(pooled, windows)[:1].to(device)

    def _encoded(self, batch: list[MaskedWindow]) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, W, D) and pooled (rows, D), some rows at a time: a layer holds some MB for each, and a user who
        cancels waits for no more. Raises the host's own exception then."""
        parts = []
        for at in range(0, len(batch), AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            parts.append(self.encode(batch[at : at + AT_ONCE])[:2])
        if len(parts) == 1:
            return parts[0]
        return torch.cat([z for z, _ in parts]), torch.cat([pooled for _, pooled in parts])

    def _window(self, pairs: list[tuple[Any, ...]]) -> Window:
        ids = [pair[0] for pair in pairs]
        # What frames a window is not the prompt's, whatever weight another pack gives it.
        end = ids.index(self.special_tokens["end"])
        return Window(ids, [pair[1] if 0 < at < end else 1.0 for at, pair in enumerate(pairs)])

    def _empty(self) -> Window:
        ids = comfy.sd1_clip.gen_empty_tokens(self.special_tokens, self.max_length)
        return Window(ids, [1.0] * len(ids))

    def process_tokens(self, tokens: list[Any], device: Any) -> tuple[Any, ...]:
        """Core's embeddings, key mask and counts; the mask also hides spans, and shows padding if the file says so."""
        embeds, mask, *others = super().process_tokens(tokens, device)
        if not self.meta.mask_padding:
            mask = torch.ones_like(mask)
        for at, window in enumerate(tokens):
            if isinstance(window, MaskedWindow) and window.hidden:
                mask[at, window.hidden.start : window.hidden.stop] = 0
        return embeds, mask, *others

    def states(self, windows: list[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows of P ids -> the last hidden states and those of clip skip, before the structure, (B, P, S) fp32 each.
        `device` is where the model is loaded."""
        embeds, mask, count = self.process_tokens(windows, device)[:3]
        last, skip = self.transformer.states(
            None, mask, embeds=embeds, num_tokens=count, intermediate_output=SKIP_LAYER, dtype=torch.float32
        )
        return last.float().cpu(), skip.float().cpu()


def _config(artifact: Artifact) -> dict[str, Any]:
    """What AlignedBert is built from: core's names for the BERT's dimensions, and what follows it."""
    meta, d = artifact.meta, artifact.meta.dimensions
    return {
        "hidden_size": d.width,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "intermediate_size": d.intermediate,
        "vocab_size": d.vocabulary,
        "max_position_embeddings": d.positions,
        "type_vocab_size": d.types,
        "layer_norm_eps": d.layer_norm_eps,
        "pad_token_id": meta.special_ids.pad,
        "structures": structures(artifact),
    }
