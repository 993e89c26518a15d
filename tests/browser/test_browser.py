"""ComfyUI's front end in a real browser, with this pack, as its user meets it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.ui import Opener, Ui
from tests.host import ROOT

pytestmark = pytest.mark.slow  # it needs a browser
FIRST = "chinese_prompt_sd15"
WORKFLOW = json.loads((ROOT / "example_workflows" / f"{FIRST}.json").read_text(encoding="utf-8"))


def saved_texts(ui: Ui) -> list[list[str]]:
    """The widgets' values of the prompt nodes as the workflow would be saved."""
    nodes = ui.page.evaluate("window.app.graph.serialize().nodes")
    return [node["widgets_values"] for node in nodes if node["type"] == "CLIPTextEncode"]


def sizes(ui: Ui) -> list[list[float]]:
    """Width and height of each node, in the order of their ids."""
    return ui.page.evaluate("window.app.graph.nodes.toSorted((a, b) => a.id - b.id).map((node) => [...node.size])")


def painted(ui: Ui) -> list[str]:
    """The texts of the newest picture's prompt, which ZhCLIP encoded."""
    newest = max((ui.host.base / "output").glob("zhclip_0*.png"), key=lambda path: path.stat().st_mtime)
    with Image.open(newest) as picture:
        nodes = json.loads(picture.text["prompt"])  # type: ignore[attr-defined]
    texts = [node["inputs"] for node in nodes.values() if node["class_type"] == "CLIPTextEncode"]
    assert all(nodes[inputs["clip"][0]]["class_type"] == "ZhCLIPLoader" for inputs in texts)
    return [inputs["text"] for inputs in texts]


def test_a_chinese_prompt_typed_into_a_template_survives_a_reload_and_is_painted(ui: Ui, words: dict) -> None:
    # As if new: a loader whose output ComfyUI has in its cache is not run, and says nothing.
    (ui.host.encoders / named(WORKFLOW, "ZhCLIPLoader")).touch()
    ui.open_template(FIRST)
    ui.write(words["prompt"])
    expect(ui.line()).to_contain_text(words["weighted"][0])
    ui.page.mouse.click(900, 650)
    before = sizes(ui)
    ui.load()
    expect(ui.page.locator(".zhclip_weight").first).to_have_text(words["weighted"][0])
    assert [words["prompt"]] in saved_texts(ui)
    assert ui.vue or sizes(ui) == before  # 1.32.9 spreads the nodes when it makes Vue nodes of them
    assert "zhclip_count" not in json.dumps(ui.page.evaluate("window.app.graph.serialize()"))
    ui.fit()
    ui.shrink()
    ui.queue()
    assert ui.picture() == [64, 64]
    assert words["prompt"] in painted(ui)
    # What the loader says of its file when it has run.
    report = ui.page.locator(".zhclip_report")
    expect(report).to_have_count(1)
    expect(report).to_contain_text("0.3")


def test_the_line_under_a_prompt_counts_while_it_is_typed(ui: Ui, words: dict) -> None:
    ui.open_template(FIRST)
    ui.write("")
    expect(ui.line()).to_have_text("0 / 75 tokens")
    ui.write("cat")
    expect(ui.line()).to_have_text("1 / 75 tokens")
    ui.write(words["prompt"])
    expect(ui.line().locator(".zhclip_figures")).to_have_text(words["figures"])
    marked = ui.line().locator(".zhclip_weight")
    expect(marked).to_have_text(words["weighted"])
    assert [marked.nth(i).get_attribute("data-weight") for i in range(2)] == ["1.3", "1.1"]
    text, line = ui.box().bounding_box(), ui.line().bounding_box()
    assert text and line and text["y"] + text["height"] <= line["y"] + 1 < text["y"] + text["height"] + 30
    assert abs(text["x"] - line["x"]) < 15 and abs(text["width"] - line["width"]) < 15
    ui.write("cat BREAK " + words["long"] * 10)
    expect(ui.line().locator(".zhclip_figures")).to_have_text(re.compile(r"^1 \+ \d+ \+ \d+ / 75 tokens . 3 windows$"))


def test_a_prompt_of_another_encoder_has_no_line_nor_has_any_where_it_is_switched_off(open_ui: Opener) -> None:
    ui = open_ui()
    expect(ui.box(0)).to_be_visible()
    ui.page.wait_for_timeout(1000)  # two looks of the extension
    expect(ui.page.locator(".zhclip_count")).to_have_count(0)
    ui.open_template(FIRST)
    expect(ui.page.locator(".zhclip_count")).to_have_count(2)
    ui.connect(("CheckpointLoaderSimple", "CLIP"), ("CLIPTextEncode", "clip"))
    expect(ui.page.locator(".zhclip_count")).to_have_count(1)
    off = open_ui(ZhCLIP_Count=False)
    off.open_template(FIRST)
    off.page.wait_for_timeout(1000)
    expect(off.page.locator(".zhclip_count")).to_have_count(0)
    off.host.post("/settings", {"ZhCLIP.Count": True})


def test_two_encoders_show_which_words_each_reads(ui: Ui, words: dict) -> None:
    ui.open_template(FIRST)
    ui.add("ZhCLIP Text Encode", 900, 620)
    new = ui.line(2)
    expect(new).to_have_text("No encoder: connect Load ZhCLIP Encoder.")
    ui.connect(("ZhCLIPLoader", "CLIP"), ("ZhCLIPTextEncode", "zhclip"))
    ui.write(words["mixed"], 2)
    expect(new).to_contain_text("/ 75 tokens")
    expect(new.locator(".zhclip_en")).to_have_count(0)
    alone = new.locator(".zhclip_figures").inner_text()
    ui.connect(("CheckpointLoaderSimple", "CLIP"), ("ZhCLIPTextEncode", "clip"))
    expect(new.locator(".zhclip_spans .zhclip_en")).to_have_text(words["mixed_en"])
    expect(new.locator(".zhclip_spans .zhclip_zh")).to_have_text(words["mixed_zh"])
    expect(new.locator(".zhclip_spans .zhclip_en")).to_have_css("border-bottom-color", "rgb(230, 159, 0)")
    expect(new.locator(".zhclip_spans .zhclip_zh")).to_have_css("border-bottom-color", "rgb(86, 180, 233)")
    assert new.locator(".zhclip_figures").inner_text() != alone


def test_the_encoder_is_found_through_nodes_that_hand_it_on(ui: Ui) -> None:
    workflow = json.loads(json.dumps(WORKFLOW))
    through(workflow, {"type": "Reroute", "inputs": [""], "outputs": [""]}, "*")
    through(workflow, {"type": "CLIPSetLastLayer", "inputs": ["clip"], "outputs": ["CLIP"], "widgets_values": [-2]})
    ui.open_file(workflow)
    expect(ui.page.locator(".zhclip_count")).to_have_count(2)
    ui.click("CLIPTextEncode")
    ui.page.get_by_test_id("convert-to-subgraph-button").click()
    expect(ui.page.locator(".zhclip_count:visible")).to_have_count(1)
    ui.page.evaluate(
        "(() => { const node = window.app.graph.nodes.find((node) => node.subgraph);"
        " window.app.canvas.openSubgraph(node.subgraph, node); })()"
    )
    expect(ui.page.locator(".zhclip_count:visible")).to_have_text(re.compile(r"\d / 75 tokens"))


def through(workflow: dict[str, Any], node: dict[str, Any], kind: str = "CLIP") -> None:
    """Put a node between the encoder and all that it feeds."""
    loader = next(node for node in workflow["nodes"] if node["type"] == "ZhCLIPLoader")
    new, link = workflow["last_node_id"] + 1, workflow["last_link_id"] + 1
    moved = loader["outputs"][0]["links"]
    for one in workflow["links"]:
        if one[0] in moved:
            one[1] = new
    loader["outputs"][0]["links"] = [link]
    workflow["links"].append([link, loader["id"], 0, new, 0, "CLIP"])
    inputs = [{"name": name, "type": kind, "link": link} for name in node["inputs"]]
    outputs = [{"name": name, "type": kind, "links": moved} for name in node["outputs"]]
    place = {"id": new, "pos": [60 * new, 700], "size": [200, 60], "flags": {}, "order": 0, "mode": 0}
    workflow["nodes"].append({**node, **place, "inputs": inputs, "outputs": outputs, "properties": {}})
    workflow["last_node_id"], workflow["last_link_id"] = new, link


def named(workflow: dict[str, Any], kind: str) -> str:
    """The file that a loader of a workflow names."""
    return next(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == kind)


def test_the_help_pane_shows_a_nodes_page(open_ui: Opener) -> None:
    ui = open_ui(Comfy_Locale="zh")
    ui.open_template(FIRST)
    ui.click("ZhCLIPLoader")
    ui.page.get_by_test_id("info-button").click()
    title = (ROOT / "web" / "docs" / "ZhCLIPLoader" / "zh.md").read_text(encoding="utf-8").splitlines()[0]
    expect(ui.page.get_by_role("heading", name=title.removeprefix("# "), exact=True).last).to_be_visible()


def test_the_blueprint_is_one_box_for_a_chinese_prompt(ui: Ui, words: dict) -> None:
    workflow = json.loads(json.dumps(WORKFLOW))
    kept = [
        node for node in workflow["nodes"] if node["type"] not in ("ZhCLIPLoader", "CLIPTextEncode", "MarkdownNote")
    ]
    ids = {node["id"] for node in kept}
    links = [link for link in workflow["links"] if {link[1], link[3]} <= ids]
    for slot in (slot for node in kept for slot in node["inputs"]):
        slot["link"] = slot["link"] if slot["link"] in [link[0] for link in links] else None
    ui.open_file({**workflow, "nodes": kept, "links": links})
    ui.shrink()
    ui.add("Chinese Prompt (ZhCLIP)", 390, 330)
    ui.page.wait_for_function("window.app.graph.nodes.some((node) => node.subgraph)")
    box = ui.page.evaluate("window.app.graph.nodes.find((node) => node.subgraph).type")
    for name in ("positive", "negative"):
        ui.connect((box, name), ("KSampler", name))
    text = ui.page.locator("textarea:visible").first
    text.click()
    text.fill(words["prompt"])
    ui.queue()
    assert ui.picture() == [64, 64]
    assert words["prompt"] in painted(ui)
