"""Downloading the text encoders of a model on the hub, without its other weights.

A safetensors file begins with a table of its tensors' byte ranges, so one tower of a two-tower model is a few ranges of
the file: 0.5 GB of CLIP-L's 1.7. They are written into the hub's cache, as a safetensors file beside the model's
configuration. If the server gives no ranges, or the weights are in another format, whole files are downloaded.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import hf_hub_url, snapshot_download
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from ..base.errors import one_line
from ..progress import Cancelled, Counter, Listener
from .load import HALF, TEXT, WEIGHTS, ModelError, Quiet, prefix_of, resolve, text_encoder_folders, weight_files

ANCHORS = ("embeddings.token_embedding.weight", "embeddings.word_embeddings.weight")  # CLIP's, a BERT's
BLOCK = 16_000_000  # bytes of one request
TIMEOUT = 30  # seconds without an answer
SIZES = ("X-Linked-Size", "Content-Length")  # a redirection to a file store names the file's size by the former


@dataclass(frozen=True)
class Weights:
    """A file of weights on the hub. `header` and `ranges`: the beginning of a safetensors file that holds the text
    encoder alone, and the byte ranges of the remote file that follow it. Without them the whole file is needed."""

    url: str
    whole: int  # bytes
    header: bytes = b""
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes to download."""
        return len(self.header) + sum(end - begin for begin, end in self.ranges) if self.header else self.whole


def text_weights(model: str, flag: str, progress: Listener | None = None, endpoint: str | None = None) -> Path:
    """A model's folder or file; of a hub id the folder in the hub's cache, with the weights of its text encoders.

    endpoint: address of the hub; None: huggingface_hub's own.

    An interrupted download continues from its last byte. Raises ModelError, and Cancelled by the listener.
    """
    folder = resolve(model, flag, endpoint=endpoint)
    for part in _missing(model, folder, flag):
        try:
            _download(model, folder, part, progress, endpoint)
        except Cancelled:
            raise
        except Exception as error:
            raise ModelError(
                f"--{flag} {model}: its weights cannot be downloaded ({one_line(error)}) Give the same command again, "
                "which continues the download, or download the model by hand and give its folder."
            ) from error
    return folder


def cached_weights(model: str, flag: str) -> Path | None:
    """What `text_weights` returns of a hub id if all of it is in the hub's cache, else None. Asks no server."""
    try:
        folder = Path(snapshot_download(model, local_files_only=True))
        has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
        return folder if has_tokenizer and not _missing(model, folder, flag) else None
    except (OSError, ValueError, ModelError):  # not in the cache; cut short
        return None


def missing_weights(model: str, flag: str, endpoint: str | None = None) -> dict[str, Weights]:
    """The files that `text_weights` would download, by folder of the repository. Raises ModelError."""
    folder = resolve(model, flag, endpoint=endpoint)
    parts = _missing(model, folder, flag)
    try:
        files = {part.relative_to(folder).as_posix(): _remote(model, folder, part, endpoint) for part in parts}
    except Exception as error:
        raise ModelError(f"--{flag} {model}: the hub does not say how large it is ({one_line(error)})") from error
    return {name: weights for name, weights in files.items() if weights}


def _missing(model: str, folder: Path, flag: str) -> list[Path]:
    """Folders of a model in the hub's cache that lack a text encoder's weights."""
    if folder.is_file() or Path(model).exists():
        return []
    # A file in half precision may be another program's, of a repository that has the whole one too; ours is TEXT.
    return [part for part in text_encoder_folders(folder, flag)[1] if weight_files(part) in ([], [part / HALF])]


def _download(model: str, folder: Path, part: Path, progress: Listener | None, endpoint: str | None) -> None:
    weights, stage = _remote(model, folder, part, endpoint), f"download {model}"
    if weights and weights.header:
        fetch(weights, part / TEXT, stage, progress)
    else:
        names = [weights.url.rpartition("/")[2]] if weights else WEIGHTS
        patterns = [(part.relative_to(folder) / name).as_posix() for name in names]
        counter = Counter(stage, 1, progress)
        bars = Quiet if progress else None
        snapshot_download(model, revision=folder.name, allow_patterns=patterns, endpoint=endpoint, tqdm_class=bars)
        counter.add()


def _remote(model: str, folder: Path, part: Path, endpoint: str | None) -> Weights | None:
    """The weights of a part of the snapshot in `folder`, which is named by its commit; None if they are in shards."""
    for name in ("model.safetensors", "pytorch_model.bin", HALF):
        url = hf_hub_url(model, (part.relative_to(folder) / name).as_posix(), revision=folder.name, endpoint=endpoint)
        answer = http_backoff("HEAD", url, headers=_headers(), timeout=TIMEOUT)
        if answer.status_code == 404:
            continue
        hf_raise_for_status(answer)
        heads = [answer, *answer.history]
        whole = int(next(head.headers[name] for name in SIZES for head in heads if name in head.headers))
        if url.endswith(".safetensors") and any(head.headers.get("Accept-Ranges") == "bytes" for head in heads):
            length = int.from_bytes(_read(url, 0, 8), "little")
            return Weights(url, whole, *select(json.loads(_read(url, 8, 8 + length)), 8 + length))
        return Weights(url, whole)
    return None


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


def fetch(weights: Weights, target: Path, stage: str, progress: Listener | None) -> None:
    """Download the ranges to `target`, through a .part file that an interrupted call leaves and the next continues."""
    partial = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
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
                    counter.add(file.write(_read(weights.url, start, min(start + BLOCK, end))))
                skip = max(0, skip - (end - begin))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def _read(url: str, begin: int, end: int) -> bytes:
    answer = http_backoff("GET", url, headers=_headers() | {"Range": f"bytes={begin}-{end - 1}"}, timeout=TIMEOUT)
    hf_raise_for_status(answer)
    if answer.status_code != 206 or len(answer.content) != end - begin:
        raise OSError("the server does not give the part of the file that was asked for.")
    return answer.content


def _headers() -> dict[str, str]:
    return build_hf_headers() | {"Accept-Encoding": "identity"}
