"""Prompt syntax as ComfyUI reads it, and weights as arithmetic between encodings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tests import small
from tests.host import in_host
from trainer.models.student import Student
from trainer.models.tokenizer import folding
from zhclip.emphasis import weighted_spans
from zhclip.prompt import MAX_DEPTH, MAX_WEIGHT, PromptError, Span, cut, normalise, parse, render, sections
from zhclip.tokens import PromptTokenizer

SYNTAX = st.text(st.sampled_from("()()::1.35-e \\[]ab,"), max_size=24)
CAT, RED = "\u732b", "\u7ea2\u8272"


def tokens(window: int = 12, folding: dict[str, str] | None = None) -> PromptTokenizer:
    """The tests' tokenizer over windows of some length."""
    artifact = small.artifact(window=window, folding=folding or {})
    return PromptTokenizer.from_artifact(artifact)


def test_brackets_act_as_in_comfyui_for_any_ascii(tmp_path: Path) -> None:
    chance = Random(0)
    texts = ("".join(chance.choices("()()::1.35-e \\[]ab,", k=chance.randint(0, 24))) for _ in range(2000))
    prompts = list(map(normalise, texts))
    prompts += ["(a:nan)", "(a:inf)", "(a:1e400)", "(a:1_0)", "((((a))))", "(" * 50, ")" * 50 + "(a)", "(:1.2)", "()"]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    theirs = in_host("in_host.parse_weights", tmp_path / "prompts.json")
    ours = [[[span.text, repr(span.weight)] for span in parse(text)] for text in prompts]
    assert len(prompts) > 2000 and sum(len(spans) > 1 for spans in ours) > 200
    assert ours == theirs


def test_brackets_are_read_a_hundred_deep_and_no_deeper() -> None:
    (span,) = parse("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)
    assert span.text == "a" and span.weight > 1e4
    for depth in (MAX_DEPTH + 1, 3000):
        with pytest.raises(PromptError, match=str(MAX_DEPTH)):
            sections("(" * depth + "a" + ")" * depth)
    assert [span.text for span in parse("(" * 3000)] == ["(" * 3000]


def test_full_width_syntax_is_syntax() -> None:
    typed = "\u4e00\u53ea\uff08\u7ea2\u8272\uff1a\uff11\uff0e\uff13\uff09\u7684\u732b\uff0c\u8d70"
    assert sections(typed) == [[Span("\u4e00\u53ea", 1.0), Span(RED, 1.3), Span("\u7684\u732b,\u8d70", 1.0)]]


def test_break_parts_a_prompt_and_a_word_that_holds_it_does_not() -> None:
    assert sections("a BREAK (b:1.2)") == [[Span("a", 1.0)], [Span("b", 1.2)]]
    assert sections("(a BREAK b:1.2)") == [[Span("a", 1.2)], [Span("b", 1.2)]]
    assert sections(f"{CAT}BREAK{CAT}") == [[Span(CAT, 1.0)]] * 2
    assert sections("BREAKFAST, my_BREAK") == [[Span("BREAKFAST, my_BREAK", 1.0)]]
    assert sections(" BREAK ") == sections("") == [[]]


def test_square_brackets_wildcards_comments_and_choices_are_left_alone() -> None:
    text = "[a:b:0.5], __animal__, {x|y} /* z */ <lora:n:1>"
    assert sections(text) == [[Span(text, 1.0)]]
    assert sections(r"a \(b\) (c\):1.2)") == [[Span("a (b) ", 1.0), Span("c)", 1.2)]]


@given(SYNTAX)
@settings(deadline=None)
def test_rendered_spans_are_read_as_the_same_spans(text: str) -> None:
    (spans, *_) = sections(text)
    again = parse(render(spans))
    assert [(s.text, repr(s.weight)) for s in again] == [(s.text, repr(s.weight)) for s in spans]


def test_a_weight_of_1_changes_no_token() -> None:
    for plain, weighted in (("red cat", "red (cat:1)"), (f"{CAT}{RED}", f"({CAT}:1.0){RED}"), ("cats", "(c:1)ats")):
        assert tokens().weighted_windows(plain) == tokens().weighted_windows(weighted)
        assert [w.ids for w in tokens().weighted_windows(weighted)] == tokens().windows(plain)


@given(st.lists(st.tuples(st.sampled_from([CAT, "red", " ", ",", "dog "]), st.booleans()), max_size=40))
@settings(deadline=None)
def test_no_weighted_span_that_fits_a_window_is_cut(pieces: list[tuple[str, bool]]) -> None:
    # Weights that tell every span apart, so that neighbours are not one.
    spans = [Span(text, 1.5 + at if heavy else 1.0) for at, (text, heavy) in enumerate(pieces)]
    windows = tokens(9).weighted_windows(render(spans))
    seen: list[float] = []
    for window in windows:
        inside = {weight for weight in window.weights if weight != 1.0}
        assert not inside & set(seen)
        seen += inside
    assert all(len(w.ids) == len(w.weights) == 9 and w.weights[0] == w.weights[-1] == 1.0 for w in windows)


def test_a_token_over_two_spans_belongs_to_the_larger_part_else_to_the_weighted() -> None:
    made = tokens()
    vocabulary = [("<unk>", 0.0), ("abc", -1.0), ("de", -1.0), *((c, -9.0) for c in "abcde")]
    made.tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    assert made.weighted_windows("a(bc:1.3)(d:0.5)e")[0].weights[:4] == [1.0, 1.3, 0.5, 1.0]
    assert made.weighted_windows("ab(c:1.3)")[0].weights[:3] == [1.0, 1.0, 1.0]


def test_a_weighted_span_moves_to_the_next_window_and_one_that_is_too_long_is_cut() -> None:
    assert cut(list("abcdefgh"), 6, [False] * 4 + [True] * 3 + [False]) == [3, 8]
    assert cut(list("\u732b" * 12), 6, [False] + [True] * 11) == [6, 12]


def test_weighted_spans_are_neighbours_of_one_weight_and_absurd_weights_are_bounded() -> None:
    spans = [(range(1, 3), 1.2), (range(4, 5), 0.0), (range(5, 6), -1.0)]
    assert weighted_spans([1, 1.2, 1.2, 1, 0, -1, 1]) == spans
    assert weighted_spans([1, math.nan, 1]) == []
    assert weighted_spans([1.0, math.inf, 1e9, -math.inf]) == [(range(1, 3), MAX_WEIGHT), (range(3, 4), -MAX_WEIGHT)]


def test_a_weight_of_0_leaves_what_the_encoder_says_without_the_span() -> None:
    student = Student.from_artifact(small.artifact())
    ids = torch.tensor([student.tokens.weighted_windows("red cat")[0].ids])
    hidden_keys = torch.zeros_like(ids, dtype=torch.bool)
    hidden_keys[:, 1] = True
    without = student.encode_ids(ids, hidden_keys)[0][0]
    torch.testing.assert_close(student.encode_prompt("(red:0) cat"), without, atol=1e-4, rtol=0)
    assert (student.encode_prompt("red cat") - without).abs().max() > 0.1


def test_rare_characters_are_folded_and_known_ones_are_not() -> None:
    plain = tokens()
    table = folding(plain)
    book = "\u66f8"  # traditional, not in the tests' vocabulary; its simplified form is
    assert plain.ids(book) == [plain.special.unknown] and table[book] == "\u4e66" and len(table) > 20
    assert tokens(folding=table).ids(book) == plain.ids("\u4e66") != plain.ids(book)
    assert not any(plain.special.unknown in plain.ids(known) for known in table.values())


def test_what_became_unknown_is_told_once_and_in_order() -> None:
    for text, pieces in (("\U0001f6f8 cat (\u9f98:1.2) \U0001f6f8", ["\U0001f6f8", "\u9f98"]), ("red cat", [])):
        assert tokens().unknown_pieces(tokens().weighted_windows(text)) == pieces
