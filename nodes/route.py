"""POST /zhclip/count: what a prompt costs and how it is read, answered from the encoder's tokenizer alone.

web/zhclip.js shows the answer under the prompt box while the user types. Nothing of the encoder but its tokenizer is
read, and in a thread, so that neither a queue nor the server waits for it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from math import isfinite
from typing import Any

import folder_paths

from ..zhclip.artifact import ArtifactError, meta_of, opened
from .files import FOLDER, stamp

BODY_LIMIT = 300_000  # bytes: TEXT_LIMIT characters, each as two escapes of six
TEXT_LIMIT = 20_000  # characters: some 250 windows, more than anybody waits for


class RefusedError(ValueError):
    """A question that cannot be answered; its message is what the client shows."""


def register() -> None:
    """Add the route to the running server, if there is one.

    The module is looked up and not imported: in a process that is not a server (comfy-cli's, a test's) importing it
    would take a second and serve nobody.
    """
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is None:
        return
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(count, await _read(request)))
        except (RefusedError, ArtifactError) as error:
            return web.json_response({"error": str(error)}, status=400)

    instance.routes.post("/zhclip/count")(answer)


async def _read(request: Any) -> Any:
    """The JSON of a request's body. Raises RefusedError.

    A page of another site may send text/plain without asking the server first, and JSON not.
    """
    if request.content_type != "application/json":
        raise RefusedError(f"The body is {request.content_type[:80]}: send application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RefusedError("The body is compressed: send it as it is.")
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise RefusedError(f"The body has more than {BODY_LIMIT} bytes.")
        return json.loads(body.decode(request.charset or "utf-8"))
    except RefusedError:
        raise
    except (ValueError, LookupError, RecursionError) as error:  # no JSON, an unknown charset, absurd nesting
        raise RefusedError("The body is not JSON.") from error


def count(body: Any) -> dict[str, Any]:
    """{file, text, bilingual} -> {windows, room, unknown, spans}.

    `bilingual` says whether a second CLIP reads the English. `windows` holds the number of tokens between start and end
    of each window that the encoder reads, and `room` how many fit in one; `unknown` the pieces of its text that its
    vocabulary lacks; `spans` the whole prompt in order as {text, language, weight}, the language "zh", "en" or "break"
    and the weight null where it is no finite number. Raises RefusedError or ArtifactError.
    """
    # Here and not above, as below: what a start of ComfyUI need not wait for.
    from ..zhclip import languages

    file, text, bilingual = _checked(body)
    path = folder_paths.get_full_path(FOLDER, file) if file in folder_paths.get_filename_list(FOLDER) else None
    if path is None:
        raise RefusedError(f"There is no file {file[:80]} in models/{FOLDER}.")
    try:
        tokenizer = _tokenizer(path, stamp(path))
    except OSError as error:
        raise RefusedError(f"The file {file} in models/{FOLDER} cannot be read ({error.strerror}).") from error
    segments, spans = languages.read(text, bilingual)
    own = [segment.prompt for segment in segments if segment.language == "zh"]
    windows = [window for prompt in own for window in tokenizer.weighted_windows(prompt)]
    return {
        "windows": [window.ids.index(tokenizer.special.end) - 1 for window in windows],
        "room": tokenizer.window - 2,
        "unknown": tokenizer.unknown_in(windows),
        "spans": [
            {"text": span.text, "language": span.language, "weight": span.weight if isfinite(span.weight) else None}
            for span in spans
        ],
    }


def _checked(body: Any) -> tuple[str, str, bool]:
    if not isinstance(body, dict):
        raise RefusedError("The body is not a JSON object with file, text and bilingual.")
    file, text, bilingual = body.get("file"), body.get("text"), body.get("bilingual", False)
    if not (isinstance(file, str) and isinstance(text, str) and isinstance(bilingual, bool)):
        raise RefusedError("file and text must be strings and bilingual true or false.")
    if len(text) > TEXT_LIMIT:
        raise RefusedError(f"The text has {len(text)} characters; {TEXT_LIMIT} are counted at most.")
    return file, text, bilingual


@functools.lru_cache(maxsize=4)
def _tokenizer(path: str, _stamp: str) -> Any:
    from ..zhclip.tokens import PromptTokenizer

    with opened(path) as file:
        meta = meta_of(file)
        if "tokenizer_json" not in file.entries:
            raise ArtifactError(path, "no tensor tokenizer_json", "a tokenizer", "Export it again.")
        tokenizer_json = file.read("tokenizer_json").numpy().tobytes()
    return PromptTokenizer.under(meta, tokenizer_json, path)
