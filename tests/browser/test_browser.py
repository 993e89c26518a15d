"""ComfyUI's front end in a real browser, with this pack, as its user meets it."""

from __future__ import annotations

import re

from tests.browser.ui import Opener, Ui

FIRST = "chinese_prompt_sd15"


def test_a_chinese_prompt_typed_into_a_template_is_painted(ui: Ui, words: dict) -> None:
    ui.open_template(FIRST)
    ui.shrink()
    ui.write(words["prompt"])
    assert ui.box().input_value() == words["prompt"]
    ui.queue()
    ui.await_picture()
    assert ui.node("SaveImage", "[node.imgs[0].naturalWidth, node.imgs[0].naturalHeight]") == [64, 64]
    picture = max((ui.host.base / "output").glob("zhclip_*.png"), key=lambda path: path.stat().st_mtime)
    assert words["prompt"].encode("unicode_escape") in picture.read_bytes()
