"""The text encoder inside ComfyUI's CLIP: runs windows of token ids through the aligned BERT."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sd1_clip
import torch

from ...zhclip.artifact import Artifact
from ...zhclip.emphasis import combine, rows
from ...zhclip.models import kind_of, relative_layer
from ...zhclip.structure import structures
from ...zhclip.tokens import Window
from ..messages import message
from .bert import SKIP_LAYER, AlignedBert
from .tokenizer import Windows

MAX_BATCH = 256  # windows of one forward pass, which bounds memory


class MaskedWindow(list[int]):
    """A window's ids, of which some positions are hidden as keys."""

    def __init__(self, ids: list[int], hidden: range) -> None:
        super().__init__(ids)
        self.hidden = hidden


class WindowEncoder(comfy.sd1_clip.SDClipModel):
    """Runs windows of ids through the aligned BERT. `overrides` are load_clip's."""

    def __init__(self, artifact: Artifact, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        meta, special = artifact.meta, artifact.meta.special_ids
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            max_length=meta.window,
            textmodel_json_config=_bert_config(artifact),
            special_tokens={"start": special.start, "end": special.end, "pad": special.pad},
            model_class=AlignedBert,
            enable_attention_masks=True,
            return_attention_masks=False,
        )
        self.meta = meta
        self.path = artifact.path
        self.overrides: dict[str, Any] = {}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """As in core, with the layer that CLIP Set Last Layer chose translated to the student's."""
        chosen = options.get("layer")
        if chosen is not None:
            options = {**options, "layer": self.student_layer(chosen)}
        super().set_clip_options(options)

    def student_layer(self, chosen: int) -> int:
        """The student's layer for one of the teacher's, both counted from the end. The layer that the file was trained
        for is the student's last; later ones and ones that do not exist give the last too."""
        own = self.meta.teacher.layer
        layer = min(relative_layer(chosen, own), -1) if chosen < 0 and own < 0 else chosen
        return layer if abs(layer) <= self.num_layers else -1  # as core does

    def encode_token_weights(self, token_weight_pairs: list[list[tuple[Any, ...]]]) -> Any:
        """Windows of (id, weight) pairs -> ((1, windows * W, D), pooled (1, D)).

        Core would move each position towards the empty prompt by its token's weight; this encoder's positions are the
        teacher's words, not the prompt's, so that would weigh the wrong words: zhclip/emphasis.py. All windows and all
        weighted spans run in one batch. Raises ValueError for other windows, and for too many.
        """
        for pairs in token_weight_pairs:
            if len(pairs) != self.max_length:
                raise ValueError(message("window_cut", tokens=len(pairs), window=self.max_length))
        windows = [self._window(pairs) for pairs in token_weight_pairs] or [self._empty()]
        batch = [MaskedWindow(*row) for row in rows(windows)]
        parts = [self.encode(batch[at : at + MAX_BATCH]) for at in range(0, len(batch), MAX_BATCH)]
        z, pooled = (torch.cat(outputs) for outputs in list(zip(*parts))[:2])
        device = comfy.model_management.intermediate_device()
        return combine(z, windows).flatten(0, 1)[None].to(device), combine(pooled, windows)[:1].to(device)

    def _window(self, pairs: list[tuple[Any, ...]]) -> Window:
        ids = [pair[0] for pair in pairs]
        # Start, end and padding are not the prompt's: another pack's weights for them are ignored.
        end = ids.index(self.special_tokens["end"])
        return Window(ids, [pair[1] if 0 < at < end else 1.0 for at, pair in enumerate(pairs)])

    def _empty(self) -> Window:
        ids = comfy.sd1_clip.gen_empty_tokens(self.special_tokens, self.max_length)
        return Window(ids, [1.0] * len(ids))

    def process_tokens(self, tokens: list[Any], device: Any) -> tuple[Any, ...]:
        """Embeddings, key mask and counts. The mask also hides spans, and shows padding where the file says so."""
        embeds, mask, *others = super().process_tokens(tokens, device)
        if not self.meta.mask_padding:
            mask = torch.ones_like(mask)
        for at, window in enumerate(tokens):
            if isinstance(window, MaskedWindow) and window.hidden:
                mask[at, window.hidden.start : window.hidden.stop] = 0
        return embeds, mask, *others

    def states(self, windows: list[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows of P ids -> hidden states of the last layer and of the one before, (B, P, S) fp32 each, without the
        output structure. `device`: where the model is loaded."""
        embeds, mask, count = self.process_tokens(windows, device)[:3]
        last, skip = self.transformer.states(
            None, mask, embeds=embeds, num_tokens=count, intermediate_output=SKIP_LAYER, dtype=torch.float32
        )
        return last.float().cpu(), skip.float().cpu()


class PartsModel(comfy.sd1_clip.SD1ClipModel):
    """A text encoder for checkpoints of one or more parts, which encodes the windows under each part's key."""

    def encode_token_weights(self, token_weight_pairs: dict[str, Windows]) -> tuple[torch.Tensor, torch.Tensor]:
        """{key: windows} -> ((1, windows * W, sum of the parts' widths), pooled (1, P)).

        As in core's SDXLClipModel, each part's columns come from the windows under its key, the pooled vector from the
        last part's, and longer ones are cut to the shortest. Equal windows are encoded once. Raises ValueError where a
        key is missing.
        """
        meta = self.clip_l.meta
        missing = [key for key in meta.keys if key not in token_weight_pairs]
        if missing:
            raise ValueError(message("no_tokens", kind=kind_of(meta.keys).name, missing=", ".join(missing)))
        inputs = [token_weight_pairs[key] for key in meta.keys]
        distinct = [windows for at, windows in enumerate(inputs) if windows not in inputs[:at]]
        encoded = [self.clip_l.encode_token_weights(windows) for windows in distinct]
        by_part = [encoded[distinct.index(windows)] for windows in inputs]
        length = min(z.shape[1] for z, _ in encoded)
        columns = [z[:, :length].split(meta.widths, dim=-1)[part] for part, (z, _) in enumerate(by_part)]
        return torch.cat(columns, dim=-1), by_part[-1][1]


def _bert_config(artifact: Artifact) -> dict[str, Any]:
    """AlignedBert's configuration: the BERT's dimensions by core's names, and its output structures."""
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
