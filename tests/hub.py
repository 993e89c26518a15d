"""A stand-in of a model hub: the few addresses that huggingface_hub asks for, over folders of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

NOBODY = "http://127.0.0.1:9"  # an endpoint that no server listens to
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_stand_in"
PIECE = 1 << 16
Answer = tuple[int, dict[str, Any]]


def settings(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a process that asks the stand-in, and keeps what it brings in `home`. XET is off."""
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def serve(folder: Path, ranges: bool = True, sent: list[int] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve folder/OWNER/NAME as models, and as datasets. Gives the endpoint and the list of paths that were asked for.

    With TOKEN repositories can be made and written to. `ranges`: whether parts of a file are given when asked for.
    `sent` takes the bytes of each answer's body, as they go out.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            path, body = unquote(self.path.partition("?")[0]), self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(path)
            status, content = 401, {"error": "Invalid username or password."}
            if self.headers["Authorization"] == f"Bearer {TOKEN}":
                status, content = post(folder, f"http://{self.headers['Host']}", path, body)
            self.send(status, json.dumps(content).encode(), True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            parts = path.removeprefix("/datasets").strip("/").split("/")
            if parts[:2] in (["api", "models"], ["api", "datasets"]):
                content = describe(folder, "/".join(parts[2:4]), tree="tree" in parts)
            elif len(parts) > 4 and parts[2] == "resolve":
                file = folder / parts[0] / parts[1] / "/".join(parts[4:])
                content = file.read_bytes() if file.is_file() else None
            elif path == "/api/whoami-v2" and self.headers["Authorization"] == f"Bearer {TOKEN}":
                content = b'{"name": "someone", "type": "user"}'
            else:
                content = None
            asked_range = self.headers["Range"] if ranges and content is not None else None
            if asked_range:
                begin, end = (int(number) for number in asked_range.removeprefix("bytes=").split("-"))
                where = {"Content-Range": f"bytes {begin}-{end}/{len(content or b'')}"}
                self.send(206, (content or b"")[begin : end + 1], body, where)
            else:
                self.send(200 if content is not None else 404, content if content is not None else b"{}", body)

        def send(self, status: int, content: bytes, body: bool, more: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            if ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            with suppress(ConnectionError):  # a client may have read enough, or have been killed
                for piece in range(0, len(content) if body else 0, PIECE):
                    self.wfile.write(content[piece : piece + PIECE])
                    if sent is not None:
                        sent.append(len(content[piece : piece + PIECE]))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def describe(folder: Path, model: str, tree: bool) -> bytes | None:
    """The hub's answer about a model or its files, or None when there is none."""
    root = folder / model
    if not root.is_dir():
        return None
    files = sorted((p for p in root.rglob("*") if p.is_file()), key=str)
    names = [p.relative_to(root).as_posix() for p in files]
    if tree:
        entries = [
            {"type": "file", "path": name, "size": p.stat().st_size, "oid": COMMIT} for name, p in zip(names, files)
        ]
        return json.dumps(entries).encode()
    answer = {"id": model, "modelId": model, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
    return json.dumps(answer | {"siblings": [{"rfilename": name} for name in names]}).encode()


def post(folder: Path, endpoint: str, path: str, body: bytes) -> Answer:
    """The hub's answer to a POST: a new repository, a verdict on a card, how files are sent, a commit."""
    if path == "/api/repos/create":
        asked = json.loads(body)
        model = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        exists = (folder / model).exists()
        (folder / model).mkdir(parents=True, exist_ok=True)
        return 409 if exists else 200, {"url": f"{endpoint}/{model}", "error": "You already created this model repo"}
    if path == "/api/validate-yaml":
        return verdict(json.loads(body)["content"])
    parts = path.strip("/").split("/")
    if parts[4] == "preupload":
        modes = {"uploadMode": "regular", "shouldIgnore": False}
        return 200, {"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]}
    assert parts[4] == "commit", path
    for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
            file = folder / parts[2] / parts[3] / line["value"]["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(base64.b64decode(line["value"]["content"]))
    return 200, {"commitUrl": f"{endpoint}/{parts[2]}/{parts[3]}/commit/{COMMIT}", "commitOid": COMMIT}


def verdict(card: str) -> Answer:
    """The hub's opinion of a card's metadata: two of its rules."""
    found = yaml.safe_load(card.split("---")[1])
    wrong = [name for name in ("license", "language") if not found.get(name)]
    return (400 if wrong else 200), {"errors": [{"message": f'"{name}" is required'} for name in wrong], "warnings": []}
