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
from .common import FOLDER, file_stamp, prompt_server
from .messages import message

BODY_LIMIT = 300_000  # bytes: as many characters, each as two JSON escapes of six bytes


def register() -> None:
    """Add the route to the running server, if there is one."""
    instance = prompt_server()
    if instance is None:
        return
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(count, *await read_question(request)))
        except (ValueError, OSError) as error:  # of the request, the prompt or the file
            return web.json_response({"error": str(error)}, status=400)

    instance.routes.post("/zhclip/count")(answer)


async def read_question(request: Any) -> tuple[str, str, bool]:
    """file, text and bilingual of a request. Raises ValueError."""
    if (
        request.content_type != "application/json"  # a page of another site may send text/plain without asking first
        or "Content-Encoding" in request.headers  # a compressed body can be thousands of times as long
        or request.content_length is None
        or request.content_length > BODY_LIMIT
    ):
        raise ValueError(message("question", limit=BODY_LIMIT))
    try:
        body = await request.json()
        file, text, bilingual = body["file"], body["text"], body.get("bilingual", False)
    except (ValueError, LookupError, TypeError, RecursionError) as error:  # LookupError: of an unknown charset too
        raise ValueError(message("question", limit=BODY_LIMIT)) from error
    if not (isinstance(file, str) and isinstance(text, str) and isinstance(bilingual, bool)):
        raise ValueError(message("question", limit=BODY_LIMIT))
    return file, text, bilingual


def count(file: str, text: str, bilingual: bool) -> dict[str, Any]:
    """How a prompt is read -> {windows, capacity, unknown, spans}.

    `bilingual` says whether a second CLIP reads the English. `windows` holds the number of tokens between start and end
    of each window that the encoder reads, and `capacity` the most that one holds; `unknown` the pieces of the text that
    are not in the vocabulary; `spans` the whole prompt in order as {text, language, weight}, the language "zh", "en" or
    "break", the weight null where it is not finite. Raises ValueError, or OSError for an unreadable file.
    """
    from ..zhclip import languages  # imported here, so that ComfyUI's start does not wait for it

    path = folder_paths.get_full_path(FOLDER, file) if file in folder_paths.get_filename_list(FOLDER) else None
    if path is None:
        raise ValueError(message("no_file_to_count", file=file[:80], folder=FOLDER))
    tokenizer = load_tokenizer(path, file_stamp(path))
    spans = languages.spans(text, bilingual)
    segments = languages.route(text) if bilingual else [languages.Segment("zh", text)]
    prompts = [segment.prompt for segment in segments if segment.language == "zh"]
    windows = [window for prompt in prompts for window in tokenizer.weighted_windows(prompt)]
    return {
        "windows": [len(window.pieces) for window in windows],
        "capacity": tokenizer.window - 2,
        "unknown": tokenizer.unknown_pieces(windows),
        "spans": [
            {"text": span.text, "language": span.language, "weight": span.weight if isfinite(span.weight) else None}
            for span in spans
        ],
    }


@functools.lru_cache(maxsize=4)
def load_tokenizer(path: str, _stamp: str) -> Any:
    """The tokenizer of an encoder's file. Raises ArtifactError or OSError."""
    from ..zhclip.tokens import PromptTokenizer

    return PromptTokenizer.from_meta(*read_tokenizer(path), path)
