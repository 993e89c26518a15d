"""The route that counts a prompt's tokens while the user types, on the real server."""

from __future__ import annotations

import gzip
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import graphs, small
from tests.host import Host
from zhclip.tokens import PromptTokenizer

CHINESE = json.loads((Path(__file__).resolve().parent / "data" / "count.json").read_text(encoding="utf-8"))


def asked(host: Host, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to a body with these headers; `_` in their names is `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(host.url("/zhclip/count"), body, {"Content-Type": "application/json"} | named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def counted(host: Host, text: str, bilingual: bool = False, file: str = graphs.ENCODER) -> dict[str, Any]:
    """The answer to a question that must be answered."""
    status, answer = asked(host, json.dumps({"file": file, "text": text, "bilingual": bilingual}).encode())
    assert status == 200, answer
    return answer


@pytest.mark.parametrize("text", ["", *small.prompts()[:40:5]])
def test_the_windows_are_those_that_the_encoder_reads(host: Host, text: str) -> None:
    answer = counted(host, text)
    artifact = small.artifact()
    tokenizer = PromptTokenizer.from_artifact(artifact)
    windows = tokenizer.weighted_windows(text)
    assert answer["windows"] == [window.ids.index(artifact.meta.special_ids.end) - 1 for window in windows]
    assert answer["unknown"] == tokenizer.unknown_pieces(tokenizer.weighted_windows(text))
    assert answer["capacity"] == 75 and max(answer["windows"]) <= 75


def test_spans_say_weight_language_and_break(host: Host) -> None:
    answer = counted(host, CHINESE["weighted"])
    assert answer["spans"] == CHINESE["weighted_spans"] and len(answer["windows"]) == 2
    weights = [span["weight"] for span in counted(host, "(red:inf) cat (dog:nan)")["spans"]]
    assert weights == [None, 1.0, None], "JSON has neither"


def test_with_a_second_clip_the_english_costs_the_encoder_nothing(host: Host) -> None:
    both, alone = counted(host, CHINESE["mixed"], bilingual=True), counted(host, CHINESE["mixed"])
    assert both["spans"] == CHINESE["mixed_spans"] and {span["language"] for span in alone["spans"]} == {"zh"}
    assert both["windows"] == counted(host, CHINESE["mixed_zh"])["windows"] < alone["windows"]
    assert counted(host, "best quality, masterpiece", bilingual=True)["windows"] == []


def test_a_file_trained_again_is_read_again(host: Host) -> None:
    path = small.saved(host.encoders / "counted.safetensors")
    first = counted(host, "cat", file=path.name)
    small.saved(path, window=20, teacher_width=384)  # another size of file as well as another window
    second = counted(host, "cat", file=path.name)
    path.unlink()
    assert (first["capacity"], second["capacity"]) == (75, 18)


def body(**values: Any) -> bytes:
    return json.dumps({"file": graphs.ENCODER, "text": "cat", "bilingual": False} | values).encode()


OUTSIDE = [f"../text_encoders/{graphs.ENCODER}", os.path.abspath(__file__)]


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", {}),
        (b'{"file": "\xff"}', {}),
        (b"[1]", {}),
        (b'{"file": "encoder.safetensors"}', {}),
        (body(text=["cat"]), {}),
        (body(bilingual="yes"), {}),
        (body(text="x" * 20_001), {}),
        (body(text="(" * 200 + ")" * 200), {}),
        *((body(file=path), {}) for path in ["gone.safetensors", *OUTSIDE]),
        (body(), {"Content_Type": "text/plain"}),
        (body(), {"Content_Type": "application/json; charset=nope"}),
        (gzip.compress(bytes(1 << 20), mtime=0), {"Content_Encoding": "gzip"}),
        (b'"' + b"x" * 400_000 + b'"', {}),
        (b"[" * 100_000, {}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_question_gets_a_sentence(host: Host, content: bytes, headers: dict[str, str]) -> None:
    status, answer = asked(host, content, **headers)
    assert status == 400 and answer["error"].endswith(".") and "\n" not in answer["error"], (status, answer)


def test_a_damaged_file_is_refused_by_the_sentence_that_the_loader_has(host: Host) -> None:
    path = small.saved(host.encoders / "half.safetensors")  # as a download that stopped
    os.truncate(path, path.stat().st_size // 2)
    status, answer = asked(host, json.dumps({"file": path.name, "text": "cat"}).encode())
    path.unlink()
    assert status == 400 and str(path) in answer["error"]
