"""Files that someone made to do harm, or that a tool left wrong: each is refused in one sentence, with its path."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Regex, pre_tokenizers

from tests import small
from tests.host import in_host
from zhclip import artifact as fmt
from zhclip.io import ArtifactError, DamagedArtifactError, VersionError
from zhclip.tokenizer import MAX_PIECE, pack
from zhclip.tokens import PromptTokenizer

NAN = float("nan")


def rewrite(path: Path, meta: str | None = None, tensors: Mapping[str, torch.Tensor | None] | None = None) -> Path:
    """The file with other metadata or tensors, where None is without one."""
    with safe_open(path, "pt") as file:
        header = file.metadata() | ({} if meta is None else {fmt.HEADER_KEY: meta})
    stored: dict[str, Any] = {name: tensor.clone() for name, tensor in load_file(path).items()} | dict(tensors or {})
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


METADATA: dict[str, list[Any]] = {
    "window": [0, 2, -1, 78 + 3, 12.0, True, None, "77"],
    "dimensions": [{"layers": 1}],
    "dimensions.layers": [10**9, 999],
    "dimensions.heads": [0, 5],
    "dimensions.layer_norm_eps": [NAN, "1e-12"],
    "special_ids": [None],
    "special_ids.pad": [10**6],
    "special_ids.start": [-1],
    "special_ids.end": [2, 1],
    "tokenizer.kind": ["bpe", [], "unigram"],
    "tokenizer.lowercase": [1],
    "tokenizer.normalizer": ["prepend"],
    "tokenizer.pattern": ["(a+)+$"],
    "mask_padding": [{"a": 1}, 1],
    "position0": ["guessed"],
    "report": [[], small.nested(100)],
    "report.loss": [3],
    "report.loss.all": ["low", None, NAN, 10**400],
    "report.baselines": [[1], {"constant": "x"}],
    "report.retrieval.zh_to_en.R@1": ["x"],
    "recipe": ["x", {"a": [[small.nested(40)]]}],
    "teacher": [{"id": "x"}, [1]],
    "licence": ["x" * 100_000],
    "folding": [{"a": "bc"}, {"a": 1}],
    "parts": [[], "l"],
    "pooled": [20],
    "rotation": [1],
}
L, G = {"name": "l", "width": 12}, {"name": "g", "width": 20}
# For a file with parts 12 and 20 wide and a pooled vector of 20.
SDXL_METADATA: dict[str, list[Any]] = {
    "parts": [
        *("lg", [], [L, G] * 500, [["l", 12]], [L | {"a": 1}, G], [G, L], [L, G | {"name": "t5"}], [L | {"width": 32}]),
        *([L | {"width": width}, G] for width in ("12", True, 0, 10**6, 13)),
    ],
    "pooled": [0, "20", 10**6, 21],
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_a_wrong_type_or_range_is_refused(path: Path, name: str) -> None:
    for value in METADATA[name]:
        meta = json.loads(small.artifact().meta.to_json())
        small.put(meta, name, value)
        error = refused(rewrite(path, json.dumps(meta)))
        assert type(error) is DamagedArtifactError and any(part.rstrip("s") in error.found for part in name.split("."))


@pytest.mark.parametrize("name", SDXL_METADATA)
def test_metadata_of_several_parts_is_refused_alike(tmp_path: Path, name: str) -> None:
    fmt.save(small.sdxl_artifact(), path := tmp_path / "sdxl.safetensors")
    for value in SDXL_METADATA[name]:
        meta = json.loads(small.sdxl_artifact().meta.to_json()) | {name: value}
        assert type(refused(rewrite(path, json.dumps(meta)))) is DamagedArtifactError


@pytest.mark.parametrize("version", [0, 2, True, 1.0, "1", None])
def test_another_version_is_refused(path: Path, version: Any) -> None:
    meta = json.loads(small.artifact().meta.to_json()) | {"format_version": version}
    assert type(refused(rewrite(path, json.dumps(meta)), fmt.read_meta)) is VersionError


DEEP = json.dumps(json.loads(small.artifact().meta.to_json()) | {"report": small.nested(900)})


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "null", '{"format_version":1' + ',"a":[' * 3000, "1" * 5000, DEEP, ""]
)
def test_metadata_that_is_no_object_is_refused(path: Path, text: str) -> None:
    refused(rewrite(path, text), fmt.read_meta)


DENSE = "bert.encoder.layer.1.output.dense.weight"
NORM_DTYPES = ("int64", "uint8", "float64", "bool", "float8_e4m3fn")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("structure.rotation", torch.zeros(2)),
        ("hook", torch.zeros(2)),
        ("skip.empty", torch.zeros(77, 768)),  # without its projection
        ("bert.embeddings.LayerNorm.bias", None),
        ("tokenizer.vocabulary", None),
        ("tokenizer.scores", torch.zeros(257)),
        ("structure.position0", None),
        ("structure.proj_weight", None),
        ("structure.proj_weight", torch.zeros(3, 3)),
        ("structure.empty", torch.zeros(76, 768)),
        ("structure.norms", torch.zeros(77)),
        ("structure.norms", torch.zeros([1] * 60)),
        ("structure.mean", torch.zeros(768)),  # without std
        *(("structure.norms", torch.zeros(77, 1, dtype=getattr(torch, dtype))) for dtype in NORM_DTYPES),
        *((DENSE, torch.full((64, 128), float(value))) for value in ("nan", "inf", "-inf")),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    error = refused(rewrite(path, tensors={name: tensor}))
    assert type(error) is DamagedArtifactError and name.partition(".")[0] in error.found


@pytest.mark.parametrize("name", ["structure.std", "pooled.std"])
def test_a_deviation_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    fmt.save(small.sdxl_artifact(), path := tmp_path / "sdxl.safetensors")
    zero = load_file(path)[name].clone()
    zero[3] = 0
    assert name in refused(rewrite(path, tensors={name: zero})).found
    assert name in refused(rewrite(path, tensors={name: None})).found


@pytest.mark.parametrize("name", ["structure.norms", "tokenizer.vocabulary"])
@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [0, 77 * 4]},  # overlaps another
        {"data_offsets": [-4, 77 * 4 - 4]},
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [0]},
        {"data_offsets": [True, "1"]},
        *({"shape": shape} for shape in ([10**9, 10**9], [0] * 200, [True], None)),
        *({"dtype": dtype} for dtype in ("F4", "F6_E2M3", "F8_E8M0", "I64", ["F32"], None)),
        None,
        "gap",
        "foreign",
    ],
)
def test_a_header_that_lies_about_its_tensors_is_refused(path: Path, name: str, entry: dict[str, Any] | None) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if entry == "gap":
        del header[name]
    elif entry == "foreign":
        header["a"] = 1
    else:
        header[name] = entry and header[name] | entry
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    refused(path)
    if name.startswith("tokenizer."):
        refused(path, lambda at: PromptTokenizer.from_meta(*fmt.read_tokenizer(at), str(at)))


def stored(content: bytes) -> dict[str, torch.Tensor]:
    return {"vocabulary": torch.tensor(list(content), dtype=torch.uint8)}


PIECES = small.pieces()
TEXTS = ["<s>", "<pad>", "</s>", "<unk>", "\u2581cat", "a"]
SCORES = [0.0, 0.0, 0.0, 0.0, -1.0, -2.0]
LEAF = (8).to_bytes(4, "little") + bytes(8)
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
    "a charsmap that grows": pack(TEXTS, SCORES, LEAF + b"a" * 1000 + b"\0"),
    "a charsmap without an end": pack(TEXTS, SCORES, LEAF + b"abc"),
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
    for artifact in (
        dataclasses.replace(small.artifact(), tokenizer=pack([*PIECES[:-2], piece, piece])),
        dataclasses.replace(small.unigram_artifact(), tokenizer=pack([*TEXTS[:-2], piece, piece], SCORES)),
    ):
        tokens = PromptTokenizer.from_artifact(artifact)
        assert len(tokens.windows(f"cat {piece} </s> [SEP]")[0]) == tokens.window


def test_a_panic_of_the_library_is_an_artifact_error() -> None:
    """Should a kind of panic be left, a host that catches Exception continues."""
    tokens = small.tokens()
    tokens.tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(DamagedArtifactError):
        tokens.windows("a" * 30 + "!")
    outside = (8).to_bytes(4, "little") + b"\xff" * 8 + b"a\0"  # a character map whose trie leads outside of it
    with pytest.raises(DamagedArtifactError):
        PromptTokenizer.from_artifact(small.unigram_artifact(outside)).windows("cat")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by what Linux counts")
@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_files_and_prompts_are_taken_or_refused_alike_by_trainer_and_node(count: int, tmp_path: Path) -> None:
    found = in_host("fuzz_checks.fuzz_both", tmp_path, str(count), timeout=1800)
    assert not found["faults"], found["faults"][:3]
    # Cases that are all refused would look at half of the code.
    assert count / 25 < found["taken"]["files"] < count * 3 / 4 and found["taken"]["prompts"] > count / 2
