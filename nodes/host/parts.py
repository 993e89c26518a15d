"""One encoder in the place of a checkpoint's several: tokens under the key of each, and its vectors side by side."""

from __future__ import annotations

from typing import Any

import comfy.sd1_clip
import torch

from ...zhclip.models import kind_of

Windows = list[list[tuple[Any, ...]]]


class PartsTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """Core's tokenizer of one text encoder, which gives its windows under each of `keys`."""

    def __init__(self, keys: tuple[str, ...], embedding_directory: Any = None, **options: Any) -> None:
        super().__init__(embedding_directory, **options)
        self.keys = keys
        for key in keys:  # as packs look for a checkpoint's
            setattr(self, f"clip_{key}", getattr(self, self.clip))

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, Windows]:
        """A prompt -> its windows under each key, in lists of its own: CLIPTextEncodeSDXL adds to them in place."""
        (windows,) = super().tokenize_with_weights(text, return_word_ids, **options).values()
        return {key: [list(window) for window in windows] for key in self.keys}


class PartsModel(comfy.sd1_clip.SD1ClipModel):
    """Core's model of one text encoder, which reads the windows under each of the artifact's keys."""

    def encode_token_weights(self, token_weight_pairs: dict[str, Windows]) -> tuple[torch.Tensor, torch.Tensor]:
        """{key: windows} -> ((1, windows * W, sum of the parts' widths), pooled (1, P)).

        Each part's columns come from the windows under its key, the pooled vector from the last part's, and the longer
        are cut to the shorter, all as in core's SDXLClipModel. Windows that several keys share are encoded once. Raises
        ValueError where a key is missing.
        """
        meta = self.clip_l.meta
        lacking = [key for key in meta.keys if key not in token_weight_pairs]
        if lacking:
            raise ValueError(
                f"A node gave a ZhCLIP encoder for {kind_of(meta.keys).name} no tokens {', '.join(lacking)}: it "
                "encodes for another kind of CLIP; use the stock CLIP Text Encode."
            )
        given = [token_weight_pairs[key] for key in meta.keys]
        unlike = [windows for at, windows in enumerate(given) if windows not in given[:at]]
        encoded = [self.clip_l.encode_token_weights(windows) for windows in unlike]
        of_parts = [encoded[unlike.index(windows)] for windows in given]
        length = min(z.shape[1] for z, _ in encoded)
        columns = [z[:, :length].split(meta.widths, dim=-1)[part] for part, (z, _) in enumerate(of_parts)]
        return torch.cat(columns, dim=-1), of_parts[-1][1]
