"""POST /zhclip/count: how many tokens a prompt takes and how it is split by language.

web/zhclip.js shows the answer under the prompt box while the user types. Only the file's header and tokenizer are read,
in a thread of its own, so that neither the queue nor the server waits.
"""

from __future__ import annotations

import asyncio
import functools
from math import isfinite
from typing import Any

import folder_paths

from ..zhclip.artifact import read_tokenizer
from ..zhclip.io import ArtifactError
from .common import FOLDER, file_stamp, prompt_server

BODY_LIMIT = 300_000  # bytes: as many characters, each as two JSON escapes of six bytes


class RequestError(ValueError):
    """A request that cannot be answered; its message is sent to the client."""


def register() -> None:
    """Add the route to the running server, if there is one."""
    instance = prompt_server()
    if instance is None:
        return
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(count, await read_json(request)))
        except (RequestError, ArtifactError) as error:
            return web.json_response({"error": str(error)}, status=400)

    instance.routes.post("/zhclip/count")(answer)


async def read_json(request: Any) -> Any:
    """The JSON of a request's body. Raises RequestError.

    The content type is checked because a page of another site may send text/plain without asking this server first.
    """
    if request.content_type != "application/json":
        raise RequestError(f"The body is {request.content_type[:80]}: send application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RequestError("The body is compressed: send it uncompressed.")
    if request.content_length is None or request.content_length > BODY_LIMIT:
        raise RequestError(f"The body has more than {BODY_LIMIT} bytes, or does not say how many.")
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError) as error:  # not JSON, an unknown charset, too deeply nested
        raise RequestError("The body is not JSON.") from error


def count(body: Any) -> dict[str, Any]:
    """{file, text, bilingual} -> {windows, capacity, unknown, spans}.

    `bilingual` says whether a second CLIP reads the English. `windows` holds the number of tokens between start and end
    of each window that the encoder reads, and `capacity` the most that one holds; `unknown` the pieces of the text that
    are not in the vocabulary; `spans` the whole prompt in order as {text, language, weight}, the language "zh", "en" or
    "break", the weight null where it is not finite. Raises RequestError or ArtifactError.
    """
    # Imported here, so that ComfyUI's start does not wait for them.
    from ..zhclip import languages
    from ..zhclip.prompt import PromptError

    file, text, bilingual = check_body(body)
    path = folder_paths.get_full_path(FOLDER, file) if file in folder_paths.get_filename_list(FOLDER) else None
    if path is None:
        raise RequestError(f"There is no file {file[:80]} in models/{FOLDER}.")
    try:
        tokenizer = load_tokenizer(path, file_stamp(path))
    except OSError as error:
        raise RequestError(f"The file {file} in models/{FOLDER} cannot be read ({error.strerror}).") from error
    try:
        spans = languages.spans(text, bilingual)
        segments = languages.route(text) if bilingual else [languages.Segment("zh", text)]
        prompts = [segment.prompt for segment in segments if segment.language == "zh"]
        windows = [window for prompt in prompts for window in tokenizer.weighted_windows(prompt)]
    except PromptError as error:
        raise RequestError(str(error)) from error
    return {
        "windows": [window.ids.index(tokenizer.special.end) - 1 for window in windows],
        "capacity": tokenizer.window - 2,
        "unknown": tokenizer.unknown_pieces(windows),
        "spans": [
            {"text": span.text, "language": span.language, "weight": span.weight if isfinite(span.weight) else None}
            for span in spans
        ],
    }


def check_body(body: Any) -> tuple[str, str, bool]:
    """file, text and bilingual of a request. Raises RequestError."""
    if not isinstance(body, dict):
        raise RequestError("The body is not a JSON object with file, text and bilingual.")
    file, text, bilingual = body.get("file"), body.get("text"), body.get("bilingual", False)
    if not (isinstance(file, str) and isinstance(text, str) and isinstance(bilingual, bool)):
        raise RequestError("file and text must be strings and bilingual true or false.")
    return file, text, bilingual


@functools.lru_cache(maxsize=4)
def load_tokenizer(path: str, _stamp: str) -> Any:
    """The tokenizer of an encoder's file. Raises ArtifactError or OSError."""
    from ..zhclip.tokens import PromptTokenizer

    return PromptTokenizer.from_meta(*read_tokenizer(path), path)
