"""The artifact's own tokenizer: from normalised text to windows of token ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from .artifact import SpecialIds
from .prompt import cut, normalise


@dataclass(frozen=True)
class PromptTokenizer:
    """Turns prompts into windows of `window` ids: start, tokens, end, padding."""

    tokenizer: Tokenizer
    special: SpecialIds
    window: int

    @classmethod
    def from_json(cls, tokenizer_json: bytes, special: SpecialIds, window: int) -> PromptTokenizer:
        """Build from the `tokenizers` serialisation that an artifact carries.

        Its own truncation, padding and special tokens are switched off: a window is framed here, and "[SEP]" typed in
        a prompt is text, not an end.
        """
        tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        return cls(tokenizer, special, window)

    def ids(self, text: str) -> list[int]:
        """Ids of the normalised text, without start, end or padding."""
        return self._encode(normalise(text))[0]

    def windows(self, text: str) -> list[list[int]]:
        """The prompt's windows, each exactly `window` ids long. An empty prompt is one window without tokens."""
        ids, pieces = self._encode(normalise(text))
        begin, out = 0, []
        for end in cut(pieces, self.window - 2):
            out.append(self.frame(ids[begin:end]))
            begin = end
        return out

    def _encode(self, normal: str) -> tuple[list[int], list[str]]:
        encoding = self.tokenizer.encode(normal, add_special_tokens=False)
        # A unigram vocabulary finds a typed "</s>" among its pieces, whatever encode_special_tokens says.
        framing = {self.special.start, self.special.end, self.special.pad}
        ids = [self.special.unknown if i in framing else i for i in encoding.ids]
        return ids, [normal[a:b] for a, b in encoding.offsets]

    def frame(self, ids: list[int]) -> list[int]:
        """Start, ids, end, padding up to the window. `ids` may hold at most window - 2."""
        framed = [self.special.start, *ids, self.special.end]
        return framed + [self.special.pad] * (self.window - len(framed))

    def length(self, text: str) -> int:
        """Positions that the text takes in one window, start and end included; more than `window` does not fit."""
        return len(self.ids(text)) + 2

    def key_mask(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, window) ids -> (B, window) bool, True up to and including the first end token.

        The mask is found from the end, not from the padding's id: in some vocabularies the two are one.
        """
        ends = ids.eq(self.special.end).int()
        return (ends.cumsum(dim=1) - ends).eq(0)

    def is_empty(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, window) ids -> (B,) bool, True where the window holds no token between start and end."""
        return ids[:, 1].eq(self.special.end)
