"""Downloading the text encoders of a model on the hub, without its other weights.

A safetensors file begins with a table of its tensors' byte ranges, so one tower of a two-tower model is a few ranges of
the file: 0.5 GB of CLIP-L's 1.7. They are written into the hub's cache, as a safetensors file beside the model's
configuration. Weights in another format are downloaded whole, in the same blocks.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from ..progress import Counter, Listener
from .load import HALF, TEXT, model_errors, prefix_of, resolve, text_encoder_folders, weight_files

ANCHORS = ("embeddings.token_embedding.weight", "embeddings.word_embeddings.weight")  # CLIP's, a BERT's
BLOCK = 16_000_000  # bytes of one request
TIMEOUT = 30  # seconds without an answer
NAMES = ("model.safetensors", "pytorch_model.bin", HALF)  # of weights on the hub, in the order of preference
HINT = "give the same command again, which continues a download, or download it by hand and give its folder"


@dataclass(frozen=True)
class Weights:
    """Weights of one text encoder on the hub: the file `target` is `header` and these byte ranges of the file `url`."""

    target: Path
    url: str
    header: bytes
    ranges: list[tuple[int, int]]

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
    for weights in missing_weights(model, folder, flag, endpoint):
        with model_errors(f"--{flag} {model}: its weights cannot be downloaded", HINT):
            download(weights, f"download {model}", progress)
    return folder


def missing_weights(model: str, folder: Path, flag: str, endpoint: str | None = None) -> list[Weights]:
    """What `download_weights` downloads of a model whose folder is `resolve`'s. Raises ModelError."""
    if Path(model).exists():
        return []
    with model_errors(f"--{flag} {model}: its weights cannot be downloaded", HINT):
        encoders = text_encoder_folders(folder, flag)[1]
        return [remote_weights(model, folder, each, endpoint) for each in encoders if not weight_files(each)]


def remote_weights(model: str, snapshot: Path, folder: Path, endpoint: str | None) -> Weights:
    """The weights that the hub has for a folder of the snapshot, whose name is the commit's. Raises OSError."""
    for name in NAMES:
        path = (folder / name).relative_to(snapshot).as_posix()
        url = hf_hub_url(model, path, revision=snapshot.name, endpoint=endpoint)
        response = _request(url, 0, 8)
        if response.status_code == 404:
            continue
        start = 8 + int.from_bytes(_content(response, 8), "little")  # of a safetensors file's tensors
        if name.endswith(".safetensors"):
            header, ranges = select(json.loads(_content(_request(url, 8, start), start - 8)), start)
            if header:
                return Weights(folder / TEXT, url, header, ranges)
        return Weights(folder / name, url, b"", [(0, int(response.headers["Content-Range"].rpartition("/")[2]))])
    raise FileNotFoundError(f"it has none of {', '.join(NAMES)}")


def select(header: dict[str, Any], start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The text encoder of a safetensors file: a header for it alone, and the byte ranges of its tensors.

    header: the file's own; start: where its tensors begin. Both empty if it holds no text encoder.
    """
    prefix = next((p for p in (prefix_of(header, anchor) for anchor in ANCHORS) if p is not None), None)
    if prefix is None:
        return b"", []
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if any(name.startswith("vision_model.") for name in tensors):  # else the file is a text encoder and its projection
        tensors = {name: entry for name, entry in tensors.items() if name.startswith(prefix)}
    own: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    ranges: list[tuple[int, int]] = []
    size = 0
    for name, entry in sorted(tensors.items(), key=lambda pair: pair[1]["data_offsets"]):
        begin, end = (start + offset for offset in entry["data_offsets"])
        own[name] = entry | {"data_offsets": [size, size + end - begin]}
        size += end - begin
        if ranges and ranges[-1][1] == begin:
            begin = ranges.pop()[0]
        ranges.append((begin, end))
    text = json.dumps(own, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text, ranges


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
                for first in range(begin + skip, end, BLOCK):
                    last = min(first + BLOCK, end)
                    counter.add(file.write(_content(_request(weights.url, first, last), last - first)))
                skip = max(0, skip - (end - begin))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def _request(url: str, begin: int, end: int) -> Any:
    """The server's response to a request for the bytes begin to end - 1."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{end - 1}"}
    return http_backoff("GET", url, headers=headers, timeout=TIMEOUT)


def _content(response: Any, size: int) -> bytes:
    hf_raise_for_status(response)
    if response.status_code != 206 or len(response.content) != size:
        raise OSError("the server does not return the part of the file that was asked for")
    return response.content
