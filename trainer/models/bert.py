"""A BERT from a published folder or from tensors, read strictly, and its shape."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import BertConfig

from zhclip.artifact import Dimensions, bert_shapes
from zhclip.bert import Bert

from .load import ModelError, load_strict, read_config, read_tensors, stand_in, under_anchor

ANCHOR = "embeddings.word_embeddings.weight"
MEASURED = (  # whose shapes tell those of all others
    "encoder.layer.0.intermediate.dense.bias",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
)
NAMES = (  # in a configuration of transformers, in the order of Dimensions
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
)
KINDS = ("bert", "chinese_clip", "chinese_clip_text_model")


def load_bert(folder: Path, flag: str, weights: bool = True) -> Bert:
    """The BERT of a folder in Hugging Face layout, alone or inside a ChineseCLIPModel. Without `weights` it has the
    shapes that its config.json says, and nothing learnt. Raises ModelError."""
    config = read_config(folder, flag)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ModelError(f"--{flag} {folder}: model_type is {kind!r}; a student is one of {', '.join(KINDS)}")
    text = config.get("text_config") or config if kind == "chinese_clip" else config
    require_gelu(text, f"--{flag} {folder}")
    if not weights:
        return stand_in(functools.partial(Bert, dimensions_from_config(text)))
    return bert_of(text, under_anchor(read_tensors(folder, flag), ANCHOR), f"--{flag} {folder}")


def require_gelu(config: dict, where: str) -> None:
    """Raise ModelError, which begins with `where`, for another activation than zhclip.bert's."""
    if config.get("hidden_act", "gelu") != "gelu":
        raise ModelError(f"{where}: its activation is {config['hidden_act']}; the node runs gelu")


def dimensions_from_config(config: dict) -> Dimensions:
    """The shape that a config.json of transformers describes; what it leaves out has BertConfig's defaults."""
    default = BertConfig()
    return Dimensions(*(config.get(name, getattr(default, name)) for name in NAMES))


def bert_of(text: dict, tensors: dict[str, torch.Tensor], where: str) -> Bert:
    """A BERT from its config.json and its tensors, named without prefix, and nothing else among them.

    Raises ModelError, which begins with `where`.
    """
    if not tensors:
        raise ModelError(f"{where}: its weights hold no BERT ({ANCHOR})")
    missing = [name for name in MEASURED if name not in tensors]
    if missing:
        raise ModelError(f"{where}: its BERT is not whole, {missing[0]} is missing; copy or download it again")
    dimensions = _dimensions(text, tensors)
    if text.get("num_hidden_layers", dimensions.layers) != dimensions.layers:
        layers = text["num_hidden_layers"]
        raise ModelError(f"{where}: its weights have {dimensions.layers} layers, config.json says {layers}")
    unknown = sorted(set(tensors) - set(bert_shapes(dimensions)))
    # What no output needs: the pooler stands behind the last layer, and positions are counted.
    unknown = [name for name in unknown if not name.startswith("pooler.") and "position_ids" not in name]
    if unknown:
        raise ModelError(f"{where}: beside a BERT's tensors it has {len(unknown)} others, the first is {unknown[0]}")
    return load_strict(functools.partial(Bert, dimensions), tensors, ANCHOR, where)


def _dimensions(text: dict, tensors: dict[str, torch.Tensor]) -> Dimensions:
    vocabulary, width = tensors[ANCHOR].shape
    # Shapes tell all but these two, for which a config.json may be silent where its class's default holds.
    default = BertConfig()
    return Dimensions(
        layers=sum(name.endswith("intermediate.dense.bias") for name in tensors),
        width=width,
        heads=text.get("num_attention_heads", default.num_attention_heads),
        intermediate=tensors["encoder.layer.0.intermediate.dense.bias"].shape[0],
        vocabulary=vocabulary,
        positions=tensors["embeddings.position_embeddings.weight"].shape[0],
        types=tensors["embeddings.token_type_embeddings.weight"].shape[0],
        layer_norm_eps=text.get("layer_norm_eps", default.layer_norm_eps),
    )
