"""2,000 prompts that no one would type, and some that someone did, through parser, tokenizer, encoder and node."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests import small
from tests.host import ROOT, in_host
from trainer.encoders.student import Student
from zhclip.emphasis import runs
from zhclip.languages import route, spans
from zhclip.prompt import normalise, parse

COUNT = 2000
ODD: list[str] = json.loads((ROOT / "tests" / "data" / "odd.json").read_text(encoding="utf-8"))
WORDS = st.sampled_from(
    [*ODD, "(", ")", ":1.3)", "\uff1a", "\uff08", " ", ",", "BREAK", "red", "\u732b", "\\(", "embedding:x"]
)
PROMPT = st.one_of(
    st.lists(WORDS, max_size=6).map("".join), st.text(max_size=120), st.text("(): 1.3ab\u732b,\\", max_size=40)
)


def prompts() -> list[str]:
    """The odd ones, and as many from hypothesis as make COUNT, the same in every run."""
    found: dict[str, None] = dict.fromkeys(ODD)

    @seed(0)
    @settings(
        max_examples=2 * COUNT,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(PROMPT)
    def collect(text: str) -> None:
        found[text[:300]] = None  # the long ones are among the odd ones

    collect()
    return list(found)[:COUNT]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """What every test here reads."""
    made = prompts()
    assert len(made) == COUNT
    return made


def test_parser_languages_and_tokenizer_read_any_text(texts: list[str]) -> None:
    student = Student.from_artifact(small.artifact())
    began = time.monotonic()
    for text in texts:
        plain = "".join(span.text for span in parse(normalise(text)))
        assert "".join(span.text for span in spans(text)) == plain
        assert {segment.language for segment in route(text)} <= {"zh", "en"}
        for window in student.tokens.weighted_windows(text):
            end = window.ids.index(student.tokens.special.end)
            assert len(window.ids) == len(window.weights) == 77 and window.ids[0] == student.tokens.special.start
            assert set(window.ids[end + 1 :]) <= {student.tokens.special.pad}
            assert not runs([window.weights[0], *window.weights[end:]])
    print(f"{len(texts)} prompts parsed and tokenised in {time.monotonic() - began:.1f} s")


def test_encoder_and_node_answer_any_text_alike_and_finitely(texts: list[str], tmp_path: Path) -> None:
    path = small.saved(tmp_path / "encoder.safetensors")
    (tmp_path / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    began = time.monotonic()
    in_host(
        ROOT / "tests" / "fuzz_in_host.py", path, tmp_path / "prompts.json", tmp_path / "out.safetensors", timeout=900
    )
    node_s, began = time.monotonic() - began, time.monotonic()
    # In double precision, so that the difference is the node's own rounding and not that of two.
    found, student = load_file(tmp_path / "out.safetensors"), Student.from_artifact(small.artifact()).double()
    two, worst = 0, 0.0
    for at, text in enumerate(texts):
        mine, zh, both = student.encode_prompt(text), found[f"zh.{at}"], found[f"both.{at}"]
        assert zh.shape == mine.shape == (77 * len(student.tokens.weighted_windows(text)), 768), ascii(text)
        # Absurd weights, up to 100, magnify what two implementations differ by.
        bound = 1e-4 * max(1.0, float(mine.norm(dim=-1).max()) / 30)
        share = float((zh - mine).abs().max()) / bound
        assert torch.isfinite(zh).all() and share <= 1, ascii(text)
        worst = max(worst, share)
        assert torch.isfinite(both).all() and both.shape[0] % 77 == 0 and both.shape[0] > 0 and both.shape[1] == 768
        two += both.shape[0] > zh.shape[0]
    trainer_s = time.monotonic() - began
    print(f"{len(texts)} prompts: node, both ways, {node_s:.1f} s; trainer {trainer_s:.1f} s; worst {worst:.2f}")
    assert two > 100  # prompts that went to both encoders
