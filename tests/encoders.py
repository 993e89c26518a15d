"""Small published-looking encoders with random weights, in Hugging Face layout, and a corpus for them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
)

from tests.small import captions

WINDOW = 16
WIDTH = 32


def student(folder: Path, width: int = WIDTH, seed: int = 1, layers: int = 3, heads: int = 4, size: int = 0) -> Path:
    """A whole ChineseCLIPModel with a BERT vocabulary over the characters of the captions, filled up to `size`."""
    torch.manual_seed(seed)
    characters = sorted({c for zh, en in captions() for c in (zh + en).lower() if not c.isspace()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters if c.isascii())]
    vocabulary += [f"[unused{i}]" for i in range(size - len(vocabulary))]
    text = dict(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512 if size else 80,
    )
    vision = dict(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    _bert_tokenizer(folder, vocabulary)
    return folder


def bert_teacher(folder: Path, width: int = WIDTH, seed: int = 2) -> Path:
    """A BERT with an English word vocabulary."""
    torch.manual_seed(seed)
    words = sorted({w.strip(".,!?'\"").lower() for _, en in captions() for w in en.split()} - {""})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", *words]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    _bert_tokenizer(folder, vocabulary)
    return folder


def clip_teacher(
    folder: Path, width: int = WIDTH, seed: int = 3, prefix: str = "", layers: int = 2, size: int = 0
) -> Path:
    """A CLIPTextModel with a byte-level BPE that knows the captions' words, filled up to `size`. `prefix` is the key
    layout's."""
    torch.manual_seed(seed)
    letters = [chr(c) for c in range(33, 127)]
    words = sorted({w.strip(".,!?'\"").lower() for _, en in captions() for w in en.split() if w.isascii()} - {""})
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        merges |= dict.fromkeys(("".join(pieces[:i]), pieces[i]) for i in range(1, len(pieces)))
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(pair) for pair in merges)]
    fill = [f"<fill{i}>" for i in range(size - len(set(tokens)) - 2)]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*tokens, *fill, "<|startoftext|>", "<|endoftext|>"]))}
    end = vocabulary["<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64) if width >= 64 else 4,
        max_position_embeddings=77,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=end,
        pad_token_id=end,
    )
    CLIPTextModel(config).save_pretrained(folder)
    relayout(folder / "model.safetensors", prefix)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def relayout(file: Path, prefix: str) -> None:
    """Rewrite a CLIP text model's keys: `text_model.` as transformers 4 saves them, nothing as 5 does."""
    bare = {name.removeprefix("text_model."): tensor for name, tensor in load_file(file).items()}
    save_file({prefix + name: tensor for name, tensor in bare.items()}, file, {"format": "pt"})


def corpora(folder: Path, rows: int = 60) -> tuple[Path, Path]:
    """train.tsv and dev.tsv of the captions, repeated with a running word so that `rows` differ."""
    base = captions()
    pairs = [(f"{zh}{'' if n == 0 else n}", f"{en} {'' if n == 0 else n}") for n in range(99) for zh, en in base]
    for name, some in (("dev", pairs[:20]), ("train", pairs[20 : 20 + rows])):
        lines = ["zh\ten", *(f"{zh}\t{en.strip()}" for zh, en in some)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "train.tsv", folder / "dev.tsv"


def _bert_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    assert all(a != b for a, b in pairwise(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
