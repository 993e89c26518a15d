"""The format: what is written is read back; other files, and files that something happened to, are refused by class."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests import small
from zhclip import artifact as fmt
from zhclip.io import ArtifactError, DamagedArtifactError, NotAnArtifactError, atomic_write
from zhclip.tokens import PromptTokenizer

KINDS = {
    "whole": lambda: small.artifact(),
    "projected": lambda: small.artifact(structured=False),
    "bare": lambda: small.artifact(structured=False, width=48, teacher_width=48, window=12),
    "clip skip": lambda: small.artifact(skip=True),
    "sdxl": lambda: small.sdxl_artifact(),
    "unigram": lambda: small.unigram_artifact(),
    "precompiled": lambda: small.unigram_artifact(small.CHARSMAP),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    return small.saved(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(tmp_path: Path, kind: str) -> None:
    saved, path = KINDS[kind](), tmp_path / "deep" / "a.safetensors"
    fmt.save(saved, path)
    found = fmt.load(path)
    assert found.meta == saved.meta == fmt.read_meta(path) and found.path == str(path)
    assert found.tensors().keys() == saved.tensors().keys()
    assert all(torch.equal(tensor, saved.tensors()[name]) for name, tensor in found.tensors().items())
    meta, tokenizer = fmt.read_tokenizer(path)
    assert meta == saved.meta and tokenizer.keys() == saved.tokenizer.keys()
    assert all(torch.equal(tensor, saved.tokenizer[name]) for name, tensor in tokenizer.items())


def test_a_saved_file_is_plain_safetensors_and_leaves_nothing_beside_it(path: Path) -> None:
    assert os.listdir(path.parent) == [path.name]
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["modelspec.sai_model_spec"] == "1.0.1" and header["modelspec.license"] == "Apache-2.0"
    assert "tests/teacher" in header["modelspec.title"] and "not with Load CLIP" in header["modelspec.title"]
    assert json.loads(header[fmt.HEADER_KEY])["format_version"] == 1


def test_the_same_artifact_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    assert small.saved(tmp_path / "twice.safetensors").read_bytes() == path.read_bytes()


def test_a_loaded_artifact_needs_its_file_no_more(path: Path) -> None:
    found = fmt.load(path)
    os.truncate(path, 0)  # a mapped file ends the process here
    assert all(torch.equal(tensor, small.artifact().bert[name]) for name, tensor in found.bert.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": dataclasses.replace(small.artifact().meta, window=2)},
        {"structure": small.artifact().structure | {"norms": torch.ones(5, 1)}},
        {"structure": small.artifact().structure | {"norms": torch.full((77, 1), float("nan"))}},
        {"structure": small.artifact().structure | {"norms": torch.ones(77, 1, dtype=torch.int64)}},
        {"tokenizer": {"vocabulary": torch.tensor(list(b"{}"), dtype=torch.uint8)}},
        {"tokenizer": {}},
    ],
)
def test_what_would_be_refused_is_never_written(path: Path, changes: dict) -> None:
    before = path.read_bytes()
    with pytest.raises(DamagedArtifactError):
        fmt.save(dataclasses.replace(small.artifact(), **changes), path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_the_old_file_and_no_other(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_other_files_are_refused_for_what_they_are(tmp_path: Path) -> None:
    lora, pickle, old_pickle, text = (tmp_path / name for name in ("l.safetensors", "p", "q", "t"))
    save_file({"a.lora_up.weight": torch.zeros(2, 2)}, lora)
    torch.save({}, pickle)
    torch.save({}, old_pickle, _use_new_zipfile_serialization=False)
    text.write_text("hello")
    for path, kind in (
        (lora, NotAnArtifactError),
        (pickle, NotAnArtifactError),
        (old_pickle, NotAnArtifactError),
        (text, DamagedArtifactError),
        (tmp_path / "none", ArtifactError),
        (tmp_path, ArtifactError),
    ):
        for read in (fmt.load, fmt.read_meta, fmt.read_tokenizer):
            with pytest.raises(kind) as caught:
                read(path)
            assert type(caught.value) is kind and str(caught.value).startswith(str(path))
            assert caught.value.path == str(path) and caught.value.expected and caught.value.cure


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 4000, -1])
def test_a_truncated_file_is_refused_at_any_length(path: Path, keep: int) -> None:
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(DamagedArtifactError):
        fmt.load(path)


def test_files_are_ours_by_their_header_alone(path: Path, tmp_path: Path) -> None:
    assert fmt.is_artifact(path)
    os.truncate(path, path.stat().st_size // 2)
    assert fmt.is_artifact(path)
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(2)}, other, {"notes": 'a "zhclip": b'})
    assert not fmt.is_artifact(other)
    for content in (b"", b"\xff" * 64, b"PK\x03\x04 zhclip"):
        other.write_bytes(content)
        assert not fmt.is_artifact(other)


def test_a_precompiled_map_is_applied() -> None:
    tokens = PromptTokenizer.from_artifact(small.unigram_artifact(small.CHARSMAP))
    assert tokens.ids("catB") == tokens.ids("cata") == [4, 5]
