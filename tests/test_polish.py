"""Translations and help pages cover the nodes that the server lists."""

from __future__ import annotations

import json
import os
import re
import string
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import graphs, small
from tests.host import Host
from tests.tree import ROOT

LANGUAGES = ("en", "zh", "zh-TW")
DOCS = ROOT / "web" / "docs"
# `simplified`: characters that traditional script writes otherwise. `mainland`: words for which Taiwan has others, as a
# conversion of characters leaves them. `latin`: names that stay as they are.
SCRIPT = json.loads((Path(__file__).resolve().parent / "data" / "script.json").read_text(encoding="utf-8"))
SENTENCE = re.compile(r"[a-z]{2,}(?: [a-z]{2,}){2,}")  # three words of lower case: no name, no term


def node_infos(host: Host) -> dict[str, Any]:
    """What the server says of each node of the pack."""
    return {
        name: info for name, info in host.get("/object_info").items() if info["python_module"] == "custom_nodes.zhclip"
    }


def texts(value: Any) -> list[str]:
    """All strings in nested dictionaries."""
    return [text for item in value.values() for text in texts(item)] if isinstance(value, dict) else [value]


def as_translated(info: dict[str, Any]) -> dict[str, Any]:
    """A node's own words, in the form of the front end's nodeDefs.json."""
    inputs: dict[str, dict[str, str]] = {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            options = info["input"][group][name][1]
            inputs[name] = {"name": name, "tooltip": options["tooltip"]}
            if options.get("control_after_generate"):  # a widget that the front end adds
                inputs["control_after_generate"] = {"name": "control after generate"}
    outputs = zip(info["output_name"], info["output_tooltips"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": {str(at): {"name": name, "tooltip": tooltip} for at, (name, tooltip) in enumerate(outputs)},
    }


def keys(value: Any) -> Any:
    """The same without the texts."""
    return {name: keys(item) for name, item in value.items()} if isinstance(value, dict) else None


@pytest.mark.parametrize("language", ["zh", "zh-TW"])
def test_every_word_of_every_node_is_translated(host: Host, language: str) -> None:
    served = {name: entry for name, entry in host.get("/api/i18n")[language]["nodeDefs"].items() if "ZhCLIP" in name}
    assert keys(served) == keys({name: as_translated(info) for name, info in node_infos(host).items()})
    for text in texts(served):
        assert not SENTENCE.search(text) and (text in SCRIPT["latin"] or not text.isascii()), text


def sentences(language: str) -> dict[str, str]:
    """What nodes/messages.py says, by key."""
    return json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["zhclip"]


@pytest.mark.parametrize("language", ["zh", "zh-TW"])
def test_every_sentence_of_the_nodes_is_translated_with_the_same_fields(language: str) -> None:
    def fields(text: str) -> set[tuple[str | None, str | None]]:
        return {(name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None}

    english, translated = sentences("en"), sentences(language)
    assert {key: fields(text) for key, text in english.items()} == {k: fields(text) for k, text in translated.items()}
    code = "".join(path.read_text("ascii") for path in (ROOT / "nodes").rglob("*.py"))
    assert set(re.findall(r"""(?:message|explained)\(\s*["'](\w+)""", code)) <= set(english)


@pytest.mark.parametrize(
    ("key", "file", "clip", "values"),
    [
        ("unusable_file", "half.safetensors", {}, {"error": ""}),  # refused before the queue runs
        ("clip_is_zhclip", graphs.ENCODER, {"clip": ["clip", 0]}, {"field": "clip"}),
        ("clip_is_zhclip", graphs.ENCODER, {"checkpoint_clip": ["other", 0]}, {"field": "checkpoint_clip"}),
    ],
)
def test_a_refusal_is_in_the_language_of_the_interface(
    host: Host, key: str, file: str, clip: graphs.Workflow, values: dict[str, str]
) -> None:
    half = small.saved(host.encoders / "half.safetensors")
    os.truncate(half, 100)
    graph = graphs.probe("cat", "refused", file)
    graph["other"] = graphs.node("ZhCLIPLoader", file=graphs.ENCODER)
    if "clip" in clip:
        graph["text"] = graphs.node("ZhCLIPTextEncode", zhclip=["clip", 0], text="cat", **clip)
    else:
        graph["clip"]["inputs"] |= clip
    for language in ("zh", "zh-TW", "en"):
        host.post("/settings", {"Comfy.Locale": language})
        assert sentences(language)[key].format(**values) in host.refuse(graph)
    half.unlink()


def test_traditional_texts_are_written_for_taiwan() -> None:
    paths = [*(ROOT / "locales" / "zh-TW").glob("*.json"), *sorted(DOCS.glob("*/zh-TW.md"))]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in (*SCRIPT["simplified"], *SCRIPT["mainland"]) if word in text], path


def page(host: Host, name: str, language: str) -> str:
    """A help page as the front end asks for it: the language's own, else the one without a language."""
    for path in (f"{name}/{language}.md", f"{name}.md"):
        try:
            with urllib.request.urlopen(host.url(f"/extensions/zhclip/docs/{path}")) as answer:
                return answer.read().decode("utf-8")
        except urllib.error.HTTPError:
            continue
    raise AssertionError(f"no help page of {name}")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page_that_names_all_its_parts(host: Host, language: str) -> None:
    translated = host.get("/api/i18n")[language].get("nodeDefs")  # the nodes' own words are English
    for name, info in node_infos(host).items():
        text = page(host, name, language)
        title = translated[name]["display_name"] if translated else info["display_name"]
        assert text.splitlines()[0] == f"# {title}"
        for group in ("required", "optional"):
            missing = [part for part in info["input_order"].get(group, []) if f"`{part}`" not in text]
            assert not missing, (name, language, missing)
        assert all(f"`{output}`" in text for output in info["output_name"]), (name, language)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_the_messages_that_a_page_explains_are_those_of_the_nodes(path: Path) -> None:
    """In the first column of a page's last table, between backticks; N is what the code fills in."""
    sources = (("nodes", "*.py"), ("zhclip", "*.py"), ("locales", "main.json"))
    files = [file for folder, pattern in sources for file in (ROOT / folder).rglob(pattern)]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    said = re.sub(r'"\s+f?"', "", code)  # strings in pieces, joined
    table = path.read_text(encoding="utf-8").rpartition("\n## ")[2]
    rows = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| ")][2:]
    messages = [message for row in rows for message in re.findall("`([^`]+)`", row)]
    assert messages
    for message in messages:
        parts = map(re.escape, re.split(r"\bN\b", message))
        assert re.search(r"\{[^}]+\}".join(parts), said), message
