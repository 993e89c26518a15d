"""Small published-looking encoders with random weights, in Hugging Face layout, and a corpus for them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from tests.small import captions

WINDOW = 16
WIDTH = 32


def sizes(width: int, layers: int, heads: int, **more: int) -> dict[str, Any]:
    """Sizes by the names of transformers' configurations."""
    names = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return {**names, "num_attention_heads": heads, **more}


def student(folder: Path, width: int = WIDTH, seed: int = 1, layers: int = 3, heads: int = 4, size: int = 0) -> Path:
    """A whole ChineseCLIPModel with a BERT vocabulary over the characters of the captions, filled up to `size`."""
    torch.manual_seed(seed)
    characters = sorted({c for zh, en in captions() for c in (zh + en).lower() if not c.isspace()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters if c.isascii())]
    vocabulary += [f"[unused{i}]" for i in range(size - len(vocabulary))]
    text = sizes(width, layers, heads, vocab_size=len(vocabulary), max_position_embeddings=512 if size else 80)
    vision = sizes(16, 1, 2, image_size=16, patch_size=8)
    ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    _bert_tokenizer(folder, vocabulary)
    return folder


def bert_teacher(folder: Path, width: int = WIDTH, seed: int = 2) -> Path:
    """A BERT with an English word vocabulary."""
    torch.manual_seed(seed)
    words = sorted({w.strip(".,!?'\"").lower() for _, en in captions() for w in en.split()} - {""})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", *words]
    config = sizes(width, 2, 4, vocab_size=len(vocabulary), max_position_embeddings=80)
    BertModel(BertConfig(**config), add_pooling_layer=False).save_pretrained(folder)
    _bert_tokenizer(folder, vocabulary)
    return folder


def clip_teacher(folder: Path, width: int = WIDTH, seed: int = 3, layers: int = 2, size: int = 0) -> Path:
    """A CLIPTextModel with a byte-level BPE that knows the captions' words, filled up to `size`."""
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
    CLIPTextModel(clip_config(vocabulary, width, layers)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def clip_config(vocabulary: dict[str, int], width: int, layers: int) -> CLIPTextConfig:
    """Of a CLIP text encoder with 77 positions."""
    end, heads = vocabulary["<|endoftext|>"], max(1, width // 64) if width >= 64 else 4
    special = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": end, "pad_token_id": end}
    size = sizes(width, layers, heads, vocab_size=len(vocabulary), max_position_embeddings=77)
    return CLIPTextConfig(**size, **special)


def sdxl_teacher(
    folder: Path, widths: tuple[int, int] = (64, 128), layers: tuple[int, int] = (2, 3), size: int = 0, seed: int = 4
) -> Path:
    """SDXL's two text encoders and its tokenizer as a diffusers pipeline. The weights are half precision's in fp32, so
    that a file in fp16 holds the same."""
    tokenizer = clip_teacher(folder / "tokenizer", width=8, layers=1, size=size)
    for name in ("model.safetensors", "config.json"):
        (tokenizer / name).unlink()
    vocabulary = json.loads((tokenizer / "vocab.json").read_text(encoding="utf-8"))
    torch.manual_seed(seed)
    configs = [clip_config(vocabulary, width, depth) for width, depth in zip(widths, layers)]
    configs[1].hidden_act, configs[1].projection_dim = "gelu", widths[1]
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    for (part, kind), config in zip(kinds.items(), configs):
        model = kind(config)
        for name, tensor in model.named_parameters():
            scale = tensor.shape[-1] ** -0.5 if tensor.dim() == 2 else 0.1
            tensor.data = torch.randn_like(tensor).mul_(scale).add_(name.endswith("norm.weight")).half().float()
        model.save_pretrained(folder / part)
    index = {"_class_name": "StableDiffusionXLPipeline", "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {part: ["transformers", "CLIPTextModel"] for part in ("text_encoder", "text_encoder_2")}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def sdxl_checkpoint(pipeline: Path, file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The text encoders of `sdxl_teacher` as SDXL's checkpoint files have them: CLIP-L by Hugging Face's names, bigG by
    open_clip's; and something of a UNet."""
    first, second = (load_file(pipeline / part / "model.safetensors") for part in ("text_encoder", "text_encoder_2"))
    tensors = {f"{SDXL_L}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in first.items()}
    tensors[f"{SDXL_L}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    second = {name.removeprefix("text_model."): tensor for name, tensor in second.items()}
    tensors |= {SDXL_G + name: tensor for name, tensor in open_clip(second).items()}
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(2, 2)
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


SDXL_L, SDXL_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


def open_clip(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's tensors by open_clip's names, source: open_clip/transformer.py."""
    made = {
        "token_embedding.weight": found["embeddings.token_embedding.weight"],
        "positional_embedding": found["embeddings.position_embedding.weight"],
        "text_projection": found["text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6),
    }
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = found[f"final_layer_norm.{kind}"]
        for at in range(sum(name.endswith("mlp.fc1.bias") for name in found)):
            of, to = f"encoder.layers.{at}", f"transformer.resblocks.{at}"
            made[f"{to}.attn.in_proj_{kind}"] = torch.cat([found[f"{of}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
            for old, new in {
                **{"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"},
                **{"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"},
            }.items():
                made[f"{to}.{new}.{kind}"] = found[f"{of}.{old}.{kind}"]
    return made


def sd15_checkpoint(clip: Path, file: Path) -> Path:
    """The text encoder of `clip_teacher` as SD1.5's checkpoint files have it, and something of a UNet."""
    tensors = {name.removeprefix("text_model."): t for name, t in load_file(clip / "model.safetensors").items()}
    tensors = {f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}, file)
    return file


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


# What `training_inputs` puts into ComfyUI's folders, as the node's lists have it.
TEACHER, STUDENT, PAIRS = "teacher.safetensors", "text_encoders/tiny-chinese", "mine.tsv"


def training_inputs(base: Path) -> None:
    """A checkpoint with one layer of CLIP-L alone, a small Chinese-CLIP, and a table of pairs in ComfyUI's folders."""
    clip = clip_teacher(base / "made" / "clip", width=768, layers=1, size=49408)
    sd15_checkpoint(clip, base / "models" / "checkpoints" / TEACHER)
    student(base / "models" / "text_encoders" / "tiny-chinese")
    rows = "".join(f"{zh}\t{en}\n" for zh, en in captions())
    (base / "input" / PAIRS).write_text(f"zh\ten\n{rows}", encoding="utf-8")
