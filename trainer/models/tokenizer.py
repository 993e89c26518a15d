"""The student's tokenizer, as an artifact carries it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from zhclip.artifact import ArtifactError, SpecialIds
from zhclip.tokens import PromptTokenizer

from .download import small_files
from .folding import folding
from .load import ModelError

FLAG = "student.model"


def load_tokens(model: str, window: int) -> PromptTokenizer:
    """The student's tokenizer. Raises ModelError when it lacks a special token or cannot be serialised."""
    return _load_tokens(small_files(model, FLAG), window)


@functools.lru_cache(maxsize=1)  # every stage of a run asks for it, and a large vocabulary takes seconds
def _load_tokens(folder: Path, window: int) -> PromptTokenizer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"--{FLAG} {folder}: its tokenizer cannot be read ({error})") from error
    return tokens_of(tokenizer, window, f"--{FLAG} {folder}")


def tokens_of(tokenizer: PreTrainedTokenizerBase, window: int, where: str) -> PromptTokenizer:
    """transformers' tokenizer as an artifact carries it, with the folding that its vocabulary needs.

    Raises ModelError, which begins with `where`, when it lacks a special token or cannot be serialised.
    """
    ids = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    if None in ids:
        raise ModelError(f"{where}: its tokenizer lacks a start, end, padding or unknown token")
    try:
        serialised = tokenizer.backend_tokenizer.to_str(pretty=False).encode("utf-8")
    except Exception as error:
        raise ModelError(f"{where}: its tokenizer cannot be read ({error})") from error
    try:
        plain = PromptTokenizer.from_json(serialised, SpecialIds(*ids), window)
    except ArtifactError as error:
        raise ModelError(
            f"{where}: the nodes run BERT's WordPiece and XLM-RoBERTa's Unigram, and this is {error.found}; "
            f"expected {error.expected}"
        ) from error
    return dataclasses.replace(plain, folding=str.maketrans(folding(plain)))
