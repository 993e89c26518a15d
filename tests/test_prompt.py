"""From text to windows: normalisation, cutting and framing, for any text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import small
from zhclip.languages import route, spans
from zhclip.prompt import MAX_LENGTH, PromptError, cut, normalise, sections
from zhclip.schema import SpecialIds

SPECIAL = SpecialIds(start=2, end=3, pad=0, unknown=1)
# Any text, with the characters that carry meaning here more often than chance would have it.
TYPICAL = st.sampled_from("a1 ,.\uff0c\u3002\u3000\u732b\u72d7[SEP]\n\uff08\uff09")
TEXT = st.text(st.one_of(TYPICAL, st.characters()), max_size=300)
PIECES = st.lists(st.sampled_from(["a", "bc", " d", "\u732b", ",", ".", " ", "", "\u3002", "1"]), max_size=60)


@given(TEXT)
@settings(deadline=None)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip() and "  " not in once and "\n" not in once


def test_full_width_forms_and_chinese_punctuation_become_ascii() -> None:
    typed = "\uff08\u7ea2\uff1a1.3\uff09\uff0c\u3010\u732b\u3011\u3001\u201c\u72d7\u201d\u3002"
    assert normalise(typed) == '(\u7ea2:1.3),[\u732b],"\u72d7".'
    assert normalise("\uff21\uff22\u3000\uff11\t2\r\n3\x00") == "AB 1 2 3"


def test_what_is_not_punctuation_or_a_width_variant_stays() -> None:
    kept = "\u00bd \ufb01 \u2460 \u338f \U0001f431 \u9f8d"
    assert normalise(kept) == kept


@given(TEXT, st.integers(3, 20))
@settings(deadline=None)
def test_windows_are_exactly_as_long_as_the_window_and_lose_no_token(text: str, window: int) -> None:
    made = small.tokens(window)
    windows = made.windows(text)
    assert windows and all(len(ids) == window for ids in windows)
    inside: list[int] = []
    for ids in windows:
        end = ids.index(SPECIAL.end)
        assert ids[0] == SPECIAL.start and set(ids[end + 1 :]) <= {SPECIAL.pad}
        inside += ids[1:end]
    assert inside == made.ids(text)
    assert len(windows) == 1 or all(ids[1] != SPECIAL.end for ids in windows)


@given(PIECES, st.integers(1, 12))
def test_cuts_rise_to_the_end_and_no_window_is_longer_than_its_size(pieces: list[str], size: int) -> None:
    ends = cut(pieces, size)
    assert ends[-1] == len(pieces)
    sizes = [end - begin for begin, end in zip([0, *ends], ends)]
    assert all(0 < length <= size for length in sizes) or (sizes == [0] and not pieces)


def test_a_window_of_no_tokens_is_refused() -> None:
    for size in (0, -1, -3):
        with pytest.raises(ValueError, match=str(size)):
            cut(["a", "b"], size)


def test_a_prompt_over_the_limit_is_refused_with_its_length() -> None:
    assert sections("a" * MAX_LENGTH) and small.tokens(12).windows("a" * (MAX_LENGTH + 1))  # a caption has no limit
    for read in (sections, small.tokens(12).weighted_windows, route, spans):
        with pytest.raises(PromptError, match=str(MAX_LENGTH + 1)):
            read("a" * (MAX_LENGTH + 1))


def test_a_cut_falls_after_punctuation_else_between_words_else_after_as_many_tokens_as_fit() -> None:
    assert cut(list("abcde,ghij"), 8) == [6, 10]
    assert cut(["ab", " cd", " ef", "gh", " ij"], 4) == [4, 5]
    assert cut(["ab", " cd", " ef", " gh", "ij"], 4) == [3, 5]
    assert cut(list("\u732b" * 5), 4) == [4, 5]
    assert cut(list("abcdef"), 4) == [4, 6]
    assert cut([], 4) == [0]


def test_special_tokens_typed_in_a_prompt_are_text() -> None:
    made = small.tokens(12)
    for typed in ("[SEP]", "[CLS]", "[PAD]"):
        ids = made.ids(f"cat {typed} dog")
        assert not {SPECIAL.start, SPECIAL.end, SPECIAL.pad} & set(ids) and len(ids) > 2


def test_masks_reach_to_the_first_end_even_where_padding_is_the_end() -> None:
    made = small.tokens(6)
    made.special = SpecialIds(2, 3, 3, 1)
    ids = torch.tensor([made.frame([9, 8]), made.frame([])])
    assert made.key_mask(ids).tolist() == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4]
    assert made.is_empty(ids).tolist() == [False, True]
