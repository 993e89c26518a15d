"""Long prompts cost what their length is, not its square."""

from __future__ import annotations

import time

import pytest

from benchmarks.prompts import PROMPTS, functions
from tests import small
from zhclip import languages
from zhclip.prompt import LONGEST, MARKS, checked, cut, normalise, parse
from zhclip.tokens import PromptTokenizer

LENGTH = 100_000
# By each function, the prompts whose time was once the square of their length; seconds and minutes at LENGTH.
SQUARE = [
    ("parse", "nested brackets"),
    ("parse", "nested weights"),
    ("parse", "closed brackets"),
    ("clauses", "wildcards without end"),
    ("normalise", "combining marks"),
    ("normalise", "hidden characters between marks"),
    ("parts", "spans of one weight"),
    ("route", "quotation marks alone"),
    ("route", "languages in turn"),
    ("weighted_windows", "one weighted span"),
    ("weighted_windows", "a long Latin word"),
]


@pytest.mark.parametrize(("function", "prompt"), SQUARE)
def test_a_long_prompt_is_read_within_a_second(function: str, prompt: str) -> None:
    read, text = functions()[function], PROMPTS[prompt](LENGTH)
    begin = time.process_time()
    read(text)
    assert time.process_time() - begin < 1


def test_a_token_over_many_spans_is_owned_in_one_pass() -> None:
    text = "(a:1.2)b" * 20_000
    begin = time.process_time()
    PromptTokenizer.from_artifact(small.artifact()).weighted_windows(text)
    assert time.process_time() - begin < 2


def test_a_span_of_many_windows_is_cut_in_one_pass() -> None:
    pieces = ["\u732b"] * 200_000
    begin = time.process_time()
    assert cut(pieces, 75, [False, *[True] * (len(pieces) - 1)]) == cut(pieces, 75)
    assert time.process_time() - begin < 2


def test_a_window_without_room_is_refused() -> None:
    for room in (0, -1, -3):
        with pytest.raises(ValueError, match="holds no prompt"):
            cut(["a", "b"], room)


def test_no_character_keeps_more_than_its_marks() -> None:
    assert normalise("a" + "\u0301\u0323" * 5000).count("\u0301") <= MARKS
    few = "\u732b" + "\u0323" * MARKS
    assert normalise(few) == few
    for text in ("\u0344" * 40, "\u0958" + "\u093c" * 40, "e\u0301\x00\u0323" * 40, "\uff8a" + "\uff9e" * 40):
        assert normalise(normalise(text)) == normalise(text)


def test_brackets_are_read_as_ever() -> None:
    def read(text: str) -> list[tuple[str, float]]:
        return [(span.text, round(span.weight, 6)) for span in parse(text)]

    assert read("((a)") == [("(a", 1.1)]
    assert read("((a:1.2)") == [("(a", 1.2)]
    assert read("a) (b) (c)") == [("a) (b) (c)", 1.0)]
    assert read("((a:1.2) b:1.5)") == [("a", 1.2), (" b", 1.5)]
    assert read("()(:1.3)") == [(":1.3", 1.1)]


def test_languages_and_spans_are_those_of_one_reading() -> None:
    for text in ("", "red cat", "\u732b, red cat BREAK \u72d7", "\u4e00\u53ea\u732b"):
        assert languages.read(text) == (languages.route(text), languages.spans(text))
        assert languages.read(text, False) == ([("zh", text)], languages.spans(text, False))


def test_a_prompt_over_the_limit_is_refused_with_its_length() -> None:
    assert checked("a" * LONGEST) == "a" * LONGEST
    with pytest.raises(ValueError, match=f"has {LONGEST + 1} characters; give at most {LONGEST}"):
        checked("a" * (LONGEST + 1))
