"""A ChineseCLIP that the trainer aligned to a CLIP of SD1.5's width paints by an SD1.5 checkpoint with stock nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import graphs
from tests.host import Host
from zhclip.artifact import load
from zhclip.structure import structures


def test_a_trained_encoder_paints_by_an_sd15_checkpoint(host: Host, clip_pair: Path) -> None:
    trained = shutil.copyfile(clip_pair, host.encoders / "zhclip-trained.safetensors").name
    graph = graphs.paint("\u4e00\u53ea\u6a58\u732b\u5728\u6d77\u8fb9", "trained", trained)
    graph["probe"] = graphs.node("ConditioningProbe", conditioning=["text", 0], name="trained")
    graph["probe2"] = graphs.node("ConditioningProbe", conditioning=["none", 0], name="untexted")
    outputs = host.outputs(graph)
    assert host.picture(outputs["save"]["images"][0]).size == (64, 64)
    structure = structures(load(clip_pair))["structure"]
    cond = load_file(host.base / "output" / "trained.safetensors")["cond.0"]
    empty = load_file(host.base / "output" / "untexted.safetensors")["cond.0"]
    # What the trainer stored of its teacher arrives in the sampler: SD1.5's constant first position and empty prompt.
    assert cond.shape == empty.shape == (1, 77, 768)
    assert structure.position0 is not None and torch.equal(cond[0, 0], structure.position0)
    assert structure.empty is not None and torch.equal(empty[0], structure.empty)
    # The tests' recipe takes twelve steps, which may or may not beat a constant: the warning follows the figures.
    report = load(clip_pair).meta.report
    warned = any(trained in line and "is not aligned" in line for line in host.tail(10**7).splitlines())
    assert warned == (report["loss"]["all"] >= report["baselines"]["constant"]["all"])
