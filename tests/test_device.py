"""No tensor is left on another device than its model's: what a GPU would refuse, a device of the tests' own refuses."""

from __future__ import annotations

import pytest

from tests.tree import python


@pytest.mark.parametrize("part", ["student", "loss", "cache", "scoring"])
def test_everything_is_where_the_model_is(part: str) -> None:
    done = python("-m", "tests.on_far_device", part)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout
    planted = python("-m", "tests.on_far_device", part, "--planted")
    assert planted.returncode == 1 and "tensors of two devices, far and cpu" in planted.stdout, planted.stdout
