"""Small artifacts with random weights, made directly in the format: the tests of the nodes need no trainer."""

from __future__ import annotations

import dataclasses
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from zhclip import artifact as fmt
from zhclip import tokenizer
from zhclip.schema import CorpusInfo, Dimensions, Meta, PartInfo, SpecialIds, TeacherInfo, TokenizerInfo
from zhclip.structure import structures
from zhclip.tokens import PromptTokenizer, Window

DATA = Path(__file__).resolve().parent / "data"


@cache
def captions() -> list[tuple[str, str]]:
    """Pairs (Chinese, English) that a person could have written, from tests/data/captions.tsv."""
    lines = (DATA / "captions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(zh, en) for zh, en in (line.split("\t") for line in lines)]


@cache
def prompts() -> list[str]:
    """200 prompts: Chinese, English, mixed, emoji, 1 to 300 characters, and the empty one. No weight brackets."""
    return json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))


def weighted(prompts: list[str]) -> list[str]:
    """A quarter of the prompts with weights of many kinds, some nested, some over two windows, some parted by BREAK."""
    forms = [
        "({}:1.3)",
        "{} (red:0.5)",
        "\uff08{}\uff1a0\uff09, dog",
        "((cat)) BREAK ({}:-0.5)",
        "(a ({}:1.2) b:1.5), c",
    ]
    return [forms[i % len(forms)].format(text) for i, text in enumerate(prompts[::4])]


def largest_difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Largest difference anywhere."""
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


@cache
def pieces() -> tuple[str, ...]:
    """A WordPiece vocabulary: the characters of the captions and prompts, and a few whole words."""
    characters = sorted(
        {c for text in (*(t for pair in captions() for t in pair), *prompts()[::2]) for c in text.lower()}
    )
    words = ["red", "blue", "cat", "dog", "##s", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]
    seen = dict.fromkeys([*(c for c in characters if not c.isspace()), *words])
    return ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *seen)


WORDPIECE = TokenizerInfo("wordpiece", lowercase=True, strip_accents=True, clean_text=True, handle_chinese_chars=True)
SPECIAL = SpecialIds(start=2, end=3, pad=0, unknown=1)


def tokens(window: int = 77) -> PromptTokenizer:
    """The tokenizer of `artifact`."""
    return PromptTokenizer(WORDPIECE, tokenizer.pack(pieces()), SPECIAL, window, "small")


def artifact(
    width: int = 64,
    teacher_width: int = 768,
    layers: int = 2,
    window: int = 77,
    structured: bool = True,
    seed: int = 0,
    aligned: bool = True,
    skip: bool = False,
    **changes: Any,
) -> fmt.Artifact:
    """A random encoder. `structured` gives it all that is optional but a target for clip skip, which `skip` gives;
    `changes` are fields of its metadata."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = len(pieces())
    dimensions = Dimensions(layers, width, 4, 2 * width, vocabulary, window + 3, 2, 1e-12)
    loss = 0.3 if aligned else 0.9
    meta = Meta(
        dimensions=dimensions,
        special_ids=SPECIAL,
        tokenizer=WORDPIECE,
        window=window,
        mask_padding=True,
        position0="stored" if structured else "learnt",
        teacher=TeacherInfo("tests/teacher", "0" * 64, -1, teacher_width),
        parts=(PartInfo("l", teacher_width),),
        strategy="unfreeze",
        corpus=CorpusInfo(10, "0" * 64),
        licence="Apache-2.0",
        report={"loss": {"all": loss}, "baselines": {"constant": {"all": 0.5}}},
    )

    def random(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    bert = {name: random(*shape, scale=shape[-1] ** -0.5) for name, shape in fmt.bert_shapes(dimensions).items()}
    bert |= {name: torch.ones_like(value) for name, value in bert.items() if name.endswith("LayerNorm.weight")}
    optional: dict[str, Any] = {
        "proj_bias": random(window, teacher_width, scale=0.1),
        "position0": random(teacher_width, scale=1.0),
        "empty": random(window, teacher_width, scale=1.0),
        "norms": 27 + 2 * torch.rand(window, 1, generator=generator),
    }
    weight = random(teacher_width, width, scale=width**-0.5)
    projection = {"proj_weight": weight} if width != teacher_width or structured else {}
    return fmt.Artifact(
        meta=dataclasses.replace(meta, **changes),
        bert=bert,
        tokenizer=tokenizer.pack(pieces()),
        structure=(optional if structured else {}) | projection,
        skip={name: 1.5 * tensor for name, tensor in (optional | {"proj_weight": weight}).items()} if skip else {},
    )


def transformers_bert(artifact: fmt.Artifact) -> BertModel:
    """transformers' own BertModel with an artifact's weights, in fp32."""
    d = artifact.meta.dimensions
    config = BertConfig(
        vocab_size=d.vocabulary,
        hidden_size=d.width,
        num_hidden_layers=d.layers,
        num_attention_heads=d.heads,
        intermediate_size=d.intermediate,
        max_position_embeddings=d.positions,
        type_vocab_size=d.types,
        layer_norm_eps=d.layer_norm_eps,
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    odd = bert.load_state_dict({name: tensor.float() for name, tensor in artifact.bert.items()}, strict=False)
    assert not odd.unexpected_keys and all("position_ids" in name for name in odd.missing_keys)
    return bert


def by_transformers(artifact: fmt.Artifact, prompts: list[str], layer: int = -1) -> dict[str, list[torch.Tensor]]:
    """transformers' BertModel between zhclip's tokens and zhclip's structures: of each prompt (windows * W, D) vectors
    and, where the artifact has them, (P,) of the first window. Weights as docs/encoding.md has the formula."""
    bert, tokens, found = transformers_bert(artifact), PromptTokenizer.from_artifact(artifact), structures(artifact)
    structure, pooled = found.get("skip" if layer == -2 else "structure", found["structure"]), found.get("pooled")

    def encode(window: Window, hidden: list[int]) -> list[torch.Tensor]:
        ids = torch.tensor([window.ids])
        mask = tokens.key_mask(ids).long() if artifact.meta.mask_padding else torch.ones_like(ids)
        mask[:, hidden] = 0
        states = bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
        empty = tokens.is_empty(ids)
        return [structure.apply(states, empty)[0], *([pooled.apply(states[:, :1], empty)[0, 0]] if pooled else [])]

    def emphasised(window: Window) -> list[torch.Tensor]:
        full = out = encode(window, [])
        at = 1
        for weight, group in itertools.groupby(window.weights[1:]):
            span = [*range(at, at + len([*group]))]
            at = span[-1] + 1
            if weight != 1.0:
                out = [z + (weight - 1) * (f - w) for z, f, w in zip(out, full, encode(window, span))]
        return out

    with torch.inference_mode():
        encoded = [[emphasised(window) for window in tokens.weighted_windows(text)] for text in prompts]
    made = {"prompt_embeds": [torch.cat([window[0] for window in windows]) for windows in encoded]}
    return made | ({"pooled_prompt_embeds": [windows[0][1] for windows in encoded]} if pooled else {})


SDXL_WIDTHS = (12, 20)


def sdxl_artifact(widths: tuple[int, int] = SDXL_WIDTHS, pooled: int = 20, **options: Any) -> fmt.Artifact:
    """`artifact` for SDXL: two parts, standardised states and a pooled vector."""
    plain = artifact(teacher_width=sum(widths), **options)
    generator = torch.Generator().manual_seed(options.get("seed", 0) + 1)
    width, window = plain.meta.dimensions.width, plain.meta.window

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    return dataclasses.replace(
        plain,
        meta=dataclasses.replace(
            plain.meta,
            parts=tuple(PartInfo(name, part) for name, part in zip(("l", "g"), widths)),
            pooled=pooled,
            teacher=dataclasses.replace(plain.meta.teacher, layer=-2),
        ),
        structure=plain.structure
        | {
            "norms": 3 + torch.rand((window, 2), generator=generator),
            "mean": random(sum(widths)),
            "std": 0.5 + torch.rand(sum(widths), generator=generator),
        },
        pooled={
            "proj_weight": random(pooled, width, scale=width**-0.5),
            "proj_bias": random(1, pooled, scale=0.1),
            "empty": random(1, pooled),
            "norms": 2 + torch.rand((1, 1), generator=generator),
            "mean": random(pooled),
            "std": 0.5 + torch.rand(pooled, generator=generator),
        },
    )


def saved(path: Path, **options: Any) -> Path:
    """`artifact(**options)`, written to `path`."""
    fmt.save(artifact(**options), path)
    return path


def charsmap() -> bytes:
    """sentencepiece's map of "B" to "a": a double array of 256 units, and one text."""
    units = [0] * 256
    units[ord("B")], units[ord("B") ^ 1] = ord("B") | 1 << 8 | 1 << 10, 1 << 31  # has a leaf, at offset 1; the leaf
    return (1024).to_bytes(4, "little") + b"".join(unit.to_bytes(4, "little") for unit in units) + b"a\0"


CHARSMAP = charsmap()


def unigram_artifact(mapped: bytes = b"") -> fmt.Artifact:
    """`artifact` with XLM-RoBERTa's kind of tokenizer, over six pieces."""
    plain = artifact(structured=False)
    texts, scores = ["<s>", "<pad>", "</s>", "<unk>", "\u2581cat", "a"], [0.0, 0.0, 0.0, 0.0, -1.0, -2.0]
    info = TokenizerInfo("unigram", normalizer="precompiled" if mapped else "nfkc", join_spaces=True)
    meta = dataclasses.replace(plain.meta, tokenizer=info, special_ids=SpecialIds(0, 2, 1, 3))
    return dataclasses.replace(plain, meta=meta, tokenizer=tokenizer.pack(texts, scores, mapped))


def put(tree: Any, dotted: str, value: Any) -> None:
    """Set a value in nested objects; what is no object on the way becomes one."""
    *parents, last = dotted.split(".")
    for name in parents:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def nested(levels: int) -> Any:
    """Objects within each other."""
    return {"a": nested(levels - 1)} if levels else {}
