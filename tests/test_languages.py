"""Which encoder reads what: the hand-written expectations of tests/data/mixed.json, and what holds for any text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import small
from zhclip.languages import LanguageSpan, Segment, route, spans
from zhclip.prompt import Span, normalise, parse, sections

MIXED: list[dict[str, Any]] = json.loads((small.DATA / "mixed.json").read_text(encoding="utf-8"))
# Any text, with what carries meaning here more often than chance would have it.
MARKS = [*" a1,.():\\_<>\"'\n", *"\u732b\u72d7\u304b\u0436\U0001f431\uff0c\uff08", "a_b", "ab", " cd ", "BREAK"]
MARKS += ["embedding:", " embedding:", "__c__", "<lora:x:1>", "(\u732b ab cd:1.2)", "(", ")"]
TEXT = st.lists(st.one_of(st.sampled_from(MARKS), st.sampled_from(MARKS), st.characters()), max_size=40).map("".join)


@pytest.mark.parametrize("case", MIXED, ids=range(len(MIXED)))
def test_a_mixed_prompt_is_divided_as_a_person_divided_it(case: dict[str, Any]) -> None:
    expected = [LanguageSpan(text, language, *(weight or [1.0])) for language, text, *weight in case["spans"]]
    assert spans(case["prompt"]) == expected
    if "segments" in case:
        assert route(case["prompt"]) == [Segment(*segment) for segment in case["segments"]]


CHINESE = ["", " ", "\n", "\uff0c", "1", "\U0001f431", "\u732b", "\uff08\u732b\uff1a1.2\uff09 BREAK \u72d7T"]
ENGLISH = ["masterpiece", "(best quality:1.2),\n1girl,embedding:bad", "fate \\(series\\)", "a  b, "]


@pytest.mark.parametrize(("language", "texts"), [("zh", CHINESE), ("en", ENGLISH)])
def test_an_encoder_reads_a_prompt_of_its_own_language_as_typed(language: str, texts: list[str]) -> None:
    for text in texts:
        assert route(text) == [Segment(language, text)]


def test_clip_gets_english_with_break_or_full_width_syntax_in_a_form_that_it_knows() -> None:
    assert route("a cat BREAK (a dog:1.2)") == [Segment("en", "a cat"), Segment("en", "(a dog:1.2)")]
    assert route("\uff08best quality\uff1a1.2\uff09\uff0csolo") == [Segment("en", "(best quality:1.2),solo")]


@given(TEXT)
@settings(deadline=None, max_examples=400)
def test_the_spans_joined_are_the_plain_text(text: str) -> None:
    plain = "".join(span.text for span in parse(normalise(text)))
    assert "".join(span.text for span in spans(text)) == plain
    alone = spans(text, bilingual=False)
    assert "".join(span.text for span in alone) == plain and {span.language for span in alone} <= {"zh", "break"}


def letters(found: Iterable[Span | LanguageSpan]) -> list[tuple[str, float]]:
    """Each character in order with its weight, without those that may be put or taken where texts are joined."""
    return [(c, span.weight) for span in found for c in span.text if c not in " ,;:"]


@given(TEXT)
@example("\u732b\\ ab cd (\u72d7:1.2)")
@example("\u732bBREAK__c__ __c__BREAK\u732b")
@settings(deadline=None, max_examples=800)
def test_nothing_is_lost_doubled_moved_or_weighted_otherwise_on_the_way_to_an_encoder(text: str) -> None:
    segments, divided = route(text), spans(text)
    assert segments
    for language in ("zh", "en"):
        prompts = [segment.prompt for segment in segments if segment.language == language]
        read = [span for prompt in prompts for section in sections(prompt) for span in section]
        due = [span for span in divided if span.language == language]
        assert letters(read) == letters(due)


@given(TEXT)
@settings(deadline=None, max_examples=400)
def test_clip_never_gets_other_letters_but_in_names(text: str) -> None:
    for mark in ("embedding:", "<", "_"):
        text = text.replace(mark, "")
    for span in spans(text):
        if span.language == "en":
            # Symbols of these blocks, such as the strokes at U+31C0, are no letters.
            letters_only = [c for c in span.text if c.isalpha()]
            assert not any("\u3040" <= c <= "\u9fff" or "\u0430" <= c <= "\u044f" for c in letters_only)


def test_an_embedding_reaches_clip_where_comfyui_looks_for_one() -> None:
    assert route("\u732b,embedding:a,(b,embedding:c:1.2)")[1].prompt == "embedding:a,(b, embedding:c:1.2)"


def test_a_long_prompt_takes_no_longer_than_its_length_explains() -> None:
    for repeated in ("a,", "a\u732b,", "(a b:1.2)\u732b,", '"a"\u732b', "__a", "embedding:", "<a:", "a_\u732b", "("):
        text = repeated * (20_000 // len(repeated))
        assert letters(spans(text)) == letters(parse(normalise(text)))
