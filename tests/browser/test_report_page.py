"""The page of a report as a person opens it: the file in a browser, in both languages, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests import runs
from trainer.report.tables import WORDS

pytestmark = pytest.mark.slow  # it needs a browser
WIDTHS = {"light": 1000, "dark": 390}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    given = runs.inputs(folder)
    return runs.run(folder / "run", given, "--train.dev_every", "4") / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_languages_show_and_nothing_is_asked_of_a_network(browser: Browser, report: Path, scheme: str) -> None:
    page = browser.new_page(
        color_scheme="dark" if scheme == "dark" else "light",
        locale="zh-CN" if scheme == "dark" else "en-GB",
        viewport={"width": WIDTHS[scheme], "height": 900},
    )
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(report.as_uri())
    languages = [0, 1] if scheme == "light" else [1, 0]  # the browser's own language first
    for turn, language in enumerate(languages):
        if turn:
            page.get_by_role("button", name=WORDS["switch"][1 - language], exact=True).click()
        for key in ("curve", "zones", "found", "hard", "corpus", "recipe", "how"):
            expect(page.get_by_text(WORDS[key][language], exact=True).first).to_be_visible()
            expect(page.get_by_text(WORDS[key][1 - language], exact=True).first).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(24, 24, 24)") == (scheme == "dark")
    assert asked == [report.as_uri()] and not problems
    page.close()
