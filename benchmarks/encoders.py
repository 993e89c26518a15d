"""Encoders of full size, or smaller, with random weights, in Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import ChineseCLIPConfig, ChineseCLIPModel, CLIPTextConfig, CLIPTextModel

from benchmarks.texts import VOCABULARY, WORDS, tokenizer

TEACHER_VOCABULARY = 49408  # CLIP's


def encoders(folder: Path, layers: int = 12, width: int = 768) -> tuple[str, str]:
    """Write a student and a teacher; returns their folders."""
    student, teacher = folder / "student", folder / "teacher"
    torch.manual_seed(1)
    shape = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    shape |= dict(num_attention_heads=max(1, width // 64))
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16)
    both = ChineseCLIPConfig(text_config=dict(shape, vocab_size=VOCABULARY), vision_config=dict(vision, patch_size=8))
    ChineseCLIPModel(both).save_pretrained(student)
    vocabulary = tokenizer().get_vocab()
    _write(student, {"vocab.txt": "\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n"})
    _write(student, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True}})

    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        merges |= dict.fromkeys(("".join(pieces[:at]), pieces[at]) for at in range(1, len(pieces)))
    letters = [chr(code) for code in range(33, 127)]
    tokens = list(dict.fromkeys([*letters, *(c + "</w>" for c in letters), *map("".join, merges)]))
    tokens += [f"<fill{at}>" for at in range(TEACHER_VOCABULARY - 2 - len(tokens))]
    start, end = "<|startoftext|>", "<|endoftext|>"
    ids = {token: at for at, token in enumerate([*tokens, start, end])}
    special = dict(bos_token_id=ids[start], eos_token_id=ids[end], pad_token_id=ids[end])
    CLIPTextModel(CLIPTextConfig(vocab_size=len(ids), **shape, **special)).save_pretrained(teacher)
    _write(teacher, {"vocab.json": ids, "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n"})
    names = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    _write(teacher, {"tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **names}})
    return str(student), str(teacher)


def _write(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
