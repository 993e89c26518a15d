"""The student's tokenizer, as an artifact stores it: read from transformers' tokenizer, and compared with it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from zhclip.io import ArtifactError
from zhclip.prompt import normalise
from zhclip.schema import SpecialIds, TokenizerInfo
from zhclip.tokenizer import MAX_WORD, METASPACE, pack
from zhclip.tokens import PromptTokenizer

from .load import ModelError, resolve

FLAG = "student.model"
EXPECTED = "BERT's WordPiece or XLM-RoBERTa's Unigram"
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


class UnsupportedTokenizer(ValueError):
    """A tokenizer of another kind than artifacts store; the message names the part."""


def load_tokens(model: str, window: int, endpoint: str | None = None) -> PromptTokenizer:
    """The student's tokenizer. Raises ModelError when it lacks a special token or is of another kind."""
    return _load_tokens(resolve(model, FLAG, endpoint=endpoint), window)


@functools.lru_cache(maxsize=1)  # every stage of a run asks for it, and a large vocabulary takes seconds
def _load_tokens(folder: Path, window: int) -> PromptTokenizer:
    return tokens_of(load_hf_tokenizer(folder), window, f"--{FLAG} {folder}")


def load_hf_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a folder. Raises ModelError."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"--{FLAG} {folder}: its tokenizer cannot be read ({error})") from error


def tokens_of(tokenizer: PreTrainedTokenizerBase, window: int, where: str) -> PromptTokenizer:
    """transformers' tokenizer as an artifact stores it, with the folding that its vocabulary needs.

    Raises ModelError, which begins with `where`, when it lacks a special token, is of another kind, or gives other ids.
    """
    ids = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    if None in ids:
        raise ModelError(f"{where}: its tokenizer lacks a start, end, padding or unknown token")
    try:
        info, tensors = tokenizer_info(tokenizer)
        tokens = PromptTokenizer.from_info(info, tensors, SpecialIds(*ids), window, where)
    except (UnsupportedTokenizer, ArtifactError) as error:
        raise ModelError(f"{where}: the nodes run {EXPECTED}; {error}") from error
    require_match(tokens, tokenizer, SAMPLES, where)
    return dataclasses.replace(tokens, folding=str.maketrans(folding(tokens)))


def tokenizer_info(tokenizer: PreTrainedTokenizerBase) -> tuple[TokenizerInfo, dict[str, torch.Tensor]]:
    """The settings and tensors that artifacts store. Raises UnsupportedTokenizer."""
    try:
        raw = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise UnsupportedTokenizer(f"it has no fast tokenizer ({error})") from error
    added = [token["content"] for token in raw["added_tokens"] if not token["special"]]
    if added:
        raise UnsupportedTokenizer(f"it has added tokens ({added[0]!a}), which artifacts do not store")
    model, kind = raw["model"], raw["model"]["type"]
    if kind == "WordPiece":
        normalizer = _only(raw["normalizer"], "BertNormalizer")
        _only(raw["pre_tokenizer"], "BertPreTokenizer")
        settings = {name: normalizer[name] for name in ("lowercase", "clean_text", "handle_chinese_chars")}
        accents = normalizer["strip_accents"]
        settings["strip_accents"] = settings["lowercase"] if accents is None else accents
        _require(model, continuing_subword_prefix="##", max_input_chars_per_word=MAX_WORD)
        pieces = [max(model["vocab"], key=model["vocab"].get)] * (max(model["vocab"].values()) + 1)
        for piece, number in model["vocab"].items():  # a piece that also fills ids without one has its own in the end
            pieces[number] = piece
        return TokenizerInfo("wordpiece", **settings), pack(pieces)
    if kind != "Unigram":
        raise UnsupportedTokenizer(f"its model is {kind}")
    _require(model, byte_fallback=False)
    settings, charsmap = _unigram_normalizer(raw["normalizer"])
    *split, metaspace = _steps(raw["pre_tokenizer"], "pretokenizers")
    if [step["type"] for step in split] not in ([], ["WhitespaceSplit"]):
        raise UnsupportedTokenizer(f"its pre_tokenizer begins with {split[0]['type']}")
    _only(metaspace, "Metaspace")
    _require({"split": True} | metaspace, replacement=METASPACE, split=True)
    settings |= {"whitespace_split": bool(split), "prepend_scheme": metaspace["prepend_scheme"]}
    scored: list[tuple[str, float]] = model["vocab"]
    vocabulary = pack([piece for piece, _ in scored], [score for _, score in scored], charsmap)
    return TokenizerInfo("unigram", **settings), vocabulary


def _unigram_normalizer(raw: Any) -> tuple[dict[str, Any], bytes]:
    """Settings of NFKC or a precompiled map, with or without joined spaces, and the map. Prompts come stripped."""
    settings: dict[str, Any] = {}
    charsmap = b""
    for step in _steps(raw, "normalizers"):
        if step["type"] in ("NFKC", "Precompiled") and not settings:
            settings["normalizer"] = step["type"].lower()
            charsmap = base64.b64decode(step.get("precompiled_charsmap", ""))
        elif step["type"] == "Replace" and settings and "{2,}" in str(step["pattern"]) and step["content"] == " ":
            settings["join_spaces"] = "Regex" in step["pattern"]  # as a plain text, transformers' own, it does nothing
        elif step["type"] != "Strip":
            raise UnsupportedTokenizer(f"its normalizer has {step['type']}")
    if not settings:
        raise UnsupportedTokenizer("its normalizer is neither NFKC nor a precompiled map")
    return settings, charsmap


def _steps(raw: Any, name: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the only one."""
    if raw is None:
        raise UnsupportedTokenizer(f"it has no {name}")
    return raw[name] if raw["type"] == "Sequence" else [raw]


def _only(raw: Any, kind: str) -> dict[str, Any]:
    if raw is None or raw["type"] != kind:
        raise UnsupportedTokenizer(f"it has {raw and raw['type']} in place of {kind}")
    return raw


def _require(raw: dict[str, Any], **settings: Any) -> None:
    for name, value in settings.items():
        if raw.get(name, value) != value:
            raise UnsupportedTokenizer(f"its {name} is {raw[name]!a} and not {value!a}")


def require_match(
    tokens: PromptTokenizer, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], where: str
) -> None:
    """Raise ModelError, which begins with `where`, unless both tokenizers give the same ids of every text."""
    texts = [normalise(text) for text in texts]
    wanted = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    for text, ids in zip(texts, wanted):
        built = tokens.tokenizer.encode(text, add_special_tokens=False).ids
        if built != list(ids):
            raise ModelError(
                f"{where}: of {text!a} its tokenizer makes the ids {list(ids)[:20]}, and the one that the nodes would "
                f"build {built[:20]}; such a tokenizer cannot be stored"
            )


def compare_tokenizers(model: str, tokens: PromptTokenizer, texts: Sequence[str], endpoint: str | None = None) -> None:
    """`require_match` with the tokenizer of a student's model. Raises ModelError."""
    folder = resolve(model, FLAG, endpoint=endpoint)
    require_match(tokens, load_hf_tokenizer(folder), texts, f"--{FLAG} {folder}")


def folding(tokens: PromptTokenizer) -> dict[str, str]:
    """Traditional characters that are unknown to the tokenizer, each with the simplified one that it knows.

    OpenCC's table says which is which. A traditional character that the vocabulary has stays as typed.
    """
    from opencc import OpenCC  # slow to import

    characters = [chr(code) for code in IDEOGRAPHS]
    # One call, line by line, so that no two of them are read as a word.
    simplified = OpenCC("t2s").convert("\n".join(characters)).split("\n")
    pairs = [(rare, plain) for rare, plain in zip(characters, simplified) if len(plain) == 1 and plain != rare]
    return {rare: plain for rare, plain in pairs if tokens.unknown(rare) and not tokens.unknown(plain)}
