"""Files that someone made to do harm, or that a tool left wrong: each is refused in one sentence, with its path."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests import small
from zhclip import artifact as fmt
from zhclip import memory
from zhclip.tokenizer import check
from zhclip.tokens import PromptTokenizer

DIMENSIONS = dataclasses.asdict(small.artifact().meta.dimensions)
SPECIAL = {"start": 2, "end": 3, "pad": 0, "unknown": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    return small.saved(tmp_path / "encoder.safetensors")


def with_meta(path: Path, text: str | None = None, **meta: object) -> Path:
    """The file with other metadata, as text or by key."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[fmt.HEADER_KEY])
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, {fmt.HEADER_KEY: text or json.dumps(header | meta)})
    return path


def with_tensors(path: Path, **tensors: torch.Tensor) -> Path:
    """The file with other tensors; `.` is written `__` in their names."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    found = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(found | {name.replace("__", "."): tensor for name, tensor in tensors.items()}, path, header)
    return path


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "a window of 0": ({"window": 0}, "window is 0; expected 3 to 80"),
    "a window of 1": ({"window": 1}, "window is 1"),
    "a window of 2": ({"window": 2}, "window is 2"),
    "a window below 0": ({"window": -1}, "window is -1"),
    "a window of 12.0": ({"window": 12.0}, "window is a number; expected an integer"),
    "a window of true": ({"window": True}, "window is true or false; expected an integer"),
    "a thousand million layers": ({"dimensions": DIMENSIONS | {"layers": 10**9}}, "dimensions.layers is 1000000000"),
    "a thousand layers": ({"dimensions": DIMENSIONS | {"layers": 999}}, "expected those of 999 layers"),
    "no heads": ({"dimensions": DIMENSIONS | {"heads": 0}}, "dimensions.heads is 0"),
    "heads that do not divide": ({"dimensions": DIMENSIONS | {"heads": 5}}, "5 heads over a width of 64"),
    "an epsilon of NaN": ({"dimensions": DIMENSIONS | {"layer_norm_eps": float("nan")}}, "layer_norm_eps is nan"),
    "an epsilon as text": ({"dimensions": DIMENSIONS | {"layer_norm_eps": "1e-12"}}, "layer_norm_eps is a text"),
    "an id beyond the embedding": ({"special_ids": SPECIAL | {"pad": 10**6}}, "special_ids.pad is 1000000; expected 0"),
    "an id below 0": ({"special_ids": SPECIAL | {"start": -1}}, "special_ids.start is -1"),
    "end and start alike": ({"special_ids": SPECIAL | {"end": 2}}, "end is token 2"),
    "end and unknown alike": ({"special_ids": SPECIAL | {"unknown": 3}}, "end is token 3"),
    "masks as an object": ({"mask_padding": {"a": 1}}, "mask_padding is an object; expected true or false"),
    "masks as 1": ({"mask_padding": 1}, "mask_padding is an integer"),
    "a version of true": ({"format_version": True}, "format version True; expected version 1 or 2"),
    "a version of 1.0": ({"format_version": 1.0}, "format version 1.0"),
    "a report as a list": ({"report": []}, "report is a list"),
    "a loss as text": ({"report": {"loss": {"all": "low"}}}, "loss.all is a text; expected a finite number"),
    "no loss at all": ({"report": {"loss": {"all": None}}}, "loss.all is missing"),
    "a loss of NaN": ({"report": {"loss": {"all": float("nan")}}}, "loss.all is nan"),
    "losses as a number": ({"report": {"loss": 3}}, "loss is an integer"),
    "baselines as a list": ({"report": {"baselines": [1]}}, "baselines is a list"),
    "a baseline as text": ({"report": {"baselines": {"constant": "x"}}}, "baselines.constant is a text"),
    "recall as text": ({"report": {"retrieval": {"zh_to_en": {"R@1": "x"}}}}, "R@1 is a text"),
    "a deep report": ({"report": nested(100)}, "more than 32 nested levels"),
    "a deep recipe": ({"recipe": {"a": [[nested(40)]]}}, "more than 32 nested levels"),
    "a recipe as text": ({"recipe": "x"}, "recipe is a text"),
    "a teacher without width": ({"teacher": {"id": "x"}}, "metadata whose teacher is"),
    "a teacher as a list": ({"teacher": [1]}, "metadata whose teacher is a list"),
    "a long licence": ({"licence": "x" * 100_000}, "licence has 100000 characters"),
    "a folding to a word": ({"folding": {"a": "bc"}}, "folding maps something else"),
    "a folding to a number": ({"folding": {"a": 1}}, "folding maps something else"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_a_wrong_type_or_range_is_refused(path: Path, name: str) -> None:
    meta, expected = METADATA[name]
    begin = time.process_time()
    for read in (fmt.load, lambda at: memory.allot(at, torch.float32)):
        with pytest.raises(fmt.ArtifactError, match=r"found .*; expected ") as caught:
            read(with_meta(path, **meta))
        assert expected in str(caught.value) and str(caught.value).startswith(str(path))
        assert len(str(caught.value)) < 500 + len(str(path))
    assert time.process_time() - begin < 1


WIDTHS = [{"name": "l", "width": 12}, {"name": "g", "width": 20}]
# Of a file with two parts 12 and 20 wide and a pooled vector of 20.
PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "parts as text": ({"parts": "lg"}, "parts are a text; expected a list of 1 to 4"),
    "no parts": ({"parts": []}, "parts are a list"),
    "a thousand parts": ({"parts": WIDTHS * 500}, "parts are a list"),
    "a part as a list": ({"parts": [["l", 12]]}, "a part that is something else"),
    "a part of two names": ({"parts": [WIDTHS[0] | {"also": 1}, WIDTHS[1]]}, "a part that is something else"),
    "a width as text": ({"parts": [WIDTHS[0] | {"width": "12"}, WIDTHS[1]]}, "parts.width is a text"),
    "a width of true": ({"parts": [WIDTHS[0] | {"width": True}, WIDTHS[1]]}, "parts.width is true or false"),
    "a width of 0": ({"parts": [WIDTHS[0] | {"width": 0}, WIDTHS[1]]}, "a part 0 wide"),
    "a width of a million": ({"parts": [WIDTHS[0] | {"width": 10**6}, WIDTHS[1]]}, "a part 1000000 wide"),
    "widths of another sum": ({"parts": [WIDTHS[0] | {"width": 13}, WIDTHS[1]]}, "parts 33 wide; expected 32"),
    "parts the other way round": ({"parts": WIDTHS[::-1]}, "the parts g, l"),
    "a part by an unknown name": ({"parts": [WIDTHS[0], WIDTHS[1] | {"name": "t5"}]}, "the parts l, t5"),
    "one part and a pooled vector": ({"parts": [WIDTHS[0] | {"width": 32}]}, "pooled is 20"),
    "two parts and none": ({"pooled": 0}, "pooled is 0"),
    "a pooled vector of text": ({"pooled": "20"}, "pooled is a text"),
    "a pooled vector of a million": ({"pooled": 10**6}, "pooled is 1000000; expected 0 to"),
    "a pooled vector of another width": ({"pooled": 21}, "pooled."),
    "version 1": ({"format_version": 1}, "unknown metadata parts, pooled"),
}


@pytest.mark.parametrize("name", PARTS)
def test_metadata_of_several_parts_is_refused_alike(tmp_path: Path, name: str) -> None:
    meta, expected = PARTS[name]
    fmt.save(small.sdxl_artifact(), path := tmp_path / "sdxl.safetensors")
    with pytest.raises(fmt.ArtifactError, match=r"found .*; expected ") as caught:
        fmt.load(with_meta(path, **meta))
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["structure.std", "pooled.std"])
def test_a_deviation_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    fmt.save(small.sdxl_artifact(), path := tmp_path / "sdxl.safetensors")
    zero = load_file(path)[name].clone()
    zero[3] = 0
    for read in (fmt.load, lambda at: memory.allot(at, torch.float32)):
        with pytest.raises(fmt.DamagedArtifactError, match=f"{name} of 0 or less"):
            read(with_tensors(path, **{name.replace(".", "__"): zero}))
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file({n: t.clone() for n, t in load_file(path).items() if n != name}, path, header)
    with pytest.raises(fmt.DamagedArtifactError, match="both or neither"):
        fmt.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"format_version":1' + ',"a":[' * 3000, "1" * 5000])
def test_metadata_that_is_no_object_is_refused(path: Path, text: str) -> None:
    with pytest.raises(fmt.ArtifactError, match="found metadata that is "):
        fmt.read_meta(with_meta(path, text))


def test_what_is_refused_is_never_written(tmp_path: Path) -> None:
    good = small.artifact()
    for wrong in (
        dataclasses.replace(good, meta=dataclasses.replace(good.meta, window=2)),
        dataclasses.replace(good, norms=torch.full((77,), float("nan"))),
        dataclasses.replace(good, tokenizer_json=b"{}"),
        dataclasses.replace(good, norms=torch.ones(77, dtype=torch.int64)),
    ):
        with pytest.raises(fmt.DamagedArtifactError):
            fmt.save(wrong, tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.weight", "structure.norms"])
def test_weights_without_a_number_are_refused(path: Path, name: str, value: str) -> None:
    tensor = load_file(path)[name].clone()
    tensor.view(-1)[-1] = float(value)
    with_tensors(path, **{name: tensor})
    with pytest.raises(fmt.DamagedArtifactError, match="with NaN or infinity") as caught:
        fmt.load(path)
    assert caught.value.found.startswith(name)
    with pytest.raises(fmt.DamagedArtifactError, match="with NaN or infinity"):
        artifact, fills = memory.allot(path, torch.float32)
        for fill in fills:
            fill()
        fmt.check_finite(path, {f"bert.{name}": tensor for name, tensor in artifact.bert.items()})


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64, torch.bool], ids=str)
def test_weights_of_a_foreign_dtype_are_refused(path: Path, dtype: torch.dtype) -> None:
    for name in ("structure.norms", "bert.embeddings.LayerNorm.bias"):
        with_tensors(path, **{name: load_file(path)[name].to(dtype)})
        with pytest.raises(fmt.DamagedArtifactError, match=r"; expected bytes or floats|; expected one of "):
            fmt.load(path)


def header(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with a changed header, whatever it then says."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + size])
    change(found)
    text = json.dumps(found).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["structure.norms"].update(data_offsets=[0, 77 * 4]),  # overlaps another
        lambda found: found["structure.norms"].update(data_offsets=[-4, 77 * 4 - 4]),
        lambda found: found["structure.norms"].update(data_offsets=[0]),
        lambda found: found["structure.norms"].update(shape=[10**9, 10**9]),
        lambda found: found["structure.norms"].update(shape=[True]),
        lambda found: found["structure.norms"].update(dtype=["F32"]),
        lambda found: found["structure.norms"].pop("dtype"),
        lambda found: found.update({"structure.norms": None}),
        lambda found: found.pop("structure.norms"),  # leaves a gap
    ],
)
def test_a_header_that_lies_about_its_tensors_is_refused(
    path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(fmt.DamagedArtifactError):
        fmt.load(header(path, change))


def serialised(**changes: Any) -> bytes:
    """The tests' WordPiece with other components."""
    return json.dumps(json.loads(small.tokenizer().to_str()) | changes).encode()


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(texts: bytes) -> dict[str, Any]:
    raw = (8).to_bytes(4, "little") + bytes(8) + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


MODEL = json.loads(small.tokenizer().to_str())["model"]
UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]], "byte_fallback": False}
SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKENIZERS: dict[str, bytes] = {
    "nothing": b"",
    "no utf-8": b"\xff\xfe",
    "no object": b"[]",
    "no model": b"{}",
    "a model of null": serialised(model=None),
    "a deep one": b'{"a":' * 100_000,
    "keys twice": b'{"model": {}, ' + serialised()[1:],
    "a split by a regex": serialised(pre_tokenizer=SPLIT),
    "one inside a sequence": serialised(pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT]}),
    "sequences in sequences": serialised(normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence"}]}),
    "replacing by a regex": serialised(normalizer=replace({"Regex": "(a+)+$"}, "b")),
    "replacing that grows": serialised(normalizer=replace({"String": "a"}, "a" * 10)),
    "replacing nothing": serialised(normalizer=replace({"String": ""}, "a")),
    "a long prepend": serialised(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
    "many parts": serialised(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 9}),
    "parts twice": serialised(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 2}),
    "a charsmap that grows": serialised(normalizer=charsmap(b"a" * 1000 + b"\0")),
    "a charsmap without an end": serialised(normalizer=charsmap(b"abc")),
    "a charsmap of nothing": serialised(normalizer={"type": "Precompiled", "precompiled_charsmap": "%"}),
    "byte level": serialised(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}),
    "a template that repeats": serialised(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
            "pair": [],
            "special_tokens": {},
        }
    ),
    "a decoder with a regex": serialised(decoder=replace({"Regex": "(a+)+$"}, "b")),
    "byte pairs": serialised(model={"type": "BPE", "vocab": {"a": 0}, "merges": []}),
    "a long prefix": serialised(model=MODEL | {"continuing_subword_prefix": "#" * 1_000_000}),
    "endless words": serialised(model=MODEL | {"max_input_chars_per_word": 10**9}),
    "an id beyond the embedding": serialised(model=MODEL | {"vocab": MODEL["vocab"] | {"zz": 10**6}}),
    "an id below 0": serialised(model=MODEL | {"vocab": MODEL["vocab"] | {"zz": -1}}),
    "an id as text": serialised(model=MODEL | {"vocab": MODEL["vocab"] | {"zz": "1"}}),
    "no unknown token": serialised(model=MODEL | {"unk_token": "[NONE]"}),
    "an empty vocabulary": serialised(model=MODEL | {"vocab": {}}),
    "an unknown id out of range": serialised(model=UNIGRAM | {"unk_id": 7}),
    "no unknown id": serialised(model=UNIGRAM | {"unk_id": None}),
    "byte fallback": serialised(model=UNIGRAM | {"byte_fallback": True}),
    "pieces that are none": serialised(model=UNIGRAM | {"vocab": [["a", -1.0], 7]}),
    "a piece of a million characters": serialised(model=UNIGRAM | {"vocab": [["a", -1.0], ["b" * 1_000_000, -2.0]]}),
    "more pieces than rows": serialised(model=UNIGRAM | {"vocab": [[str(i), -1.0] for i in range(300)]}),
    "an added token beyond the embedding": serialised(
        added_tokens=[
            dict(id=300, content="zz", single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
        ]
    ),
    "added tokens without end": serialised(added_tokens=[{}] * 2000),
    "an added token of a megabyte": serialised(
        added_tokens=[
            dict(
                id=1,
                content="z" * 1_000_000,
                single_word=False,
                lstrip=False,
                rstrip=False,
                normalized=False,
                special=False,
            )
        ]
    ),
    "something else": serialised(hook=1),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_may_do_harm_is_refused(path: Path, name: str) -> None:
    content = TOKENIZERS[name]
    with_tensors(path, tokenizer_json=torch.tensor(list(content), dtype=torch.uint8))
    begin = time.process_time()
    with pytest.raises(fmt.DamagedArtifactError, match=r"found .*; expected .*Use the tokenizer") as caught:
        PromptTokenizer.of(fmt.load(path))
    assert time.process_time() - begin < 1
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 500 + len(str(path))


def test_a_panic_of_the_library_is_an_artifact_error() -> None:
    """Should a kind of panic be left, a host that catches Exception goes on."""
    tokenizer = small.tokenizer().from_str(small.tokenizer().to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    made = PromptTokenizer(tokenizer, small.artifact().meta.special_ids, 77, path="some/file")
    with pytest.raises(fmt.DamagedArtifactError, match="some/file: found a tokenizer that the tokenizers library"):
        made.windows("a" * 30 + "!")


def xlm_roberta() -> Tokenizer:
    """As transformers' XLMRobertaTokenizer is made, but for its vocabulary."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581cat", -1.0), ("\u2581", -2.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("\u2581", prepend_scheme="always")]
    )
    made.decoder = decoders.Metaspace("\u2581", prepend_scheme="always")
    return made


def test_the_tokenizers_of_published_students_are_taken() -> None:
    check("a", xlm_roberta().to_str().encode(), 6)
    check("a", serialised(), 257)
    check("a", serialised(normalizer=charsmap(b"ab\0cde\0")), 257)
    check("a", serialised(normalizer=replace({"Regex": " {2,}"}, " ")), 257)
    made = PromptTokenizer.from_json(xlm_roberta().to_str().encode(), fmt.SpecialIds(0, 2, 1, 3), 8)
    assert made.ids("cat") == [4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("change", ["cut short", "replaced", "deleted"])
def test_a_file_that_changes_between_header_and_weights_is_named(
    path: Path, tmp_path: Path, change: str, dtype: torch.dtype
) -> None:
    _, fills = memory.allot(path, dtype)
    if change == "cut short":
        os.truncate(path, 5000)
    elif change == "replaced":
        os.replace(small.saved(tmp_path / "again.safetensors", seed=1), path)
    else:
        path.unlink()
    for fill in fills:
        with pytest.raises(fmt.ArtifactError, match=r"another file than a moment ago|cannot be opened"):
            fill()


def test_one_opened_file_stays_itself_or_is_refused(path: Path, tmp_path: Path) -> None:
    expected = fmt.load(path)
    with fmt.opened(path) as file:
        meta = fmt.meta_of(file)
        os.replace(small.saved(tmp_path / "again.safetensors", seed=1, window=20), path)
        assert meta == expected.meta
        assert expected.proj_weight is not None
        assert torch.equal(file.read("proj.weight"), expected.proj_weight), "of the file that was opened"
    with fmt.opened(path) as file:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(fmt.DamagedArtifactError, match="another file than a moment ago"):
            file.read("proj.weight")
