"""The example workflows: as the template browser serves them, what their notes say, and run to their pictures."""

from __future__ import annotations

import io
import itertools
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from safetensors.torch import save_file

from tests import encoders, graphs
from tests.graphs import TEMPLATES, Workflow, workflow
from tests.host import Host
from tests.tree import ROOT

# Loader -> where its files lie, and the tests' small file that stands for what a workflow of each kind names.
FILES = {
    "CheckpointLoaderSimple": ("checkpoints", {"sd15": graphs.CHECKPOINT, "sdxl": graphs.SDXL_CHECKPOINT}),
    "ZhCLIPLoader": ("text_encoders", {"sd15": graphs.ENCODER, "sdxl": graphs.SDXL_ENCODER}),
    "LoraLoader": ("loras", {"sd15": "small.safetensors", "sdxl": "small-sdxl.safetensors"}),
}
# Matrices of a LoRA's halves and their widths, by kind.
LORAS = {
    "sd15": {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (320, 768),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    },
    "sdxl": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (320, 2048),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (1280, 1280),
    },
}
# Their own sizes take a GPU's seconds, and minutes here: node -> {widget: value}; LINES are cut after the second.
SMALL: dict[str, dict[str, int | str]] = {
    "EmptyLatentImage": {"width": 32, "height": 32},
    "KSampler": {"steps": 1},
    "ZhCLIPCompareGrid": {"steps": 1, "width": 32, "height": 32},
    "ZhCLIPTrain": {"pairs": encoders.PAIRS, "chinese_clip": encoders.STUDENT, "steps": 20},
}
TEACHERS = {"sd15": encoders.TEACHER, "sdxl": "sdxl-teacher.safetensors"}  # with few layers, for ZhCLIPTrain
ENDS = ("SaveImage", "PreviewImage", "LossGraphNode", "ZhCLIPInspector")
LINES = {"ZhCLIPCompareGrid": "prompts"}


def widgets(node: dict[str, Any]) -> list[str]:
    """The names of a node's widgets in the order of its values; the front end adds one after a seed."""
    names = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    at = names.index("seed") + 1 if "seed" in names else 0
    return names[:at] + ["control_after_generate"] + names[at:] if at else names


def kind(name: str) -> str:
    """Of the checkpoint that a workflow is for, the end of its name."""
    return name.rpartition("_")[2]


@pytest.fixture(scope="module", autouse=True)
def files(sdxl: Host) -> Iterator[None]:
    """Small files under the names that the workflows give, among them a LoRA of both halves."""
    models, created = sdxl.base / "models", []
    for of, places in LORAS.items():
        lora: dict[str, torch.Tensor] = {}
        for name, (out, inner) in places.items():
            lora |= {f"{name}.lora_up.weight": torch.full((out, 1), 0.1), f"{name}.alpha": torch.tensor(1.0)}
            lora[f"{name}.lora_down.weight"] = torch.full((1, inner), 0.1)
        save_file(lora, models / "loras" / FILES["LoraLoader"][1][of])
    for name in TEMPLATES:
        for node in (node for node in workflow(name)["nodes"] if node["type"] in FILES):
            folder, stored = FILES[node["type"]]
            link = models / folder / node["widgets_values"][0]
            if not link.exists():
                link.symlink_to(models / folder / stored[kind(name)])
                created.append(link)
    encoders.training_inputs(sdxl.base)
    yield
    for link in created:
        link.unlink()


def test_the_template_browser_offers_every_workflow_with_its_picture(host: Host) -> None:
    assert sorted(host.get("/api/workflow_templates")["zhclip"]) == TEMPLATES and len(TEMPLATES) >= 5
    for name in TEMPLATES:
        assert host.get(f"/api/workflow_templates/zhclip/{name}.json") == workflow(name)
        with urllib.request.urlopen(host.url(f"/api/workflow_templates/zhclip/{name}.jpg")) as answer:
            data = answer.read()
        width, height = Image.open(io.BytesIO(data)).size
        assert 900 <= width <= 1300 and height >= 300 and len(data) < 120_000, (name, width, height, len(data))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_workflow_explains_itself_in_both_languages_and_names_where_its_nodes_come_from(name: str) -> None:
    nodes = workflow(name)["nodes"]
    notes = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    chinese, _, english = notes.partition("---")
    assert not chinese.isascii() and len(chinese.strip()) > 40 and english.isascii() and len(english.strip()) > 100
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    for node in (node for node in nodes if node["type"] != "MarkdownNote"):
        ours = node["type"].startswith("ZhCLIP")
        properties = node["properties"]
        assert properties["cnr_id"] == ("zhclip" if ours else "comfy-core")
        assert not ours or (version and properties["ver"] == version[1])
        if node["type"] == "CheckpointLoaderSimple":
            (model,) = properties["models"]
            assert model["name"] == node["widgets_values"][0] and model["directory"] == "checkpoints"
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(model["name"])


# With SDXL's own CLIP beside ours, or with all of its queries.
LONG = ("bilingual_lora_sdxl", "compare_encoders_sdxl", "train_first_encoder_sdxl")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in TEMPLATES])
def test_a_workflow_runs_to_its_picture(host: Host, tmp_path: Path, name: str) -> None:
    if name == "train_first_encoder_sdxl":
        pipeline = encoders.sdxl_teacher(tmp_path, widths=(768, 1280), layers=(1, 1), size=49408)
        encoders.sdxl_checkpoint(pipeline, host.base / "models" / "checkpoints" / TEACHERS["sdxl"], torch.float16)
    created = shrunk(name)
    logged = len(host.tail(10**7))
    # What comfy-cli does before it queues; the front end's own way is tested in a browser.
    outputs = host.outputs(with_clip(name, convert_ui_to_api(created, host.get("/object_info"))))
    ends = {str(node["id"]) for node in created["nodes"] if node["type"] in ENDS}
    assert ends and ends <= set(outputs)
    for image in itertools.chain(*(outputs[node]["images"] for node in ends)):
        host.picture(image)
    assert "key not loaded" not in host.tail(10**7)[logged:]  # of a LoRA, either half


def with_clip(name: str, graph: graphs.Graph) -> graphs.Graph:
    """The same with the tests' own CLIP for SDXL in the place of the checkpoint's, which has none."""
    if kind(name) != "sdxl":
        return graph
    (checkpoint,) = (at for at, node in graph.items() if node["class_type"] == "CheckpointLoaderSimple")
    for node in graph.values():
        node["inputs"] |= {to: ["own", 0] for to, value in node["inputs"].items() if value == [checkpoint, 1]}
    return graph | {"own": graphs.node("SDXLClip")}


def shrunk(name: str) -> Workflow:
    """A workflow that a CPU finishes in seconds."""
    created = workflow(name)
    for node in created["nodes"]:
        smaller = SMALL.get(node["type"], {})
        if node["type"] == "ZhCLIPTrain":
            smaller = smaller | {"checkpoint": TEACHERS[kind(name)]}
            node["inputs"][0]["link"] = None  # of the box that chooses one checkpoint for both nodes
        for widget, value in smaller.items():
            node["widgets_values"][widgets(node).index(widget)] = value
        if node["type"] in LINES:
            at = widgets(node).index(LINES[node["type"]])
            node["widgets_values"][at] = "\n".join(node["widgets_values"][at].splitlines()[:2])
    return created
