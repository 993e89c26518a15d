"""The artifact's own tokenizer: from a prompt to windows of token ids and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer

from .artifact import Artifact
from .prompt import Span, cut, normalise, sections
from .schema import Meta, SpecialIds, TokenizerInfo
from .tokenizer import build, guard_panics


@dataclass(frozen=True)
class Window:
    """What the encoder reads at once: start, tokens, end, padding, and the weight of each (1 for what frames it).

    `pieces` are the stretches of the prompt that the tokens between start and end stand for, where a prompt was read.
    """

    ids: list[int]
    weights: list[float]
    pieces: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PromptTokenizer:
    """Turns prompts into windows of `window` ids.

    `folding` maps code points that the vocabulary lacks, mostly rare traditional ones, to variants that it has. What it
    knows is left as typed: it learnt many traditional characters, and a word may differ from its simplified twin.
    """

    tokenizer: Tokenizer
    special: SpecialIds
    window: int
    info: TokenizerInfo
    tensors: dict[str, torch.Tensor]  # as tokenizer.pack makes them
    folding: Mapping[int, str] = field(default_factory=dict)
    path: str = "a tokenizer"  # where it came from, for messages

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> PromptTokenizer:
        """The tokenizer of a loaded artifact. Raises DamagedArtifactError."""
        return cls.from_meta(artifact.meta, artifact.tokenizer, artifact.path)

    @classmethod
    def from_meta(cls, meta: Meta, tensors: dict[str, torch.Tensor], path: str) -> PromptTokenizer:
        """Build from an artifact's metadata and its tokenizer's tensors. Raises DamagedArtifactError."""
        tokenizer = build(path, meta.tokenizer, meta.special_ids, tensors, meta.dimensions.vocabulary)
        folding = str.maketrans(meta.folding)
        return cls(tokenizer, meta.special_ids, meta.window, meta.tokenizer, tensors, folding, path)

    @classmethod
    def from_info(
        cls, info: TokenizerInfo, tensors: dict[str, torch.Tensor], special: SpecialIds, window: int, path: str
    ) -> PromptTokenizer:
        """Build without an artifact. Raises DamagedArtifactError."""
        return cls(build(path, info, special, tensors), special, window, info, tensors, {}, path)

    def ids(self, text: str) -> list[int]:
        """Ids of the normalised text, without start, end or padding."""
        return self._encode(normalise(text))[0]

    def windows(self, text: str) -> list[list[int]]:
        """The windows of plain text, where brackets are characters, each exactly `window` ids long. An empty text is
        one window without tokens."""
        return [window.ids for window in self.plain_windows(text)]

    def plain_windows(self, text: str) -> list[Window]:
        """`windows` with their weights, all 1, and the pieces that they stand for."""
        return self._windows([Span(normalise(text), 1.0)])

    def weighted_windows(self, text: str) -> list[Window]:
        """The windows of a prompt, its syntax acted on: brackets and weights, and BREAK begins a new window. Raises
        PromptError for a prompt that is too long or too deeply nested.

        The text is tokenised whole, without its brackets, so a weight never changes the tokens: `(red:1)` is `red`.
        """
        return [window for spans in sections(text) for window in self._windows(spans)]

    def unknown(self, text: str) -> list[str]:
        """The pieces of a prompt that the vocabulary lacks and the encoder reads as unknown, each once, in order."""
        return self.unknown_in(self.weighted_windows(text))

    def unknown_in(self, windows: Iterable[Window]) -> list[str]:
        """`unknown` of a prompt's windows."""
        tokens = (pair for window in windows for pair in zip(window.ids[1:], window.pieces))
        return list(dict.fromkeys(piece for i, piece in tokens if i == self.special.unknown))

    def _windows(self, spans: list[Span]) -> list[Window]:
        ids, offsets, plain = self._encode("".join(span.text for span in spans))
        owners = [at for at, span in enumerate(spans) for _ in span.text]
        of = [_owner(spans, [owners[at] for at in range(a, b) if not plain[at].isspace()]) for a, b in offsets]
        weights = [spans[at].weight if at >= 0 else 1.0 for at in of]
        joined = [False] + [a == b and w != 1.0 for a, b, w in zip(of, of[1:], weights[1:])]
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
        # A unigram vocabulary finds a typed "</s>" among its pieces, whatever encode_special_tokens says.
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
        """(B, window) ids -> (B, window) bool, True up to and including the first end token.

        The mask is found from the end, not from the padding's id: in some vocabularies the two are one.
        """
        ends = ids.eq(self.special.end).int()
        return (ends.cumsum(dim=1) - ends).eq(0)

    def is_empty(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, window) ids -> (B,) bool, True where the window holds no token between start and end."""
        return ids[:, 1].eq(self.special.end)


def _owner(spans: list[Span], owners: list[int]) -> int:
    """The span of a token, from the spans of its visible characters; -1 for a token without any. The vocabulary may
    join characters of two spans: most of them decide, and where that is even, the span with a weight."""
    counts = Counter(owners)
    return max(counts, key=lambda at: (counts[at], spans[at].weight != 1.0), default=-1)
