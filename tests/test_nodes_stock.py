"""Stock nodes on the CLIP in a real ComfyUI: layers, long prompts, unloading."""

from __future__ import annotations

import pytest
import torch

from tests import graphs, small
from tests.graphs import node
from tests.host import Host

WINDOW = 77


@pytest.fixture(scope="module")
def texts(host: Host) -> list[torch.Tensor]:
    """The two prompts of `two_texts`, alone: (1, 77, 768) each."""
    return [host.encode(text) for text in ("red cat", "blue dog")]


def test_the_empty_prompt_is_the_teachers_whole(host: Host) -> None:
    assert torch.equal(host.encode("")[0], small.artifact().structure["empty"])


def test_load_clip_takes_the_file_without_an_error_and_reads_nothing_of_it(
    host: Host, texts: list[torch.Tensor]
) -> None:
    """What the help page warns of."""
    loader = {"clip": node("CLIPLoader", clip_name=graphs.ENCODER, type="stable_diffusion")}
    result = host.conditioning(graphs.encode("red cat") | loader)["cond.0"]
    assert result.shape == texts[0].shape and not torch.allclose(result, texts[0], atol=1)
    assert "text_model.final_layer_norm.weight" in host.tail(10**7)  # among those that are missing


def test_structure_holds_in_every_window_of_a_long_prompt(host: Host) -> None:
    result = host.conditioning(graphs.encode("red cat, " * 60))
    stored = small.artifact().structure
    windows = result["cond.0"][0].unflatten(0, (-1, WINDOW))
    assert len(windows) > 1 and result["cond.0"].shape[0] == 1
    assert torch.equal(windows[:, 0], stored["position0"].expand(len(windows), -1))
    assert torch.allclose(windows[:, 1:].norm(dim=-1), stored["norms"][1:, 0].expand(len(windows), -1), rtol=1e-5)
    assert result["pooled.0"].shape == (1, 768)


def test_set_last_layer_gives_another_layer_with_the_same_structure(host: Host, texts: list[torch.Tensor]) -> None:
    graph = graphs.encode("red cat")
    graph["text"]["inputs"]["clip"] = ["layer", 0]
    last, before_last = (
        host.conditioning(graph | {"layer": node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=layer)})[
            "cond.0"
        ]
        for layer in (-1, -2)
    )
    norms = small.artifact().structure["norms"][:, 0]
    assert torch.equal(last, texts[0])
    assert (before_last - last).abs().max() > 0.1 and torch.equal(before_last[:, 0], last[:, 0])
    assert torch.allclose(before_last[0, 1:].norm(dim=-1), norms[1:], rtol=1e-5)


def test_an_encoder_that_was_unloaded_encodes_as_before(host: Host, texts: list[torch.Tensor]) -> None:
    host.post("/free", {"unload_models": True})
    host.latent(graphs.paint("blue dog", "between", steps=1))
    host.post("/free", {"unload_models": True, "free_memory": True})
    assert torch.equal(host.encode("red cat"), texts[0])
