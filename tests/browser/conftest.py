"""A browser for the tests of this folder, which `make test-browser` and `make test-all` run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright
from safetensors.torch import save_file

from tests import graphs
from tests.browser.ui import SHOTS, WAIT_MS, Ui
from tests.host import ROOT, Host, started

expect.set_options(timeout=WAIT_MS)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge", "microsoft-edge")
NEWEST = ROOT / ".cache" / "front_end" / "comfyui_frontend_package" / "static"
SETTINGS = {
    # No first-run dialog, no notice of releases; no figures, map or panel over the canvas; all texts at any size.
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or a Chrome or Edge that is installed: Playwright's own browsers are never downloaded."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("No browser for the tests: apt-get install chromium fonts-wqy-microhei, or install Chrome or Edge.")
    # Chromium refuses its sandbox to root, which containers run as; it meets only our own server here.
    arguments = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="session", params=["own", "newest"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Host]:
    """ComfyUI as for the other tests, with the front end that its version asks for, and with the newest."""
    base, options = tmp_path_factory.mktemp("comfyui"), []
    if request.param == "newest":
        assert NEWEST.is_dir(), f"{NEWEST} is missing: run `make test-browser`, which fetches it"
        options = ["--front-end-root", str(NEWEST)]
    with started(base, checkpoint, *options) as host:
        yield host


@pytest.fixture(scope="session")
def named(host: Host) -> dict[str, str]:
    """The files that the example workflows name, as links to the small ones: {loader: folder}."""
    folders = {
        "CheckpointLoaderSimple": ("checkpoints", graphs.CHECKPOINT),
        "ZhCLIPLoader": ("text_encoders", graphs.ENCODER),
    }
    for path in sorted((ROOT / "example_workflows").glob("*.json")):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] == "LoraLoader":  # the newest front end marks a node whose file is missing
                lora = host.base / "models" / "loras" / node["widgets_values"][0]
                lora.parent.mkdir(parents=True, exist_ok=True)
                save_file({"none": torch.zeros(1)}, lora)
            if node["type"] in folders:
                folder, stored = (host.base / "models" / part for part in folders[node["type"]])
                link = folder / node["widgets_values"][0]
                if not link.exists():
                    link.symlink_to(folder / stored.name)
    return {kind: folder for kind, (folder, _) in folders.items()}


@pytest.fixture(params=["classic", "vue"])
def open_ui(host: Host, browser: Browser, named: dict, request: pytest.FixtureRequest) -> Iterator[Callable[..., Ui]]:
    """Opens ComfyUI's front end as a new user's browser does, with settings beside SETTINGS; closes it afterwards.

    Nodes are drawn on the canvas (classic), or are parts of the page (Vue, which the settings call Nodes 2.0).

    Each page is photographed at its end, as `.cache/screenshots/<test>.png`.
    """
    pages: list[Page] = []

    def opened(**settings: object) -> Ui:
        vue = request.param == "vue"
        own = {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": vue} | {
            k.replace("_", "."): v for k, v in settings.items()
        }
        host.post("/settings", SETTINGS | own)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        pages.append(page)
        page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        page.route(lambda url: not url.startswith(host.url("")), lambda route: route.abort())
        ui = Ui(page, host, vue)
        ui.load()
        return ui

    yield opened
    SHOTS.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(pages, 1):
        name = request.node.name.removeprefix("test_") + (f"-{number}" if len(pages) > 1 else "")
        page.screenshot(path=SHOTS / f"{''.join(c if c.isalnum() else '_' for c in name)}.png")
        page.close()


@pytest.fixture
def ui(open_ui: Callable[..., Ui]) -> Ui:
    """The front end in English."""
    return open_ui()


@pytest.fixture(scope="session")
def words() -> dict:
    """Chinese texts that the tests type and expect."""
    return json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
