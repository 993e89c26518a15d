"""The student's tokenizer, as an artifact stores it: read from transformers' tokenizer, and compared with it."""

from __future__ import annotations

import base64
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from zhclip import artifact
from zhclip.prompt import normalise
from zhclip.schema import SpecialIds, TokenizerInfo
from zhclip.tokenizer import pack
from zhclip.tokens import PromptTokenizer

from .load import ModelError, model_errors, read_tokenizer, resolve

logger = logging.getLogger(__name__)
FLAG = "student.model"
IDEOGRAPHS = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0xF900, 0xFB00), *range(0x20000, 0x33480)]
# Chinese, English, both, numbers, signs, accents, full-width forms, pictures, a long word.
SAMPLES = (
    "\u4e00\u53ea\u7ea2\u8272\u7684\u732b, a Red cat",
    "\u96e8\u4e2d\u7684\u57ce\u5e02 Van Gogh 4k 1,000.5",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul",
    "\uff21\uff22\uff23\uff11\uff12 \u3042\u3044\u3046 \ud55c\uae00 \u00bd \u2460 \ufb01",
    "\u2728 \U0001f431 \u9f98\u9f8d (masterpiece:1.2) [x] #tag @you http://a.b/c?d=e",
    "antidisestablishmentarianism " + "ab" * 60,
)


def student_tokenizer(model: str, window: int) -> PromptTokenizer:
    """The student's tokenizer. Raises ModelError when it lacks a special token or is of another kind."""
    path = resolve(model, FLAG)
    if path.is_file():  # a ZhCLIP encoder
        stored = PromptTokenizer.from_meta(*artifact.read_tokenizer(path), str(path))
        stored.window = window
        return stored
    return _student_tokenizer(path, window)


@functools.lru_cache(maxsize=1)  # every stage of a run asks for it, and a large vocabulary takes seconds
def _student_tokenizer(folder: Path, window: int) -> PromptTokenizer:
    return prompt_tokenizer(read_tokenizer(folder, FLAG), window, f"--{FLAG} {folder}")


def prompt_tokenizer(tokenizer: PreTrainedTokenizerBase, window: int, where: str) -> PromptTokenizer:
    """transformers' tokenizer as an artifact stores it, with the folding that its vocabulary needs.

    Raises ModelError, which begins with `where`, when it lacks a special token, is of another kind, or gives other ids.
    """
    ids = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    if None in ids:
        raise ModelError(f"{where}: its tokenizer lacks a start, end, padding or unknown token")
    hint = "the nodes run BERT's WordPiece and XLM-RoBERTa's Unigram"
    with model_errors(f"{where}: its tokenizer cannot be stored", hint):
        info, tensors = tokenizer_info(json.loads(tokenizer.backend_tokenizer.to_str()))
        tokens = PromptTokenizer(info, tensors, SpecialIds(*ids), window, where)
    require_match(tokens, tokenizer, SAMPLES, where)
    tokens.folding = str.maketrans(folding(tokens))
    return tokens


def tokenizer_info(raw: dict[str, Any]) -> tuple[TokenizerInfo, dict[str, torch.Tensor]]:
    """The settings and tensors that artifacts store, from tokenizer.json. Raises KeyError, TypeError or ValueError for
    another kind; settings that artifacts do not store are left to `require_match`."""
    added = [token["content"] for token in raw["added_tokens"] if not token["special"]]
    if added:
        raise ValueError(f"it has added tokens ({added[0]!a}), which artifacts do not store")
    model, normalizer = raw["model"], raw["normalizer"]
    if model["type"] == "WordPiece":
        settings = {name: normalizer[name] for name in ("lowercase", "clean_text", "handle_chinese_chars")}
        accents = normalizer["strip_accents"]
        settings["strip_accents"] = settings["lowercase"] if accents is None else accents
        pieces = [max(model["vocab"], key=model["vocab"].get)] * (max(model["vocab"].values()) + 1)
        for piece, number in model["vocab"].items():  # a piece that also fills ids without one has its own in the end
            pieces[number] = piece
        return TokenizerInfo("wordpiece", **settings), pack(pieces)
    steps = {step["type"]: step for step in normalizer.get("normalizers", [normalizer])}
    charsmap = base64.b64decode(steps["Precompiled"]["precompiled_charsmap"]) if "Precompiled" in steps else b""
    splits = raw["pre_tokenizer"].get("pretokenizers", [raw["pre_tokenizer"]])
    info = TokenizerInfo(
        "unigram",
        normalizer="precompiled" if charsmap else "nfkc",
        # As a plain text, transformers' own pattern does nothing.
        join_spaces="Replace" in steps and "Regex" in steps["Replace"]["pattern"],
        whitespace_split=splits[0]["type"] == "WhitespaceSplit",
        prepend_scheme=splits[-1]["prepend_scheme"],
    )
    scored: list[tuple[str, float]] = model["vocab"]
    return info, pack([piece for piece, _ in scored], [score for _, score in scored], charsmap)


def require_match(
    tokens: PromptTokenizer, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], where: str
) -> None:
    """Raise ModelError, which begins with `where`, unless both tokenizers give the same ids of every text."""
    texts = [normalise(text) for text in texts]
    for text, expected in zip(texts, tokenizer(texts, add_special_tokens=False, verbose=False).input_ids):
        ids = tokens.tokenizer.encode(text, add_special_tokens=False).ids
        if ids != list(expected):
            raise ModelError(
                f"{where}: of {text!a} its tokenizer makes the ids {list(expected)[:20]}, and the one that the nodes "
                f"would build {ids[:20]}; such a tokenizer cannot be stored"
            )


def compare_tokenizers(model: str, tokens: PromptTokenizer, texts: Sequence[str]) -> None:
    """`require_match` with the tokenizer of a student's model. Raises ModelError."""
    folder = resolve(model, FLAG)
    if folder.is_dir():  # a ZhCLIP encoder has `tokens` themselves
        require_match(tokens, read_tokenizer(folder, FLAG), texts, f"--{FLAG} {folder}")


def folding(tokens: PromptTokenizer) -> dict[str, str]:
    """Traditional characters that are unknown to the tokenizer, each with the simplified one that it knows, by OpenCC's
    table. Empty without the package `opencc`."""
    try:
        from opencc import OpenCC  # slow to import
    except ModuleNotFoundError:
        logger.info("opencc is not installed: rare traditional characters that the student lacks stay unknown")
        return {}

    characters = [chr(code) for code in IDEOGRAPHS]
    # One call, line by line, so that no two of them are read as a word.
    simplified = OpenCC("t2s").convert("\n".join(characters)).split("\n")
    pairs = [(rare, plain) for rare, plain in zip(characters, simplified) if len(plain) == 1 and plain != rare]
    unknown = tokens.special.unknown
    return {a: b for a, b in pairs if unknown in tokens.ids(a) and unknown not in tokens.ids(b)}
