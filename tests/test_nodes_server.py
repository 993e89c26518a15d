"""The loader in a real ComfyUI: its inputs, the files it finds, what it says of wrong ones."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import graphs, small
from tests.host import Host
from zhclip import artifact as fmt

DATA = Path(__file__).resolve().parent / "data"


def options(host: Host) -> list[str]:
    """The loader's list of files."""
    return host.get("/object_info/ZhCLIPLoader")["ZhCLIPLoader"]["input"]["required"]["file"][1]["options"]


def test_the_nodes_have_the_inputs_and_outputs_that_saved_workflows_know(host: Host) -> None:
    known = json.loads((DATA / "object_info.json").read_text(encoding="utf-8"))
    found = {}
    for name, info in host.get("/object_info").items():
        if name.startswith("ZhCLIP"):
            groups = {group: info["input"].get(group, {}) for group in ("required", "optional")}
            inputs = {group: {name: kind for name, (kind, _) in named.items()} for group, named in groups.items()}
            found[name] = inputs | {"output": info["output"], "output_name": info["output_name"]}
    assert found == known and all(list(found[name]["required"]) == list(known[name]["required"]) for name in known)


def test_a_new_file_appears_without_a_restart_and_others_never(host: Host) -> None:
    before = options(host)
    assert graphs.ENCODER in before
    small.saved(host.encoders / "sub" / "new.safetensors", seed=5)
    save_file({"weight": torch.zeros(2)}, host.encoders / "foreign.safetensors")
    assert sorted(set(options(host)) - set(before)) == [os.path.join("sub", "new.safetensors")]
    (host.encoders / "sub" / "new.safetensors").unlink()
    assert options(host) == before


def test_a_file_trained_again_under_its_name_is_loaded_again(host: Host) -> None:
    path = small.saved(host.encoders / "again.safetensors", seed=1)
    first = host.encode("cat", path.name)
    assert torch.equal(first, host.encode("cat", path.name))
    fmt.save(small.artifact(seed=2), path)
    assert (first - host.encode("cat", path.name)).abs().max() > 1
    path.unlink()


def truncated(path: Path) -> None:
    """A whole header, half of the tensors: a download that stopped."""
    small.saved(path)
    os.truncate(path, path.stat().st_size // 2)


def pickle(path: Path) -> None:
    """What torch.save writes."""
    torch.save({"bert": torch.zeros(2)}, path)


def lacking(path: Path) -> None:
    """An encoder without one of its tensors, which only a look beyond the header shows."""
    small.saved(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    save_file(tensors, path, header)


WRONG_FILES = {
    truncated: "truncated",
    pickle: "can run code",
    lacking: "bert.encoder.layer.1.output.dense.bias",
}


@pytest.mark.parametrize("make", WRONG_FILES, ids=lambda make: make.__name__)
def test_a_wrong_file_is_refused_in_one_sentence_that_names_it(host: Host, make) -> None:
    path = host.encoders / ("p.pt" if make is pickle else "wrong.safetensors")
    make(path)
    # A damaged or later file is listed, so that choosing it explains it.
    assert (path.name in options(host)) == (make is not pickle)
    message = host.refuse(graphs.probe("cat", "wrong", path.name))
    path.unlink()
    assert WRONG_FILES[make] in message and str(path) in message and "\n" not in message, message


def test_a_checkpoint_an_encoder_of_another_width_and_a_name_without_a_file_are_refused(
    host: Host, checkpoint: Path
) -> None:
    link = host.encoders / "checkpoint.safetensors"
    link.symlink_to(checkpoint)
    assert link.name not in options(host)
    assert str(link) in host.refuse(graphs.probe("cat", "wrong", link.name))
    link.unlink()
    path = small.saved(host.encoders / "narrow.safetensors", teacher_width=384)
    message = host.refuse(graphs.paint("cat", "wrong", path.name))
    path.unlink()
    assert all(part in message for part in ("384", "tests/teacher", "SD15", "768")), message
    message = host.refuse(graphs.probe("cat", "wrong", "gone.safetensors"))
    assert "gone.safetensors" in message and str(host.encoders) in message and graphs.ENCODER in message, message


@pytest.mark.parametrize(
    ("language", "node"), [("en", "Train ZhCLIP Encoder"), ("zh", "\u8bad\u7ec3 ZhCLIP \u7f16\u7801\u5668")]
)
def test_without_any_encoder_the_error_begins_with_the_training_node(host: Host, language: str, node: str) -> None:
    aside = {path: path.rename(host.base / path.name) for path in list(host.encoders.glob("*.safetensors"))}
    host.post("/settings", {"Comfy.Locale": language})
    (entry,) = options(host)
    messages = [host.refuse(graphs.probe("cat", "wrong", file)) for file in (entry, "zhclip-sd15.safetensors")]
    host.post("/settings", {"Comfy.Locale": "en"})
    for path, kept in aside.items():
        kept.rename(path)
    assert "models/text_encoders" in entry and node in entry
    for message in messages:
        lines = message.splitlines()
        assert str(host.encoders) in lines[0] and lines[1].startswith("1. ") and node in lines[1]
        assert any(line.startswith(f"{sys.executable} -m pip install accelerate") for line in lines), message


def test_a_checkpoints_clip_that_is_not_the_teacher_is_warned_of(host: Host) -> None:
    """The tests' encoder is of no teacher; calibrated, it is of the checkpoint's own CLIP."""
    graph = graphs.paint("cat", "teacher")
    graph["clip"]["inputs"]["checkpoint_clip"] = ["ckpt", 1]
    (shown,) = host.outputs(graph)["clip"]["text"]
    assert shown.startswith("WARNING: ") and "ZhCLIP Calibrate" in shown and "tests/teacher" in shown
    path = host.encoders / "own.safetensors"
    own = host.conditioning(graph | {"own": graphs.node("CLIPTextEncode", clip=["ckpt", 1], text="")}, "own")["cond.0"]
    created = small.artifact()
    fmt.save(dataclasses.replace(created, structure=created.structure | {"empty": own[0]}), path)
    graph["clip"]["inputs"]["file"] = path.name
    (shown,) = host.outputs(graph)["clip"]["text"]
    path.unlink()
    assert not shown.startswith("WARNING: ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aligned": False}, "is not aligned"),
        ({"report": {}}, "carries no evaluation"),
    ],
)
def test_node_and_log_warn_of_an_encoder_that_nothing_shows_to_be_aligned(
    host: Host, changes: dict, expected: str
) -> None:
    path = host.encoders / "unaligned.safetensors"
    logged = f"{path} {expected}"  # with the path: other tests have such files too
    assert logged not in host.tail(10**7)
    small.saved(path, **changes)
    (shown,) = host.outputs(graphs.probe("cat", "unaligned", path.name))["clip"]["text"]
    path.unlink()
    assert shown.startswith("WARNING: this file ") and expected in shown
    assert logged in host.tail(10**7)


def test_the_node_shows_the_key_figures_of_the_report(host: Host) -> None:
    report = {
        "loss": {"all": 0.31},
        "retrieval": {"zh_to_en": {"R@1": 0.95}},
        "baselines": {"ridge": {"all": 0.377}, "constant": {"all": 0.515}},
        "baselines_retrieval": {"ridge": {"zh_to_en": {"R@1": 0.906}}},
    }
    path = small.saved(host.encoders / "reported.safetensors", report=report)
    (shown,) = host.outputs(graphs.probe("cat", "reported", path.name))["clip"]["text"]
    path.unlink()
    first, second = shown.splitlines()
    assert first.endswith("tests/teacher: 0.310, R@1 0.950")
    assert "ridge 0.377, R@1 0.906" in second and "constant 0.515" in second


def test_full_width_brackets_weigh_and_an_inversion_and_unknown_characters_are_named_in_the_log(host: Host) -> None:
    bare, weighted = host.encode("red cat dog"), host.encode("(red:1.3) ((cat)) dog")
    assert torch.equal(bare, host.encode("(red:1) cat (dog:1.0)")) and not torch.equal(bare, weighted)
    assert torch.equal(weighted, host.encode("\uff08red\uff1a1.3\uff09 \uff08\uff08cat\uff09\uff09 dog"))
    host.encode("cat embedding:bad")
    host.encode("dog embedding:bad \U0001f6f8")
    assert host.tail(10**7).count("`embedding:`") == 1 and "\U0001f6f8" in host.tail(10**7)
