"""Prompts that no one would type, and some that someone did, through parser, tokenizer, encoder and node."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import small
from tests.host import ROOT, in_host
from trainer.encoders.student import Student
from zhclip.emphasis import runs
from zhclip.languages import route, spans
from zhclip.prompt import normalise, parse
from zhclip.tokens import Window

ODD: list[str] = json.loads((ROOT / "tests" / "data" / "odd.json").read_text(encoding="utf-8"))
WORDS = [*ODD, "(", ")", ":1.3)", "\uff1a", "\uff08", " ", ",", "BREAK", "red", "\u732b", "\\(", "embedding:x"]
SYNTAX = "(): 1.3ab\u732b,\\"
PLANES = (0x250, 0x3100, 0x10000, 0x110000)  # characters below: Latin, all without ideographs, the first plane, all
ROUNDING = 1e-5  # of one encoding in fp32, whose vectors have norms of 27 to 29: four times the largest seen


def prompts(count: int) -> list[str]:
    """The odd ones, and random ones that make `count`. The same in every run and every Python, so not by hypothesis,
    whose draws for one seed differ between versions."""
    chance = random.Random(0)
    found: dict[str, None] = dict.fromkeys(ODD)
    while len(found) < count:
        kind = chance.randrange(3)
        if kind == 0:
            text = "".join(chance.choices(WORDS, k=chance.randint(1, 6)))[:300]  # the long ones are among the odd ones
        elif kind == 1:
            text = "".join(map(chr, chance.choices(range(chance.choice(PLANES)), k=chance.randint(1, 120))))
        else:
            text = "".join(chance.choices(SYNTAX, k=chance.randint(1, 40)))
        found[text] = None
    return list(found)


@pytest.fixture(scope="module", params=[200, pytest.param(2000, marks=pytest.mark.slow)])
def texts(request: pytest.FixtureRequest) -> list[str]:
    """What every test here reads."""
    return prompts(request.param)


def test_parser_languages_and_tokenizer_read_any_text(texts: list[str]) -> None:
    student = Student.from_artifact(small.artifact())
    for text in texts:
        plain = "".join(span.text for span in parse(normalise(text)))
        assert "".join(span.text for span in spans(text)) == plain
        assert {segment.language for segment in route(text)} <= {"zh", "en"}
        for window in student.tokens.weighted_windows(text):
            end = window.ids.index(student.tokens.special.end)
            assert len(window.ids) == len(window.weights) == 77 and window.ids[0] == student.tokens.special.start
            assert set(window.ids[end + 1 :]) <= {student.tokens.special.pad}
            assert not runs([window.weights[0], *window.weights[end:]])


def magnified(window: Window) -> float:
    """By how much the weights of a window magnify what an encoding is off by: each span adds (w - 1) times the
    difference of two encodings, however much of it cancels in the sum."""
    return 1 + sum(2 * abs(run.weight - 1) for run in runs(window.weights))


def test_encoder_and_node_answer_any_text_alike_and_finitely(texts: list[str], tmp_path: Path) -> None:
    path = small.saved(tmp_path / "encoder.safetensors")
    (tmp_path / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    in_host(
        ROOT / "tests" / "fuzz_in_host.py", path, tmp_path / "prompts.json", tmp_path / "out.safetensors", timeout=900
    )
    # In double precision, so that the difference is the node's own rounding and not that of two.
    found, student = load_file(tmp_path / "out.safetensors"), Student.from_artifact(small.artifact()).double()
    two, worst = 0, 0.0
    for at, text in enumerate(texts):
        windows = student.tokens.weighted_windows(text)
        mine, zh, both = student.encode_prompt(text), found[f"zh.{at}"], found[f"both.{at}"]
        assert zh.shape == mine.shape == (77 * len(windows), 768), ascii(text)
        assert torch.isfinite(zh).all(), ascii(text)
        off = (zh - mine).abs().reshape(len(windows), -1).amax(dim=1)
        share = max(float(each) / (ROUNDING * magnified(window)) for each, window in zip(off, windows))
        assert share <= 1, ascii(text)
        worst = max(worst, share)
        assert torch.isfinite(both).all() and both.shape[0] % 77 == 0 and both.shape[0] > 0 and both.shape[1] == 768
        two += both.shape[0] > zh.shape[0]
    print(f"{len(texts)} prompts: worst {worst:.2f} of the bound, {two} by both encoders")
    assert two > len(texts) // 20  # prompts that went to both encoders
