"""The artifact's own tokenizer: from a prompt to windows of token ids and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from .artifact import Artifact
from .io import Tensors
from .prompt import Span, cut, normalise, sections
from .schema import Meta, SpecialIds, TokenizerInfo
from .tokenizer import build, guard_panics


@dataclass(frozen=True)
class Window:
    """Ids that the encoder reads together: start, tokens, end, padding; the weight of each (1 but for the tokens); and
    the parts of the prompt that the tokens cover, where a prompt was read."""

    ids: list[int]
    weights: list[float]
    pieces: list[str] = field(default_factory=list)


class PromptTokenizer:
    """Turns prompts into windows of `window` ids. `folding` maps code points that the vocabulary lacks, mostly rare
    traditional ones, to variants that it has."""

    def __init__(
        self,
        info: TokenizerInfo,
        tensors: Tensors,
        special: SpecialIds,
        window: int,
        path: str,
        rows: int | None = None,
    ) -> None:
        """`tensors` as tokenizer.pack gives them; `rows` of the embedding; `path` is for messages. Raises
        DamagedArtifactError."""
        self.tokenizer = build(path, info, special, tensors, rows)
        self.info, self.tensors, self.special, self.window, self.path = info, tensors, special, window, path
        self.folding: Mapping[int, str] = {}

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> PromptTokenizer:
        """The tokenizer of a loaded artifact. Raises DamagedArtifactError."""
        return cls.from_meta(artifact.meta, artifact.tokenizer, artifact.path)

    @classmethod
    def from_meta(cls, meta: Meta, tensors: Tensors, path: str) -> PromptTokenizer:
        """Build from an artifact's metadata and its tokenizer's tensors. Raises DamagedArtifactError."""
        tokens = cls(meta.tokenizer, tensors, meta.special_ids, meta.window, path, meta.dimensions.vocabulary)
        tokens.folding = str.maketrans(meta.folding)
        return tokens

    def ids(self, text: str) -> list[int]:
        """Ids of the normalised text, without start, end or padding."""
        return self._encode(normalise(text))[0]

    def windows(self, text: str) -> list[list[int]]:
        """The windows' ids of plain text, where brackets and BREAK are text, each exactly `window` long."""
        return [window.ids for window in self.weighted_windows(text, syntax=False)]

    def weighted_windows(self, text: str, syntax: bool = True) -> list[Window]:
        """The windows of a prompt; an empty one is one window without tokens. Without `syntax`, brackets and BREAK are
        text, and all weights 1. Raises PromptError for a prompt that is too long or too deeply nested.

        The text is tokenised whole, without its brackets, so a weight never changes the tokens: `(red:1)` is `red`.
        """
        parts = sections(text) if syntax else [[Span(normalise(text), 1.0)]]
        return [window for spans in parts for window in self._windows(spans)]

    def unknown_pieces(self, windows: Iterable[Window]) -> list[str]:
        """The pieces of windows that the vocabulary lacks and the encoder reads as unknown, each once, in order."""
        tokens = (pair for window in windows for pair in zip(window.ids[1:], window.pieces))
        return list(dict.fromkeys(piece for i, piece in tokens if i == self.special.unknown))

    def _windows(self, spans: list[Span]) -> list[Window]:
        ids, offsets, plain = self._encode("".join(span.text for span in spans))
        span_of = [number for number, span in enumerate(spans) for _ in span.text]  # by character
        owners = [
            _majority_span(spans, [span_of[at] for at in range(a, b) if not plain[at].isspace()]) for a, b in offsets
        ]
        weights = [spans[owner].weight if owner >= 0 else 1.0 for owner in owners]
        joined = [False] + [a == b and w != 1.0 for a, b, w in zip(owners, owners[1:], weights[1:])]
        pieces = [plain[a:b] for a, b in offsets]
        begin, out = 0, []
        for end in cut(pieces, self.window - 2, joined):
            after = [1.0] * (self.window - 1 - (end - begin))
            out.append(Window(self.frame(ids[begin:end]), [1.0, *weights[begin:end], *after], pieces[begin:end]))
            begin = end
        return out

    def _encode(self, plain: str) -> tuple[list[int], list[tuple[int, int]], str]:
        """Normalised text -> ids, the characters that each covers, and the text that they count in."""
        plain = plain.translate(self.folding)
        with guard_panics(self.path):
            encoding = self.tokenizer.encode(plain, add_special_tokens=False)
        # A unigram vocabulary reads a typed "</s>" as its own piece, whatever encode_special_tokens says.
        framing = {self.special.start, self.special.end, self.special.pad}
        ids = [self.special.unknown if i in framing else i for i in encoding.ids]
        return ids, encoding.offsets, plain

    def frame(self, ids: list[int]) -> list[int]:
        """Start, ids, end, padding up to the window. `ids` may hold at most window - 2."""
        framed = [self.special.start, *ids, self.special.end]
        return framed + [self.special.pad] * (self.window - len(framed))

    def length(self, text: str) -> int:
        """Positions that the text takes in one window, start and end included; more than `window` does not fit."""
        return len(self.ids(text)) + 2

    def key_mask(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, window) ids -> (B, window) bool, True up to and including the first end token, whatever the pad id."""
        ends = ids.eq(self.special.end).int()
        return (ends.cumsum(dim=1) - ends).eq(0)

    def is_empty(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, window) ids -> (B,) bool, True where the window holds no token between start and end."""
        return ids[:, 1].eq(self.special.end)


def _majority_span(spans: list[Span], numbers: list[int]) -> int:
    """The number of a token's span, from those of its visible characters; -1 for a token without any. The vocabulary
    may join characters of two spans: most of them decide, and where that is even, the span with a weight."""
    counts = Counter(numbers)
    return max(counts, key=lambda at: (counts[at], spans[at].weight != 1.0), default=-1)
