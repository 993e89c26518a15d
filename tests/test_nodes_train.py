"""Train ZhCLIP Encoder: from a checkpoint to an encoder and a picture by the queue of the real ComfyUI."""

from __future__ import annotations

import ast
import json
import re
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import websocket
from safetensors.torch import save_file

from tests import encoders, graphs, hub, small
from tests.encoders import PAIRS, STUDENT, TEACHER, training_inputs
from tests.graphs import Graph
from tests.host import Host, in_host, running
from tests.tree import ROOT, python
from zhclip.artifact import read_meta

STEPS = 20


@pytest.fixture(scope="module")
def trainer(host: Host) -> Host:
    """`host` with the inputs of a training."""
    training_inputs(host.base)
    return host


def train(name: str, **changes: Any) -> Graph:
    """A graph of the node alone."""
    given = dict(checkpoint=TEACHER, pairs=PAIRS, thoroughness="quick", chinese_clip=STUDENT, steps=STEPS)
    return {"train": graphs.node("ZhCLIPTrain", **given | {"name": name} | changes)}


class Listener:
    """What the server sends a page while a graph runs."""

    def __init__(self, host: Host) -> None:
        self.host, self.socket = host, websocket.WebSocket()
        self.socket.connect(f"ws://127.0.0.1:{host.port}/ws?clientId=trainer", timeout=120)
        self.prompt = ""
        self.values: list[float] = []
        self.texts: list[str] = []
        self.pictures: list[bytes] = []

    def run(self, graph: Graph, interrupt: Callable[[Listener], bool] = lambda _: False) -> str:
        """Run a graph and note its messages. Returns the last one's type. `interrupt`: asked after each message."""
        answer = self.host.post("/prompt", {"prompt": graph, "client_id": "trainer"})
        assert not answer.get("node_errors"), answer
        self.prompt = answer["prompt_id"]
        pressed = False
        while True:
            message = self.socket.recv()
            if isinstance(message, bytes):
                self.take(message)
            else:
                kind, data = (json.loads(message)[key] for key in ("type", "data"))
                if kind == "progress" and data["node"] == "train":
                    self.values.append(data["value"] / data["max"])
                if kind in ("execution_success", "execution_error", "execution_interrupted"):
                    return kind
            if not pressed and interrupt(self):
                self.host.post("/interrupt", {})
                pressed = True

    def outputs(self) -> dict[str, Any]:
        """The outputs of the graph that ran last."""
        return self.host.wait(self.prompt)["outputs"]

    def take(self, message: bytes) -> None:
        """A picture with or without metadata (4, 1), or a line of text (3)."""
        (kind,) = struct.unpack(">I", message[:4])
        if kind == 3:
            (length,) = struct.unpack(">I", message[4:8])
            assert message[8 : 8 + length] == b"train"
            self.texts.append(message[8 + length :].decode())
        elif kind in (1, 4):
            self.pictures.append(message)


def test_the_queue_alone_gives_an_encoder_a_picture_and_its_progress(trainer: Host) -> None:
    graph = (
        graphs.paint("\u4e00\u53ea\u732b", "first")
        | train("first")
        | {
            "report": graphs.node("SaveImage", images=["train", 1], filename_prefix="report"),
            "losses": graphs.node("LossGraphNode", loss=["train", 2], filename_prefix="losses"),
            "words": graphs.node("PreviewAny", source=["train", 3]),
        }
    )
    del graph["clip"]
    for name in ("text", "none"):
        graph[name]["inputs"]["clip"] = ["train", 0]
    listener = Listener(trainer)
    assert listener.run(graph) == "execution_success", trainer.tail()
    meta = read_meta(trainer.encoders / "first.safetensors")
    assert meta.teacher.id == TEACHER and meta.widths == (768,) and meta.recipe["train"]["steps"] == STEPS
    assert meta.recipe["teacher"]["tokenizer"] == "sd1_tokenizer"  # without this machine's folders
    assert listener.values == sorted(listener.values) and listener.values[-1] == 1
    assert listener.values[len(listener.values) // 2] < 1, listener.values
    assert any("left" in text for text in listener.texts) and listener.texts[-1] == "trained first.safetensors"
    began = time.monotonic()
    again = train("first", training_seed=0) | {"words": graphs.node("PreviewAny", source=["train", 3])}
    assert TEACHER in trainer.outputs(again)["words"]["text"][0]  # an input more, so not from ComfyUI's cache
    assert time.monotonic() - began < 5
    outputs = listener.outputs()
    for name in ("save", "report"):
        trainer.picture(outputs[name]["images"][0])
    assert TEACHER in outputs["words"]["text"][0]


@pytest.fixture
def bad(trainer: Host) -> Iterator[Path]:
    """The inputs of a training, with files that cannot be used."""
    checkpoints = trainer.base / "models" / "checkpoints"
    save_file({"double_blocks.0.img_attn.proj.weight": torch.zeros(2)}, checkpoints / "flux.safetensors")
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(2)}, checkpoints / "unet.safetensors")
    (checkpoints / "broken.safetensors").write_bytes(b"\0" * 20)
    (trainer.base / "input" / "columns.tsv").write_text("a\tb\nc\td\n", encoding="utf-8")
    lines = (trainer.base / "input" / "mine.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (trainer.base / "input" / "ten.tsv").write_text("".join(lines[:11]), encoding="utf-8")
    record = trainer.base / "user" / "zhclip" / "taken" / "node.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"settings": {"checkpoint": "other.safetensors"}}), encoding="utf-8")
    (record.parent / "cache").mkdir(exist_ok=True)
    yield small.saved(trainer.encoders / "foreign.safetensors")
    (trainer.encoders / "foreign.safetensors").unlink()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"checkpoint": "flux.safetensors"}, "flux.safetensors"),
        ({"checkpoint": "unet.safetensors"}, "unet.safetensors"),
        ({"checkpoint": "broken.safetensors"}, "broken.safetensors"),
        ({"checkpoint": "missing.safetensors"}, "missing.safetensors"),
        ({"pairs": "columns.tsv"}, "columns.tsv"),
        ({"pairs": "ten.tsv"}, "ten.tsv"),
        ({"chinese_clip": "huggingface.co"}, "chinese_clip"),  # without a network
        ({"chinese_clip": "hf-mirror.com"}, "chinese_clip"),
        ({"name": "taken"}, "other.safetensors"),
        ({"name": "foreign"}, "foreign.safetensors"),
        ({"name": "../up"}, "name"),
    ],
)
def test_bad_input_is_one_sentence_and_the_queue_lives(
    trainer: Host, bad: Path, changes: dict[str, str], named: str
) -> None:
    message = trainer.refuse(train("bad", **changes) if "name" not in changes else train(**changes))
    assert named in message and "\n" not in message and "--" not in message, message
    assert trainer.outputs(graphs.encode(message) | {"keep": graphs.node("PreviewAny", source=["text", 0])})


def test_the_node_replaces_sentences_that_the_trainer_says() -> None:
    """Its table of words, but for the names of flags."""
    tree = ast.parse((ROOT / "nodes" / "host" / "training.py").read_text(encoding="utf-8"))
    (table,) = (node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WORDS")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "trainer").rglob("*.py"))
    said = re.sub(r'"\s+f?"', "", code)  # strings in pieces, joined
    assert not [words for words in ast.literal_eval(table.value) if not words.startswith("--") and words not in said]


def test_the_host_is_afterwards_as_it_was(tmp_path: Path) -> None:
    for name in ("models/checkpoints", "models/text_encoders", "input"):
        (tmp_path / name).mkdir(parents=True)
    training_inputs(tmp_path)
    found = in_host("train_checks.host_state", tmp_path)
    assert found["trained"] and found["changed"] == {} and found["alive"] == []
    assert "accelerate" in found["missing"] and "-m pip install" in found["missing"]
    assert "SystemExit" not in found["exits"] and "3" in found["exits"]


def equal(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_cancelled_anywhere_and_run_again_it_ends_in_the_same_bytes_as_the_command_line(
    trainer: Host, tmp_path: Path
) -> None:
    steps = 300
    assert Listener(trainer).run(train("whole", steps=steps)) == "execution_success", trainer.tail()
    run = trainer.base / "user" / "zhclip" / "whole"
    done = python("-m", "trainer", "run", "--config", str(run / "recipe.yaml"), "--run", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout
    assert equal(trainer.encoders / "whole.safetensors", tmp_path / "run" / "encoder.safetensors")
    seconds = []
    for delay in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9):
        began, pressed = time.monotonic(), list[float]()

        def interrupt(own: Listener, at: float = began + delay, pressed: list[float] = pressed) -> bool:
            if own.texts and time.monotonic() >= at:
                pressed.append(time.monotonic())
            return bool(pressed)

        if Listener(trainer).run(train("parts", steps=steps), interrupt) == "execution_interrupted":
            seconds.append(time.monotonic() - pressed[0])
    assert len(seconds) >= 4 and statistics.median(seconds) < 2, seconds  # less than a second on an idle machine
    assert Listener(trainer).run(train("parts", steps=steps)) == "execution_success", trainer.tail()
    assert equal(trainer.encoders / "whole.safetensors", trainer.encoders / "parts.safetensors")


@pytest.mark.slow
def test_chinese_clip_is_downloaded_from_a_hub_and_sdxl_is_known_by_its_file(tmp_path: Path) -> None:
    encoders.student(tmp_path / "hub" / "OFA-Sys" / "chinese-clip-vit-base-patch16")
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        environment = hub.settings(endpoint, tmp_path / "home")
        with running(tmp_path / "comfyui", environment=environment) as host:
            training_inputs(host.base)
            pipeline = encoders.sdxl_teacher(tmp_path / "sdxl", size=49408)
            encoders.sdxl_checkpoint(pipeline, host.base / "models" / "checkpoints" / "xl.safetensors", torch.float16)
            host.outputs(train("xl", checkpoint="xl.safetensors", chinese_clip="huggingface.co"))
            assert len(read_meta(host.encoders / "xl.safetensors").widths) == 2
            count = len(asked)
            host.outputs(train("sd", chinese_clip="huggingface.co"))
            assert not [path for path in asked[count:] if "/resolve/" in path]  # all files are on this machine
    with running(tmp_path / "comfyui", environment=hub.settings("http://127.0.0.1:9", tmp_path / "empty")) as host:
        assert "chinese_clip" in host.refuse(train("wrong", chinese_clip="huggingface.co"))  # a wrong mirror
