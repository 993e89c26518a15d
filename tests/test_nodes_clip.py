"""The CLIP as other node packs use it: tokens under "l", weights, word numbers, pooled vector, a rebuilt model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.host import ROOT, in_host


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/clip_in_host.py found."""
    path: Path = small.saved(tmp_path_factory.mktemp("clip") / "encoder.safetensors")
    return json.loads(in_host(ROOT / "tests" / "clip_in_host.py", path).splitlines()[-1])


def test_tokens_are_whole_windows_under_the_key_of_sd15(facts: dict[str, Any]) -> None:
    assert facts["keys"] == ["l"] and facts["windows"] == [77]
    assert facts["special"] == [2, 3, 0, 77]
    cat = facts["framed"]
    assert cat[0] == 2 and cat[-1] == 3 and len(cat) == 3


def test_ids_are_decoded_as_other_packs_ask(facts: dict[str, Any]) -> None:
    assert facts["decoded"] == ["red dog", "cat"]


def test_a_prompt_beyond_what_a_host_computes_is_refused_in_words(facts: dict[str, Any]) -> None:
    assert "20001 characters" in facts["long"] and "2000" in facts["many"]


def test_brackets_are_parsed_out_and_weights_stay_with_their_tokens(facts: dict[str, Any]) -> None:
    assert facts["weights"] == [1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0]
    assert facts["untokenized"] == ["[CLS]", "\u4e00", "\u53ea", "\u732b", ",", "red", "dog", "[SEP]", "[PAD]"]
    assert facts["literal"] > facts["ids"].index(3)  # with weights disabled the brackets stay text
    assert facts["weight 1 is plain"]
    assert facts["all weighted"]  # a pack that weighs every position, start and padding too, weighs the prompt


def test_word_numbers_are_0_for_what_frames_a_window_and_unique_else(facts: dict[str, Any]) -> None:
    assert facts["words"] == [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0]


def test_on_a_cpu_loading_places_the_model_so_that_the_first_prompt_need_not(facts: dict[str, Any]) -> None:
    assert facts["placed"]


def test_pooled_and_empty_encodings_have_their_meaning(facts: dict[str, Any]) -> None:
    assert facts["pooled is the end's"] and facts["nothing is empty"]


def test_a_loaded_clip_needs_its_file_no_more(facts: dict[str, Any]) -> None:
    assert facts["overwritten"]  # mapped weights end the process here
    assert facts["copied"]


def test_weights_that_do_not_match_cores_model_are_refused(facts: dict[str, Any]) -> None:
    assert "found tensors that do not match core's BERT (bert." in facts["foreign weights"]


def test_windows_cut_for_another_encoder_are_refused(facts: dict[str, Any]) -> None:
    assert "A window of 40 tokens reached a ZhCLIP encoder that reads 77" in facts["short"]
    assert "use the stock CLIP Text Encode" in facts["short"]


def test_inversions_stay_out_and_unknown_options_are_tolerated(facts: dict[str, Any]) -> None:
    assert facts["embeddings"] is None and facts["layer"] == "hidden"


def test_the_model_can_be_built_again_for_hooks_and_other_devices(facts: dict[str, Any]) -> None:
    assert facts["rebuilt"]
