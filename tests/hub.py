"""A stand-in of a model hub: the few addresses that huggingface_hub asks for, over folders of this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve folder/OWNER/NAME as models. Gives the endpoint and the list of paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                content = describe(folder, "/".join(parts[2:4]), tree="tree" in parts)
            elif len(parts) > 4 and parts[2] == "resolve":
                file = folder / parts[0] / parts[1] / "/".join(parts[4:])
                content = file.read_bytes() if file.is_file() else None
            else:
                content = None
            self.send_response(200 if content is not None else 404)
            content = content if content is not None else b"{}"
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if body:
                self.wfile.write(content)

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
