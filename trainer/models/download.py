"""Downloading the text encoders of a model on the hub, without its other weights.

A safetensors file begins with a table of its tensors' byte ranges, so a two-tower model without its vision tower is a
few ranges of the file: 0.5 GB of CLIP-L's 1.7. They are written into the hub's cache, as a safetensors file beside the
model's configuration. Weights in another format are downloaded whole, in the same blocks.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import HfHubHTTPError, build_hf_headers, hf_raise_for_status, http_backoff

from ..progress import Counter, Listener
from .load import HALF_WEIGHTS, TEXT_WEIGHTS, model_errors, resolve, text_encoder_folders, weight_files

BLOCK = 16_000_000  # bytes of one request
TIMEOUT = 30  # seconds without an answer
NAMES = ("model.safetensors", "pytorch_model.bin", HALF_WEIGHTS)  # of weights on the hub, in the order of preference
HINT = "give the same command again, which continues a download, or download it by hand and give its folder"


@dataclass(frozen=True)
class RemoteWeights:
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


def missing_weights(model: str, folder: Path, flag: str, endpoint: str | None = None) -> list[RemoteWeights]:
    """What `download_weights` downloads of a model whose folder is `resolve`'s. Raises ModelError."""
    if Path(model).exists():
        return []
    with model_errors(f"--{flag} {model}: its weights cannot be downloaded", HINT):
        encoders = text_encoder_folders(folder, flag)[1]
        return [remote_weights(model, folder, each, endpoint) for each in encoders if not weight_files(each)]


def remote_weights(model: str, snapshot: Path, folder: Path, endpoint: str | None) -> RemoteWeights:
    """The weights that the hub has for a folder of the snapshot, whose name is the commit's. Raises OSError."""
    for name in NAMES:
        path = (folder / name).relative_to(snapshot).as_posix()
        url = hf_hub_url(model, path, revision=snapshot.name, endpoint=endpoint)
        try:
            start, size = fetch(url, 0, 8)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            continue
        if not name.endswith(".safetensors"):
            return RemoteWeights(folder / name, url, b"", [(0, size)])
        begin = 8 + int.from_bytes(start, "little")  # of the tensors
        header, ranges = without_vision(json.loads(fetch(url, 8, begin)[0]), begin)
        return RemoteWeights(folder / TEXT_WEIGHTS, url, header, ranges)
    raise FileNotFoundError(f"it has none of {', '.join(NAMES)}")


def without_vision(header: dict[str, Any], start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """A safetensors file without its vision tower: its first bytes, and its tensors' byte ranges in the whole file.

    header: of the whole file; start: where its tensors begin.
    """
    tensors = {name: entry for name, entry in header.items() if not name.startswith(("vision_model.", "__metadata__"))}
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


def download(weights: RemoteWeights, stage: str, progress: Listener | None) -> None:
    """Write the target, through a .part file that an interrupted call leaves and the next one continues."""
    target = weights.target
    partial = target.with_name(f"{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process has downloaded it
            return
        with partial.open("ab") as file:
            if file.tell() < len(weights.header):
                file.truncate(0)
                file.write(weights.header)
            counter = Counter(stage, weights.size, progress, file.tell())
            skip = file.tell() - len(weights.header)
            for begin, end in weights.ranges:
                for first in range(begin + skip, end, BLOCK):
                    counter.add(file.write(fetch(weights.url, first, min(first + BLOCK, end))[0]))
                skip = max(0, skip - (end - begin))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def fetch(url: str, begin: int, end: int) -> tuple[bytes, int]:
    """The bytes begin to end - 1 of a file, and the file's size. Raises OSError."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{end - 1}"}
    response = http_backoff("GET", url, headers=headers, timeout=TIMEOUT)
    hf_raise_for_status(response)
    if response.status_code != 206 or len(response.content) != end - begin:
        raise OSError("the server does not return the part of the file that was asked for")
    return response.content, int(response.headers["Content-Range"].rpartition("/")[2])
