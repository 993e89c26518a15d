"""Of a model on the hub, its text encoders alone.

A safetensors file begins with a table of what lies where, so one tower of a two-tower model is a few byte ranges of it:
0.5 of CLIP-L's 1.7 GB. They are written into the hub's cache beside the model's small files, as a safetensors file of
their own. A killed download goes on behind the bytes that it has. Where the server knows no ranges, or the weights are
of another kind, they come whole.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from huggingface_hub import hf_hub_url, snapshot_download
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff
from tqdm import tqdm

from zhclip.models import KINDS, SD15, CheckpointKind

from ..base.errors import one_line
from .load import HALF, SMALL, TEXT, WEIGHTS, ModelError, prefix_of, resolve, weight_files

ANCHORS = ("embeddings.token_embedding.weight", "embeddings.word_embeddings.weight")  # CLIP's, a BERT's
CHUNK = 1 << 16
TRIES = 5  # without a byte in between
PATIENCE = 30  # seconds without an answer
LONGEST_TABLE = 100_000_000  # bytes, by the format's own limit
MOST = 0.9  # of a file that is worth reading in part


@dataclass(frozen=True)
class Weights:
    """A file of weights on the hub. `table` and `ranges` describe the part that is read; without them it is whole."""

    url: str
    whole: int  # bytes
    table: bytes = b""
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes that are read."""
        return len(self.table) + sum(end - begin for begin, end in self.ranges) if self.table else self.whole


def small_files(model: str, flag: str) -> Path:
    """The folder of a model's configuration and tokenizer, downloaded where it is a hub id. A file is itself."""
    return resolve(model, flag, SMALL)


def text_encoder(model: str, flag: str) -> Path:
    """The same with the weights of its text encoder, or of each. Raises ModelError."""
    folder = small_files(model, flag)
    for part in missing_parts(model, folder, flag):
        try:
            _download(model, folder, part)
        except Exception as error:
            raise ModelError(
                f"--{flag} {model}: its weights cannot be downloaded ({one_line(error)}) Give the same "
                "command again, which goes on behind what is there, or download the model by hand and give its folder."
            ) from error
    return folder


def missing_weights(model: str, flag: str) -> dict[str, Weights]:
    """What `text_encoder` would have to download, by the folder in the repository; nothing of what is here. Raises
    ModelError."""
    folder = small_files(model, flag)
    try:
        found = {part: remote(model, folder, part) for part in missing_parts(model, folder, flag)}
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"--{flag} {model}: the hub does not say how large it is ({error})") from error
    return {part.relative_to(folder).as_posix(): weights for part, weights in found.items() if weights}


def missing_parts(model: str, folder: Path, flag: str) -> list[Path]:
    """Where in the hub's copy of a model a text encoder's weights are not yet."""
    if folder.is_file() or Path(model).exists():
        return []
    # A half by its own name may be another program's, of a repository that has the whole too; ours is in TEXT.
    return [part for part in parts_of(folder, flag)[1] if weight_files(part) in ([], [part / HALF])]


def parts_of(folder: Path, flag: str) -> tuple[CheckpointKind, list[Path]]:
    """The kind of checkpoint that a model's folder is of, and where its text encoders lie: a pipeline has a folder of
    its own for each. Raises ModelError for a pipeline of another kind."""
    index = folder / "model_index.json"
    if not index.is_file():
        return SD15, [folder]
    try:
        named = {*json.loads(index.read_text(encoding="utf-8")), *(path.name for path in folder.iterdir())}
    except (ValueError, TypeError) as error:
        raise ModelError(f"--{flag} {index}: damaged ({error}); copy or download it again") from error
    there = {name for name in named if re.fullmatch(r"text_encoder(_\d+)?", name)} or {SD15.parts[0].folder}
    for kind in KINDS:
        if there == {part.folder for part in kind.parts}:
            return kind, [folder / part.folder for part in kind.parts]
    known = "; ".join(f"{kind.name}: {', '.join(part.folder for part in kind.parts)}" for kind in KINDS)
    raise ModelError(
        f"--{flag} {folder}: a pipeline with {', '.join(sorted(there))}; those that are known have {known}"
    )


def _download(model: str, folder: Path, part: Path) -> None:
    found = remote(model, folder, part)
    if found and found.table:
        fetch(found, part / TEXT, model)
    else:
        names = [found.url.rpartition("/")[2]] if found else WEIGHTS
        patterns = [(part.relative_to(folder) / name).as_posix() for name in names]
        snapshot_download(model, revision=folder.name, allow_patterns=patterns)


def remote(model: str, folder: Path, part: Path) -> Weights | None:
    """The file of weights of a part of the snapshot in `folder`, named by its commit; None when it is in several."""
    for name in ("model.safetensors", "pytorch_model.bin", HALF):
        file = (part.relative_to(folder) / name).as_posix()
        found = look(hf_hub_url(model, file, revision=folder.name))
        if found:
            return found
    return None


def look(url: str) -> Weights | None:
    """What is at an address, or None. Of a safetensors file the table is read, where the server gives parts of it."""
    with _open(url, 0, 8) as answer:
        if answer.status_code == 404:
            return None
        hf_raise_for_status(answer)
        if answer.status_code != 206:
            return Weights(url, int(answer.headers.get("Content-Length", 0)))
        whole = int(answer.headers["Content-Range"].rpartition("/")[2])
        length = int.from_bytes(answer.read(), "little")
    if not url.endswith(".safetensors") or length > LONGEST_TABLE:
        return Weights(url, whole)
    with _open(url, 8, 8 + length) as answer:
        hf_raise_for_status(answer)
        table = answer.read()
    part = Weights(url, whole, *chosen(json.loads(table), 8 + length))
    if part.table and part.size < MOST * whole:
        return part
    if url.endswith(HALF):  # all of it, into TEXT, which says that the hub has no whole
        return Weights(url, whole, length.to_bytes(8, "little") + table, ((8 + length, whole),))
    return Weights(url, whole)


def chosen(table: dict[str, Any], data: int) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The beginning of a safetensors file that holds the text encoder alone, and the byte ranges that follow it.

    table: a safetensors file's own; data: where its tensors begin. Both empty when there is no text encoder in it.
    """
    prefix = next((p for p in (prefix_of(table, anchor) for anchor in ANCHORS) if p is not None), None)
    if prefix is None:
        return b"", ()
    named = [(name, entry) for name, entry in table.items() if name.startswith(prefix) and name != "__metadata__"]
    named.sort(key=lambda pair: pair[1]["data_offsets"])
    kept: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    ranges: list[tuple[int, int]] = []
    at = 0
    for name, entry in named:
        begin, end = entry["data_offsets"]
        kept[name] = entry | {"data_offsets": [at, at + end - begin]}
        at += end - begin
        ranges.append((data + begin, data + end))
    text = json.dumps(kept, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text, joined(ranges)


def joined(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ascending ranges, those that touch made one."""
    starts = [0] + [i for i, (one, other) in enumerate(pairwise(ranges), 1) if one[1] != other[0]]
    return tuple((ranges[a][0], ranges[b - 1][1]) for a, b in pairwise([*starts, len(ranges)]))


def fetch(weights: Weights, target: Path, model: str) -> None:
    """Write the part to `target` whole or not at all, going on behind what a killed download left beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = target.with_name(f"{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process was faster
            return
        left.touch()
        with left.open("r+b") as file:
            # The folder's name is the commit, so only a table of another code's making can stand there.
            if file.read(len(weights.table)) != weights.table:
                file.truncate(0)
                file.seek(0)
                file.write(weights.table)
            file.seek(0, os.SEEK_END)
            at = len(weights.table)
            with tqdm(total=weights.size, initial=file.tell(), desc=model, unit="B", unit_scale=True) as bar:
                for begin, end in weights.ranges:
                    _append(weights.url, begin, end, at, file, bar)
                    at += end - begin
            file.flush()
            os.fsync(file.fileno())
        left.replace(target)


def _append(url: str, begin: int, end: int, at: int, file: BinaryIO, bar: tqdm) -> None:
    """The bytes [begin, end) of a remote file that are not yet in `file`, where they begin at `at`."""
    tries = TRIES
    while (there := file.tell() - at) < end - begin:
        with _open(url, begin + there, end) as answer:
            hf_raise_for_status(answer)
            if answer.status_code != 206:
                raise OSError("the server gives no parts of its files any more.")
            try:
                for chunk in answer.iter_bytes(CHUNK):
                    some = chunk[: end - begin + at - file.tell()]
                    file.write(some)
                    bar.update(len(some))
                    tries = TRIES
            except OSError:
                raise
            except Exception as error:  # of whichever library the hub's client is built on
                tries -= 1
                if not tries:
                    raise OSError(f"the connection broke {TRIES} times.") from error


def _open(url: str, begin: int, end: int) -> AbstractContextManager[Any]:
    headers = build_hf_headers() | {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    return http_stream_backoff("GET", url, headers=headers, timeout=PATIENCE)
