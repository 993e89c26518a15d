"""Downloading the text encoders of a model on the hub, without its other weights.

A safetensors file begins with a table of its tensors' byte ranges, so one tower of a two-tower model is a few ranges of
the file: 0.5 GB of CLIP-L's 1.7. They are written into the hub's cache, as a safetensors file beside the model's
configuration. Weights in another format are downloaded whole, in the same blocks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import hf_hub_url, snapshot_download
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from ..base.errors import one_line
from ..progress import Cancelled, Counter, Listener
from .load import CONFIGS, HALF, TEXT, ModelError, prefix_of, resolve, text_encoder_folders, weight_files

ANCHORS = ("embeddings.token_embedding.weight", "embeddings.word_embeddings.weight")  # CLIP's, a BERT's
BLOCK = 16_000_000  # bytes of one request
TIMEOUT = 30  # seconds without an answer
NAMES = ("model.safetensors", "pytorch_model.bin", HALF)  # of weights on the hub, in the order of preference


@dataclass(frozen=True)
class Weights:
    """Weights of one text encoder on the hub: the file `target` is `header` and these byte ranges of the file `url`."""

    target: Path
    url: str
    header: bytes
    ranges: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of the target."""
        return len(self.header) + sum(end - begin for begin, end in self.ranges)


def download_weights(model: str, flag: str, progress: Listener | None = None, endpoint: str | None = None) -> Path:
    """A model's folder or file; of a hub id the folder in the hub's cache, with the weights of its text encoders.

    endpoint: address of the hub; None: huggingface_hub's own. An interrupted download continues from its last byte.
    Raises ModelError, and Cancelled by the listener.
    """
    folder = resolve(model, flag, endpoint=endpoint)
    for weights in _missing(model, folder, flag, endpoint):
        with _hub_errors(model, flag):
            download(weights, f"download {model}", progress)
    return folder


def cached_weights(model: str, flag: str) -> Path | None:
    """The folder of a hub id in the hub's cache if all that a stage needs is there, else None. Asks no server."""
    try:
        snapshot = Path(snapshot_download(model, allow_patterns=CONFIGS, local_files_only=True))
        has_tokenizer = any((snapshot / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
        return snapshot if has_tokenizer and not _folders_without_weights(snapshot, flag) else None
    except (OSError, ValueError, ModelError):  # not in the cache; cut short
        return None


def missing_weights(model: str, flag: str, endpoint: str | None = None) -> list[Weights]:
    """What `download_weights` would download; nothing of a local folder or file. Raises ModelError."""
    return _missing(model, resolve(model, flag, endpoint=endpoint), flag, endpoint)


def _missing(model: str, snapshot: Path, flag: str, endpoint: str | None) -> list[Weights]:
    if snapshot.is_file() or Path(model).exists():
        return []
    with _hub_errors(model, flag):
        folders = _folders_without_weights(snapshot, flag)
        return [_remote_weights(model, snapshot, folder, endpoint) for folder in folders]


def _folders_without_weights(snapshot: Path, flag: str) -> list[Path]:
    # A file in half precision may be another program's, of a repository that has the whole one too; ours is TEXT.
    return [own for own in text_encoder_folders(snapshot, flag)[1] if weight_files(own) in ([], [own / HALF])]


@contextmanager
def _hub_errors(model: str, flag: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into ModelError."""
    try:
        yield
    except (Cancelled, ModelError):
        raise
    except Exception as error:
        raise ModelError(
            f"--{flag} {model}: its weights cannot be downloaded ({one_line(error)}) Give the same command again, "
            "which continues the download, or download the model by hand and give its folder."
        ) from error


def _remote_weights(model: str, snapshot: Path, folder: Path, endpoint: str | None) -> Weights:
    """The weights that the hub has for a folder of the snapshot, which is named by its commit."""
    for name in NAMES:
        path = (folder / name).relative_to(snapshot).as_posix()
        url = hf_hub_url(model, path, revision=snapshot.name, endpoint=endpoint)
        answer = _request(url, 0, 8)
        if answer.status_code == 404:
            continue
        start = 8 + int.from_bytes(_content(answer, 8), "little")  # of a safetensors file's tensors
        if name.endswith(".safetensors"):
            header, ranges = select(json.loads(_content(_request(url, 8, start), start - 8)), start)
            if header:
                return Weights(folder / TEXT, url, header, ranges)
        size = int(answer.headers["Content-Range"].rpartition("/")[2])
        return Weights(folder / name, url, b"", ((0, size),))
    raise FileNotFoundError(f"It has none of {', '.join(NAMES)}.")


def select(header: dict[str, Any], data: int) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The text encoder of a safetensors file: a header for it alone, and the byte ranges of its tensors.

    header: the file's own; data: where its tensors begin. Both empty if it holds no text encoder.
    """
    prefix = next((p for p in (prefix_of(header, anchor) for anchor in ANCHORS) if p is not None), None)
    if prefix is None:
        return b"", ()
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if any(name.startswith("vision_model.") for name in tensors):  # else the file is a text encoder and its projection
        tensors = {name: entry for name, entry in tensors.items() if name.startswith(prefix)}
    own: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    ranges: list[tuple[int, int]] = []
    size = 0
    for name, entry in sorted(tensors.items(), key=lambda pair: pair[1]["data_offsets"]):
        begin, end = (data + offset for offset in entry["data_offsets"])
        own[name] = entry | {"data_offsets": [size, size + end - begin]}
        size += end - begin
        if ranges and ranges[-1][1] == begin:
            begin = ranges.pop()[0]
        ranges.append((begin, end))
    text = json.dumps(own, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text, tuple(ranges)


def download(weights: Weights, stage: str, progress: Listener | None) -> None:
    """Write the target, through a .part file that an interrupted call leaves and the next one continues."""
    target = weights.target
    partial = target.with_name(f"{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process has downloaded it
            return
        partial.touch()
        with partial.open("r+b") as file:
            # The folder is named by the commit, so only another version of this code wrote another header.
            if file.read(len(weights.header)) != weights.header:
                file.truncate(0)
                file.seek(0)
                file.write(weights.header)
            counter = Counter(stage, weights.size, progress, file.seek(0, os.SEEK_END))
            skip = file.tell() - len(weights.header)
            for begin, end in weights.ranges:
                for start in range(begin + skip, end, BLOCK):
                    stop = min(start + BLOCK, end)
                    counter.add(file.write(_content(_request(weights.url, start, stop), stop - start)))
                skip = max(0, skip - (end - begin))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def _request(url: str, begin: int, end: int) -> Any:
    """The server's answer to a request for the bytes begin to end - 1."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{end - 1}"}
    return http_backoff("GET", url, headers=headers, timeout=TIMEOUT)


def _content(answer: Any, size: int) -> bytes:
    hf_raise_for_status(answer)
    if answer.status_code != 206 or len(answer.content) != size:
        raise OSError("The server does not give the part of the file that was asked for.")
    return answer.content
