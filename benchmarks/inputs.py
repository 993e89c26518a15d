"""Inputs of the benchmarks: captions as long as real ones, and encoders with random weights in Hugging Face layout."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from transformers import ChineseCLIPConfig, ChineseCLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

VOCABULARY = 21128  # Chinese-CLIP's
FIRST_IDEOGRAPH = 0x4E00
IDEOGRAPHS = 2000  # that occur in captions
WORDS = """
    red cat blue dog house big old car man girl boy white black young water road city park field grass snow beach horse
    bird fish chair wood stone glass book ball hat coat shirt food fruit apple cup light night day sun sky cloud river
    lake boat train bus wall door flower garden walking standing sitting holding looking in on of with by and a
    the two
""".split()  # noqa: SIM905 - a list of 67 quoted words reads worse
"""A token each, in CLIP's vocabulary and in the random teacher's, whose merges are the prefixes of these words."""

# Tokens of a pair's longer side, start and end included, by Chinese-CLIP's and CLIP's tokenizers: twenty quantiles of
# 3AM's 23,604 training pairs. Their mean is 22.6, that of all pairs 22.8.
LENGTHS = (11, 12, 14, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 27, 29, 31, 34, 38, 45)
NUMBER = 6  # digits, a token each, of the number that ends a caption and makes it unique


def vocabulary(size: int = VOCABULARY) -> list[str]:
    """A WordPiece vocabulary of `size` pieces: printable ASCII alone and inside words, then ideographs."""
    ascii_ = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ascii_, *(f"##{c}" for c in ascii_)]
    return pieces + [chr(FIRST_IDEOGRAPH + at) for at in range(size - len(pieces))]


def captions(path: Path, rows: int, first: int = 0) -> str:
    """Write a TSV of different pairs with these lengths; the English side is the shorter one, as it usually is."""
    source = random.Random(first)
    characters = [chr(FIRST_IDEOGRAPH + at) for at in range(IDEOGRAPHS)]
    lines = ["zh\ten"]
    for at in range(first, first + rows):
        length = LENGTHS[at % len(LENGTHS)] - 2
        zh = source.choices(characters, k=length - NUMBER)
        en = source.choices(WORDS, k=max(3, length // 2 - NUMBER))
        number = 10 ** (NUMBER - 1) + at
        lines.append(f"{''.join(zh)}{number}\t{' '.join(en)} {number}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return str(path)


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
    _write(student, {"vocab.txt": "\n".join(vocabulary()) + "\n"})
    _write(student, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True}})

    special = _clip_tokenizer(teacher)
    CLIPTextModel(CLIPTextConfig(**shape, **special)).save_pretrained(teacher)
    return str(student), str(teacher)


def sdxl_teacher(folder: Path, quick: bool = False) -> str:
    """Write SDXL's two text encoders as its pipeline has them, in half precision, of full size or small; returns the
    folder."""
    special = _clip_tokenizer(folder / "tokenizer")
    sizes = {"text_encoder": (2, 64) if quick else (12, 768), "text_encoder_2": (2, 128) if quick else (32, 1280)}
    for seed, (part, (layers, width)) in enumerate(sizes.items()):
        shape = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, projection_dim=width)
        config = CLIPTextConfig(**shape, num_attention_heads=width // 64, **special)
        config.hidden_act = "gelu" if seed else "quick_gelu"
        torch.manual_seed(seed)
        (CLIPTextModelWithProjection if seed else CLIPTextModel)(config).half().save_pretrained(folder / part)
    classes = {part: ["transformers", "CLIPTextModel"] for part in sizes}
    classes["tokenizer"] = ["transformers", "CLIPTokenizer"]
    _write(folder, {"model_index.json": {"_class_name": "StableDiffusionXLPipeline", **classes}})
    return str(folder)


def _clip_tokenizer(folder: Path) -> dict[str, int]:
    """Write a tokenizer of CLIP's kind; returns its fields of a CLIPTextConfig."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        merges |= dict.fromkeys(("".join(pieces[:at]), pieces[at]) for at in range(1, len(pieces)))
    letters = [chr(code) for code in range(33, 127)]
    tokens = list(dict.fromkeys([*letters, *(c + "</w>" for c in letters), *map("".join, merges)]))
    tokens += [f"<fill{at}>" for at in range(TEACHER_VOCABULARY - 2 - len(tokens))]
    start, end = "<|startoftext|>", "<|endoftext|>"
    ids = {token: at for at, token in enumerate([*tokens, start, end])}
    _write(folder, {"vocab.json": ids, "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n"})
    names = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    _write(folder, {"tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **names}})
    return {"vocab_size": len(ids), "bos_token_id": ids[start], "eos_token_id": ids[end], "pad_token_id": ids[end]}


def _write(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
