"""The comparison's page, opened as a file: its slider by keyboard and by pointer, without any other file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests import diffusion, small
from trainer.__main__ import main

pytestmark = pytest.mark.slow  # it needs a browser
ROWS, PROMPTS = 5, 2


def shown(page: Page) -> set[str | None]:
    """The seeds of the pictures that can be seen; each has pixels."""
    images = page.locator("#grid img:visible")
    assert images.count() == ROWS * PROMPTS
    assert all(image.evaluate("one => one.complete && one.naturalWidth") == 64 for image in images.all())
    return {(image.get_attribute("alt") or "").rpartition(" ")[2] for image in images.all()}


def test_the_slider_goes_over_the_seeds(browser: Browser, tmp_path: Path) -> None:
    checkpoint = diffusion.pipeline(tmp_path / "sd")
    encoder = small.saved(tmp_path / "cat.safetensors", teacher_width=diffusion.WIDTH)
    given = ["--checkpoint", str(checkpoint), "--encoders", str(encoder), "--seeds", "11,22,33", "--steps", "1"]
    assert main(["compare", *given, "--width", "64", "--height", "64", "--out", str(tmp_path / "out")]) == 0
    alone = shutil.copyfile(tmp_path / "out" / "index.html", tmp_path / "page.html")
    page = browser.new_page(viewport={"width": 390, "height": 900})  # a phone's
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(alone.as_uri())
    slider = page.get_by_label("Seed")
    assert shown(page) == {"11"}
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert shown(page) == {"22"} and slider.get_attribute("aria-valuetext") == "seed 22"
    box = slider.bounding_box()
    assert box
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    assert shown(page) == {"11"}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page does not scroll sideways"
    assert not problems
    page.close()
