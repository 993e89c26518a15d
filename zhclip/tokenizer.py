"""The tokenizer of an artifact, built from a vocabulary and typed settings: BERT's WordPiece or XLM-RoBERTa's Unigram.

A file holds no serialised tokenizer, because `tokenizers` runs what such a text says: a regular expression of its own
may never end, and a chain of replacements may turn a letter into gigabytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .io import AnyPath, ArtifactError, DamagedArtifactError, Tensors
from .schema import SpecialIds, TokenizerInfo

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_BYTES = 16 << 20  # of the vocabulary's JSON; XLM-RoBERTa's 250,000 pieces take 4 MB
# Characters. Freeing a Unigram's trie recurses once for each character of its longest piece: one of a million ends the
# process by a segmentation fault.
MAX_PIECE = 200
MAX_WORD = 100  # characters of a word that WordPiece divides, in time that grows with their square: BERT's own number
MAX_EXPANSION = 64  # bytes that one character may become; by NFKC it is 33


def pack(pieces: Sequence[str], scores: Sequence[float] = (), charsmap: bytes = b"") -> Tensors:
    """Tensors of a vocabulary in the order of its ids, of a Unigram's scores and of sentencepiece's character map."""
    text = json.dumps(list(pieces), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    tensors = {"vocabulary": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    if scores:
        tensors["scores"] = torch.tensor(list(scores), dtype=torch.float32)
    if charsmap:
        tensors["charsmap"] = torch.frombuffer(bytearray(charsmap), dtype=torch.uint8)
    return tensors


def build(
    path: AnyPath, info: TokenizerInfo, special: SpecialIds, tensors: Tensors, rows: int | None = None
) -> Tokenizer:
    """The tokenizer of `pack`'s tensors, for an embedding of `rows`. It adds no special tokens, and reads "[SEP]" in a
    prompt as text. Raises DamagedArtifactError, also for whatever `tokenizers` raises."""
    # Imported here: slow, and not needed at ComfyUI's start.
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = _pieces(path, tensors, rows)
    if special.unknown >= len(pieces):
        raise DamagedArtifactError(path, f"{len(pieces)} pieces", f"one of id {special.unknown}, the unknown token")
    with guard_panics(path):
        if info.kind == "wordpiece":
            vocabulary = {piece: number for number, piece in enumerate(pieces)}
            model = models.WordPiece(vocabulary, unk_token=pieces[special.unknown], max_input_chars_per_word=MAX_WORD)
            tokenizer = Tokenizer(model)
            tokenizer.normalizer = normalizers.BertNormalizer(
                info.clean_text, info.handle_chinese_chars, info.strip_accents, info.lowercase
            )
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            return tokenizer
        scores = _scores(path, tensors, len(pieces))
        tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores)), special.unknown, byte_fallback=False))
        precompiled = info.normalizer == "precompiled"
        fold = normalizers.Precompiled(_charsmap(path, tensors)) if precompiled else normalizers.NFKC()
        join = [normalizers.Replace(Regex(" {2,}"), " ")] if info.join_spaces else []
        tokenizer.normalizer = normalizers.Sequence([fold, *join])
        split = [pre_tokenizers.WhitespaceSplit()] if info.whitespace_split else []
        metaspace = pre_tokenizers.Metaspace(prepend_scheme=info.prepend_scheme)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, metaspace])
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=info.prepend_scheme)
        return tokenizer


def _stored(path: AnyPath, tensors: Tensors, name: str, dtype: torch.dtype) -> Any:
    """One of the tokenizer's tensors as a numpy array. Raises DamagedArtifactError."""
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != dtype or tensor.dim() != 1:
        raise DamagedArtifactError(path, f"no {name}, or one of another type", f"a list of {dtype}")
    return tensor.numpy()


def _pieces(path: AnyPath, tensors: Tensors, rows: int | None) -> list[str]:
    raw = _stored(path, tensors, "vocabulary", torch.uint8).tobytes()
    expected = f"at most {MAX_BYTES} bytes of JSON, a list of texts of at most {MAX_PIECE} characters"
    try:
        pieces = json.loads(raw.decode("utf-8")) if len(raw) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise DamagedArtifactError(path, f"a vocabulary that is no JSON ({ascii(error)[:80]})", expected) from error
    if type(pieces) is not list or not all(type(piece) is str and len(piece) <= MAX_PIECE for piece in pieces):
        raise DamagedArtifactError(path, "a vocabulary of another type or size", expected)
    if rows is not None and len(pieces) > rows:
        raise DamagedArtifactError(
            path, f"a vocabulary of {len(pieces)} pieces", f"at most {rows}, the embedding's rows"
        )
    return pieces


def _scores(path: AnyPath, tensors: Tensors, count: int) -> list[float]:
    scores = _stored(path, tensors, "scores", torch.float32)
    if len(scores) != count or not all(map(math.isfinite, scores)):
        raise DamagedArtifactError(path, "no finite score for each piece", f"{count} of them")
    return scores.tolist()


def _charsmap(path: AnyPath, tensors: Tensors) -> bytes:
    """sentencepiece's map: a length, a trie of so many bytes, and texts that end with 0."""
    raw = _stored(path, tensors, "charsmap", torch.uint8).tobytes()
    size = int.from_bytes(raw[:4], "little")
    texts = raw[4 + size :]
    if len(raw) < 8 or size % 4 or not texts.endswith(b"\0") or max(map(len, texts.split(b"\0"))) > MAX_EXPANSION:
        raise DamagedArtifactError(path, "a damaged character map", f"at most {MAX_EXPANSION} bytes for a character")
    return raw


@contextmanager
def guard_panics(path: AnyPath) -> Iterator[None]:
    """Whatever `tokenizers` raises inside, as DamagedArtifactError. It raises Exception itself, and a panic of its Rust
    code raises a BaseException, which would end the thread of a host that catches Exception."""
    try:
        yield
    except ArtifactError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        found = f"a tokenizer that the tokenizers library cannot run ({ascii(str(error)[:80])[1:-1][:80]})"
        raise DamagedArtifactError(path, found, "a BERT's tokenizer") from error
