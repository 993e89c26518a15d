"""No tensor is left on another device than its model's: what a GPU would refuse, a device of the tests' own refuses.
And no step waits for it."""

from __future__ import annotations

import pytest

from tests.tree import python

MIXED = "tensors of two devices, far and cpu"
PARTS = ["student", "loss", "cache", "scoring", "prompts"]
EACH = [(part, MIXED) for part in PARTS]


@pytest.mark.slow
@pytest.mark.parametrize("part, planted", [*EACH, ("train", "the device is waited for")])
def test_everything_is_where_the_model_is(part: str, planted: str) -> None:
    done = python("-m", "tests.on_far_device", part)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout
    failed = python("-m", "tests.on_far_device", part, "--planted")
    assert failed.returncode == 1 and planted in failed.stdout, failed.stdout
