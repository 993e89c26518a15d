"""Files that someone made to do harm, or that a tool left wrong: each is refused in one sentence, with its path."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Regex, pre_tokenizers

from tests import small
from zhclip import artifact as fmt
from zhclip.io import ArtifactError, DamagedArtifactError, VersionError
from zhclip.tokenizer import MAX_PIECE, pack
from zhclip.tokens import PromptTokenizer

GOOD = json.loads(small.artifact().meta.to_json())
DIMENSIONS, SPECIAL, TOKENIZER = GOOD["dimensions"], GOOD["special_ids"], GOOD["tokenizer"]


def rewrite(path: Path, meta: str | None = None, tensors: Mapping[str, torch.Tensor | None] | None = None) -> Path:
    """The file with other metadata or tensors, where None is without one."""
    with safe_open(path, "pt") as file:
        header = file.metadata() | ({} if meta is None else {fmt.HEADER_KEY: meta})
    stored: dict[str, Any] = {name: tensor.clone() for name, tensor in load_file(path).items()}
    stored |= tensors or {}
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, path, header)
    return path


def refused(path: Path, read: Callable[[Path], object] = fmt.load) -> ArtifactError:
    """The error of a file, which must be one sentence that begins with its path."""
    with pytest.raises(ArtifactError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and len(said) < 500 + len(str(path)) and "\n" not in said
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    return small.saved(tmp_path / "encoder.safetensors")


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


NAN = float("nan")
# Changed metadata, and the field that the refusal names.
METADATA: list[tuple[dict[str, Any], str]] = [
    *(({"window": value}, "window") for value in (0, 2, -1, 78 + 3, 12.0, True, None, "77")),
    ({"dimensions": DIMENSIONS | {"layers": 10**9}}, "layers"),
    ({"dimensions": DIMENSIONS | {"layers": 999}}, "bert.encoder.layer."),
    ({"dimensions": DIMENSIONS | {"heads": 0}}, "heads"),
    ({"dimensions": DIMENSIONS | {"heads": 5}}, "heads"),
    ({"dimensions": DIMENSIONS | {"layer_norm_eps": NAN}}, "layer_norm_eps"),
    ({"dimensions": DIMENSIONS | {"layer_norm_eps": "1e-12"}}, "layer_norm_eps"),
    ({"dimensions": {"layers": 1}}, "dimensions"),
    ({"special_ids": SPECIAL | {"pad": 10**6}}, "pad"),
    ({"special_ids": SPECIAL | {"start": -1}}, "start"),
    ({"special_ids": SPECIAL | {"end": 2}}, "end"),
    ({"special_ids": SPECIAL | {"unknown": 3}}, "end"),
    ({"special_ids": None}, "special_ids"),
    ({"tokenizer": TOKENIZER | {"kind": "bpe"}}, "kind"),
    ({"tokenizer": TOKENIZER | {"kind": []}}, "kind"),
    ({"tokenizer": TOKENIZER | {"lowercase": 1}}, "lowercase"),
    ({"tokenizer": TOKENIZER | {"normalizer": "prepend"}}, "normalizer"),
    ({"tokenizer": TOKENIZER | {"pattern": "(a+)+$"}}, "pattern"),
    ({"tokenizer": TOKENIZER | {"kind": "unigram"}}, "tokenizer.scores"),
    ({"mask_padding": {"a": 1}}, "mask_padding"),
    ({"mask_padding": 1}, "mask_padding"),
    ({"position0": "guessed"}, "position0"),
    ({"report": []}, "report"),
    ({"report": {"loss": {"all": "low"}}}, "loss.all"),
    ({"report": {"loss": {"all": None}}}, "loss.all"),
    ({"report": {"loss": {"all": NAN}}}, "loss.all"),
    ({"report": {"loss": 3}}, "loss"),
    ({"report": {"baselines": [1]}}, "baselines"),
    ({"report": {"baselines": {"constant": "x"}}}, "baselines.constant"),
    ({"report": {"retrieval": {"zh_to_en": {"R@1": "x"}}}}, "R@1"),
    ({"report": nested(100)}, "levels"),
    ({"recipe": {"a": [[nested(40)]]}}, "levels"),
    ({"recipe": "x"}, "recipe"),
    ({"teacher": {"id": "x"}}, "teacher"),
    ({"teacher": [1]}, "teacher"),
    ({"licence": "x" * 100_000}, "licence"),
    ({"folding": {"a": "bc"}}, "folding"),
    ({"folding": {"a": 1}}, "folding"),
    ({"parts": []}, "parts"),
    ({"parts": "l"}, "parts"),
    ({"pooled": 20}, "pooled"),
    ({"rotation": 1}, "rotation"),
    ({"report": {"loss": {"all": 10**400}}}, "loss.all"),
]


@pytest.mark.parametrize(("changes", "named"), METADATA, ids=str)
def test_metadata_of_a_wrong_type_or_range_is_refused(path: Path, changes: dict[str, Any], named: str) -> None:
    error = refused(rewrite(path, json.dumps(GOOD | changes)))
    assert type(error) is DamagedArtifactError and named in error.found


L, G = {"name": "l", "width": 12}, {"name": "g", "width": 20}
# Changed metadata of a file with parts 12 and 20 wide and a pooled vector of 20, and the class of its error.
PARTS: list[tuple[dict[str, Any], type]] = [
    *(({"parts": value}, DamagedArtifactError) for value in ("lg", [], [L, G] * 500, [["l", 12]], [L | {"a": 1}, G])),
    *(({"parts": [L | {"width": w}, G]}, DamagedArtifactError) for w in ("12", True, 0, 10**6, 13)),
    ({"parts": [G, L]}, DamagedArtifactError),
    ({"parts": [L, G | {"name": "t5"}]}, DamagedArtifactError),
    ({"parts": [L | {"width": 32}]}, DamagedArtifactError),
    *(({"pooled": value}, DamagedArtifactError) for value in (0, "20", 10**6, 21)),
]


@pytest.mark.parametrize(("changes", "kind"), PARTS, ids=str)
def test_metadata_of_several_parts_is_refused_alike(tmp_path: Path, changes: dict[str, Any], kind: type) -> None:
    fmt.save(small.sdxl_artifact(), path := tmp_path / "sdxl.safetensors")
    good = json.loads(small.sdxl_artifact().meta.to_json())
    assert type(refused(rewrite(path, json.dumps(good | changes)))) is kind


@pytest.mark.parametrize("changes", [{"format_version": v} for v in (0, 2, True, 1.0, "1", None)])
def test_another_version_is_refused(path: Path, changes: dict[str, Any]) -> None:
    assert type(refused(rewrite(path, json.dumps(GOOD | changes)), fmt.read_meta)) is VersionError


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"format_version":1' + ',"a":[' * 3000, "1" * 5000, ""])
def test_metadata_that_is_no_object_is_refused(path: Path, text: str) -> None:
    refused(rewrite(path, text), fmt.read_meta)


@pytest.mark.parametrize(
    ("name", "tensor", "kind"),
    [
        ("structure.rotation", torch.zeros(2), DamagedArtifactError),
        ("hook", torch.zeros(2), DamagedArtifactError),
        ("skip.empty", torch.zeros(77, 768), DamagedArtifactError),  # without its projection
        ("bert.embeddings.LayerNorm.bias", None, DamagedArtifactError),
        ("tokenizer.vocabulary", None, DamagedArtifactError),
        ("tokenizer.scores", torch.zeros(257), DamagedArtifactError),
        ("structure.position0", None, DamagedArtifactError),
        ("structure.proj_weight", None, DamagedArtifactError),
        ("structure.proj_weight", torch.zeros(3, 3), DamagedArtifactError),
        ("structure.empty", torch.zeros(76, 768), DamagedArtifactError),
        ("structure.norms", torch.zeros(77), DamagedArtifactError),
        ("structure.norms", torch.zeros([1] * 60), DamagedArtifactError),
        ("structure.mean", torch.zeros(768), DamagedArtifactError),  # without std
        *(("structure.norms", torch.zeros(77, 1, dtype=getattr(torch, d)), DamagedArtifactError)
          for d in ("int64", "uint8", "float64", "bool", "float8_e4m3fn")),
        *(("bert.encoder.layer.1.output.dense.weight", torch.full((64, 128), float(v)), DamagedArtifactError)
          for v in ("nan", "inf", "-inf")),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(path: Path, name: str, tensor: torch.Tensor | None, kind: type) -> None:
    error = refused(rewrite(path, tensors={name: tensor}))
    assert type(error) is kind and (name.partition(".")[0] in error.found)


@pytest.mark.parametrize("name", ["structure.std", "pooled.std"])
def test_a_deviation_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    fmt.save(small.sdxl_artifact(), path := tmp_path / "sdxl.safetensors")
    zero = load_file(path)[name].clone()
    zero[3] = 0
    assert name in refused(rewrite(path, tensors={name: zero})).found
    assert refused(rewrite(path, tensors={name: None})).expected == "both or neither"


def change_header(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with a changed header, whatever it then says."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + size])
    change(found)
    text = json.dumps(found).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return path


@pytest.mark.parametrize("name", ["structure.norms", "tokenizer.vocabulary"])
@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [0, 77 * 4]},  # overlaps another
        {"data_offsets": [-4, 77 * 4 - 4]},
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [0]},
        {"data_offsets": [True, "1"]},
        {"shape": [10**9, 10**9]},
        {"shape": [0] * 200},
        {"shape": [True]},
        {"shape": None},
        *({"dtype": dtype} for dtype in ("F4", "F6_E2M3", "F8_E8M0", "I64", ["F32"], None)),
        None,
    ],
)
def test_a_header_that_lies_about_its_tensors_is_refused(path: Path, name: str, entry: dict[str, Any] | None) -> None:
    changed = change_header(path, lambda found: found.update({name: entry and found[name] | entry}))
    refused(changed)
    if name.startswith("tokenizer."):
        for read in (lambda at: PromptTokenizer.from_meta(*fmt.read_tokenizer(at), str(at)),):
            refused(changed, read)


@pytest.mark.parametrize("change", [lambda found: found.pop("structure.norms"), lambda found: found.update({"a": 1})])
def test_a_gap_or_a_foreign_entry_is_refused(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    refused(change_header(path, change))


def stored(content: bytes) -> dict[str, torch.Tensor]:
    return {"vocabulary": torch.tensor(list(content), dtype=torch.uint8)}


PIECES = small.pieces()
UNIGRAM = small.unigram_artifact()
TEXTS = ["<s>", "<pad>", "</s>", "<unk>", "\u2581cat", "a"]
SCORES = [0.0, 0.0, 0.0, 0.0, -1.0, -2.0]
# Tensors of a tokenizer, for the WordPiece file, or where they have scores for one with a Unigram.
TOKENIZERS: dict[str, dict[str, torch.Tensor]] = {
    "nothing": stored(b""),
    "no utf-8": stored(b"\xff\xfe"),
    "an object": stored(b"{}"),
    "a number": stored(b"1" * 5000),
    "a deep one": stored(b"[" * 100_000),
    "no pieces": stored(b"[]"),
    "a piece that is none": stored(b'["a", 7]'),
    "a serialised tokenizer": stored(b'{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}}}'),
    "more pieces than rows": pack([*PIECES, "one more"]),
    "no unknown piece": pack(PIECES[:1]),
    "a piece of a million characters": pack([*PIECES[:-1], "a" * 1_000_000]),
    "a unigram's piece of a million characters": pack([*TEXTS[:-1], "b" * 1_000_000], SCORES),
    "a piece of one too many": pack([*TEXTS[:-1], "b" * (MAX_PIECE + 1)], SCORES),
    "too few scores": pack(TEXTS, SCORES[:-1]),
    "a score of NaN": pack(TEXTS, [*SCORES[:-1], NAN]),
    "an infinite score": pack(TEXTS, [*SCORES[:-1], float("inf")]),
    "a charsmap that grows": pack(TEXTS, SCORES, (8).to_bytes(4, "little") + bytes(8) + b"a" * 1000 + b"\0"),
    "a charsmap without an end": pack(TEXTS, SCORES, (8).to_bytes(4, "little") + bytes(8) + b"abc"),
    "a charsmap of nothing": pack(TEXTS, SCORES, b"%"),
    "a charsmap of an odd length": pack(TEXTS, SCORES, (3).to_bytes(4, "little") + bytes(3) + b"abc\0"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_may_do_harm_is_refused(path: Path, name: str) -> None:
    tensors = TOKENIZERS[name]
    if "scores" in tensors:
        fmt.save(small.unigram_artifact(small.CHARSMAP if "charsmap" in tensors else b""), path)
    rewrite(path, tensors={f"tokenizer.{key}": tensor for key, tensor in tensors.items()})
    for read in (
        lambda at: PromptTokenizer.from_artifact(fmt.load(at)),
        lambda at: PromptTokenizer.from_meta(*fmt.read_tokenizer(at), str(at)),
    ):
        assert type(refused(path, read)) is DamagedArtifactError


@pytest.mark.parametrize("piece", ["", "\0", "\ud7ff", " ", "a" * MAX_PIECE])
def test_odd_pieces_are_survived(piece: str) -> None:
    for made in (
        dataclasses.replace(small.artifact(), tokenizer=pack([*PIECES[:-2], piece, piece])),
        dataclasses.replace(UNIGRAM, tokenizer=pack([*TEXTS[:-2], piece, piece], SCORES)),
    ):
        tokens = PromptTokenizer.from_artifact(made)
        assert len(tokens.windows(f"cat {piece} </s> [SEP]")[0]) == tokens.window


def test_a_panic_of_the_library_is_an_artifact_error() -> None:
    """Should a kind of panic be left, a host that catches Exception continues."""
    tokens = small.tokens()
    tokens.tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(DamagedArtifactError):
        tokens.windows("a" * 30 + "!")


def test_a_charsmap_that_points_nowhere_is_a_sentence_and_no_panic() -> None:
    """A map that passes the checks, and whose trie leads outside of it."""
    charsmap = (8).to_bytes(4, "little") + b"\xff" * 8 + b"a\0"
    with pytest.raises(DamagedArtifactError):
        PromptTokenizer.from_artifact(small.unigram_artifact(charsmap)).windows("cat")


def test_a_precompiled_map_is_applied() -> None:
    tokens = PromptTokenizer.from_artifact(small.unigram_artifact(small.CHARSMAP))
    assert tokens.ids("catB") == tokens.ids("cata") == [4, 5]
