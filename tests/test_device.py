"""Which device and precision are used; and that no tensor is left on another device than its model's, and no step waits
for it: what a GPU would refuse, a device of the tests' own refuses."""

from __future__ import annotations

import pytest

from tests.tree import python
from trainer.base.device import default_device, gpu_problem, limit_gpu_memory, use_device
from trainer.base.recipe import SettingsError
from zhclip.device import amd_precision, nvidia_precision, usable_gpu

MIXED = "tensors of two devices, far and cpu"
EACH = [(part, MIXED) for part in ("cache", "scoring", "prompts")]


@pytest.mark.slow
@pytest.mark.parametrize("part, planted", [*EACH, ("train", "the device is waited for")])
def test_everything_is_where_the_model_is(part: str, planted: str) -> None:
    done = python("-m", "tests.on_far_device", part)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout
    failed = python("-m", "tests.on_far_device", part, "--planted")
    assert failed.returncode == 1 and planted in failed.stdout, failed.stdout


CARDS = {
    ((6, 1), "NVIDIA GeForce GTX 1080"): "no",
    ((7, 0), "Tesla V100-SXM2-16GB"): "fp16",
    ((7, 5), "Tesla T4"): "fp16",
    ((7, 5), "NVIDIA GeForce GTX 1660 Ti"): "no",
    ((7, 5), "NVIDIA T1200 Laptop GPU"): "no",
    ((8, 6), "NVIDIA GeForce RTX 3060"): "bf16",
    ((9, 0), "NVIDIA H100 80GB HBM3"): "bf16",
}


@pytest.mark.parametrize("card", CARDS, ids=str)
def test_precision_follows_what_a_card_computes_in_itself(card: tuple[tuple[int, int], str]) -> None:
    assert nvidia_precision(*card) == CARDS[card]


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [("gfx906:sramecc+:xnack-", "fp16"), ("gfx90a:sramecc+:xnack-", "bf16"), ("gfx1030", "fp16"), ("gfx1100", "bf16")],
)
def test_precision_of_amds_cards(architecture: str, precision: str) -> None:
    assert amd_precision(architecture) == precision


def test_memory_is_limited_to_what_is_free_or_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (5, 8))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 1)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", limits.append)
    limit_gpu_memory()
    assert limits == [0.75]


def test_a_gpu_of_apples_is_not_used_and_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert "CPU" in (gpu_problem() or "")


@pytest.mark.parametrize(
    ("capability", "architectures", "covered"),
    [
        ((6, 1), "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120", False),  # PyPI's wheels and a GTX 1080
        ((6, 1), "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90", True),  # the CUDA 12.6 wheels
        ((8, 9), "sm_75 sm_80 sm_86 sm_90", True),
        ((8, 0), "sm_75 sm_86", False),
        ((12, 0), "sm_75 sm_80 sm_86 sm_90", False),
        ((12, 0), "sm_80 compute_90", True),
        ((9, 0), "", False),
    ],
)
def test_a_gpu_that_torch_was_not_built_for_is_not_used(
    capability: tuple[int, int], architectures: str, covered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a card")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: architectures.split())
    assert usable_gpu() == covered
    assert (gpu_problem() is None) == covered


def test_a_device_that_is_asked_for_and_not_there_is_refused() -> None:
    use_device("cpu")
    assert default_device() == "cpu"
    if not usable_gpu():
        with pytest.raises(SettingsError, match="--device"):
            use_device("cuda")
    use_device("auto")
