"""The format: what is written is read back, and everything else is refused by name, path, expectation and cure."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import small
from zhclip import artifact as fmt
from zhclip import memory


def rewritten(path: Path, tensors: dict[str, torch.Tensor] | None = None, **meta: object) -> Path:
    """The file at `path` with other tensors or other metadata, as a foreign writer might leave it."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[fmt.HEADER_KEY])
    save_file(tensors or load_file(path), path, {fmt.HEADER_KEY: json.dumps(header | meta)})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    return small.saved(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize(
    "options",
    [{}, {"structured": False}, {"structured": False, "width": 48, "teacher_width": 48, "window": 12}],
    ids=["whole", "projected", "bare"],
)
def test_what_is_saved_is_loaded(tmp_path: Path, options: dict) -> None:
    saved = small.artifact(**options)
    fmt.save(saved, tmp_path / "deep" / "a.safetensors")
    found = fmt.load(tmp_path / "deep" / "a.safetensors")
    assert found.meta == saved.meta == fmt.read_meta(tmp_path / "deep" / "a.safetensors")
    assert found.tokenizer_json == saved.tokenizer_json
    assert found.bert.keys() == saved.bert.keys()
    assert all(torch.equal(found.bert[name], saved.bert[name]) for name in saved.bert)
    for name in ("proj_weight", "proj_bias", "position0", "empty", "norms"):
        first, second = getattr(saved, name), getattr(found, name)
        assert (first is None and second is None) or torch.equal(first, second)


def test_a_saved_file_can_be_read_by_others_and_leaves_nothing_beside_it(path: Path) -> None:
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["modelspec.sai_model_spec"] == "1.0.1" and header["modelspec.license"] == "Apache-2.0"
    title = r"ZhCLIP .* tests/teacher: open it with Load ZhCLIP Encoder, not with Load CLIP"
    assert re.fullmatch(title, header["modelspec.title"])


def test_the_same_artifact_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    assert small.saved(tmp_path / "twice.safetensors").read_bytes() == path.read_bytes()


def test_tensors_that_do_not_fit_the_metadata_are_never_written(tmp_path: Path) -> None:
    wrong = dataclasses.replace(small.artifact(), norms=torch.ones(5))
    with pytest.raises(fmt.DamagedArtifactError, match=r"structure\.norms of shape \(5,\); expected \(77,\)"):
        fmt.save(wrong, tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(path: Path) -> None:
    before = path.read_bytes()
    unwritable = dataclasses.replace(small.artifact(), norms=torch.ones(77, device="meta"))
    with pytest.raises(NotImplementedError):
        fmt.save(unwritable, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_tensor_of_a_later_version_is_refused_by_name(path: Path) -> None:
    rewritten(path, load_file(path) | {"structure.rotation": torch.zeros(2)})
    with pytest.raises(fmt.VersionError, match=r"unknown tensor structure\.rotation; .* Update ZhCLIP"):
        fmt.load(path)


def test_metadata_of_a_later_version_is_refused_by_name(path: Path) -> None:
    with pytest.raises(fmt.VersionError, match="unknown metadata rotation"):
        fmt.load(rewritten(path, rotation=1))
    with pytest.raises(fmt.VersionError, match="format version 7; expected version 1 or 2"):
        fmt.read_meta(rewritten(path, format_version=7))


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("bert.embeddings.LayerNorm.bias", None, r"no tensor bert\.embeddings\.LayerNorm\.bias \(1 missing\)"),
        ("tokenizer_json", None, "no tensor tokenizer_json"),
        ("structure.position0", None, r"no tensor structure\.position0"),
        ("proj.weight", None, r"no tensor proj\.weight"),
        ("proj.weight", torch.zeros(3, 3), r"proj\.weight of shape \(3, 3\); expected \(768, 64\)"),
        ("structure.empty", torch.zeros(76, 768), r"structure\.empty of shape \(76, 768\); expected \(77, 768\)"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    path: Path, name: str, tensor: torch.Tensor | None, expected: str
) -> None:
    tensors = load_file(path)
    del tensors[name]
    rewritten(path, tensors if tensor is None else tensors | {name: tensor})
    with pytest.raises(fmt.DamagedArtifactError, match=expected):
        fmt.load(path)


@pytest.mark.parametrize(
    "meta",
    [
        {"position0": "guessed"},
        {"window": 500},
        {"dimensions": {"layers": 1}},
        {"special_ids": None},
    ],
    ids=lambda meta: next(iter(meta)),
)
def test_metadata_that_makes_no_sense_is_refused(path: Path, meta: dict) -> None:
    with pytest.raises(fmt.DamagedArtifactError, match=f"metadata whose {next(iter(meta))} is "):
        fmt.read_meta(rewritten(path, **meta))


def test_other_files_are_refused_for_what_they_are(tmp_path: Path) -> None:
    lora, pickle, old_pickle, text, none = (tmp_path / name for name in ("l.safetensors", "p", "q", "t", "n"))
    save_file({"a.lora_up.weight": torch.zeros(2, 2)}, lora)
    torch.save({}, pickle)
    torch.save({}, old_pickle, _use_new_zipfile_serialization=False)
    text.write_text("hello")
    for path, kind, words in (
        (lora, fmt.NotAnArtifactError, "without ZhCLIP metadata"),
        (pickle, fmt.NotAnArtifactError, "a file of Python objects"),
        (old_pickle, fmt.NotAnArtifactError, "a file of Python objects"),
        (text, fmt.DamagedArtifactError, "safetensors cannot read"),
        (none, fmt.ArtifactError, "no file"),
    ):
        with pytest.raises(kind) as caught:
            fmt.load(path)
        assert words in str(caught.value) and str(caught.value).startswith(str(path))
        assert caught.value.path == str(path) and caught.value.expected and caught.value.cure


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_allotted_weights_are_filled_when_asked_and_outlive_the_file(path: Path, dtype: torch.dtype) -> None:
    expected = {name: tensor.to(dtype, copy=True) for name, tensor in fmt.load(path).bert.items()}
    artifact, fills = memory.allot(path, dtype)
    for tensor in artifact.bert.values():
        tensor.zero_()
    for fill in fills:
        fill()
    os.truncate(path, 0)
    assert list(artifact.bert) == list(expected)
    for name, tensor in artifact.bert.items():
        assert tensor.dtype == dtype and torch.equal(tensor, expected[name]), name


def test_tensors_at_odd_bytes_are_allotted_too(path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    text = bytes(tensors.pop("tokenizer_json").numpy())
    text += b" " * (1 - len(text) % 2)
    with safe_open(path, "pt") as file:
        header: dict[str, object] = {"__metadata__": file.metadata()}
    header["tokenizer_json"] = {"dtype": "U8", "shape": [len(text)], "data_offsets": [0, len(text)]}
    end, content = len(text), text
    for name, tensor in tensors.items():
        data = tensor.numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + len(data)]}
        end, content = end + len(data), content + data
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content)
    artifact, fills = memory.allot(path, torch.float32)
    for fill in fills:
        fill()
    assert artifact.tokenizer_json == text
    for name, tensor in artifact.bert.items():
        assert torch.equal(tensor, tensors[f"bert.{name}"]), name


@pytest.mark.skipif(sys.platform != "linux", reason="MADV_POPULATE_WRITE is Linux's alone")
def test_populated_memory_is_there_before_it_is_written() -> None:
    import resource  # which Windows lacks

    fresh = torch.empty(64 << 20, dtype=torch.uint8)[100:]  # more than the C library keeps for another time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory._populate(fresh)
    populated = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fresh.fill_(1)
    written = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - populated
    assert populated > before
    assert written < 100, f"{written} pages were missing: the kernel is older than 5.14, or the request went wrong"


@pytest.mark.parametrize("change", ["cut short", "replaced", "overwritten"])
def test_a_file_that_changes_while_it_is_read_is_named(path: Path, tmp_path: Path, change: str) -> None:
    _, fills = memory.allot(path, torch.float32)
    fills[0]()
    if change == "cut short":
        os.truncate(path, 100)
    elif change == "replaced":  # as the trainer writes: the same names and shapes, other weights
        os.replace(small.saved(tmp_path / "again.safetensors"), path)
    else:
        path.write_bytes(path.read_bytes())
    for fill in fills[1:]:
        with pytest.raises(fmt.DamagedArtifactError, match="another file than a moment ago"):
            fill()


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 4000, -1])
def test_a_truncated_file_is_refused_at_any_length(path: Path, keep: int) -> None:
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(fmt.DamagedArtifactError, match="may be truncated"):
        fmt.load(path)


def test_marked_files_are_ours_by_their_header_alone(path: Path, tmp_path: Path) -> None:
    assert fmt.is_marked(path)
    os.truncate(path, path.stat().st_size // 2)
    assert fmt.is_marked(path)
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(2)}, other, {"notes": 'a "zhclip": b'})
    assert not fmt.is_marked(other)
    for content in (b"", b"\xff" * 64, b"PK\x03\x04 zhclip"):
        other.write_bytes(content)
        assert not fmt.is_marked(other)
