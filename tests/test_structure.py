"""The output structure: each part alone, and their order."""

from __future__ import annotations

import pytest
import torch

from zhclip.structure import Structure, project

B, W, S, D = 3, 5, 4, 6
EMPTY = torch.tensor([False, True, False])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole() -> Structure:
    """Every part present."""
    return Structure(
        random(D, S), random(W, D, seed=1), random(D, seed=2), random(W, D, seed=3), torch.arange(1.0, W + 1)[:, None]
    )


def test_nothing_stored_changes_nothing() -> None:
    hidden = random(B, W, S)
    assert torch.equal(Structure().apply(hidden, EMPTY), hidden)


def test_projection_is_one_map_and_a_bias_a_position() -> None:
    hidden, weight, bias = random(B, W, S), random(D, S), random(W, D)
    z = project(hidden, weight, bias)
    assert z.shape == (B, W, D)
    assert torch.allclose(z[2, 3], weight @ hidden[2, 3] + bias[3], atol=1e-6)
    assert torch.equal(project(hidden, None, None), hidden)


def test_norms_are_the_tables_and_directions_the_students() -> None:
    hidden, norms = random(B, W, D), torch.arange(1.0, W + 1)
    z = Structure(norms=norms[:, None]).apply(hidden, EMPTY)
    assert torch.allclose(z.norm(dim=-1), norms.expand(B, W))
    assert torch.allclose(torch.cosine_similarity(z, hidden, dim=-1), torch.ones(B, W))


def test_position_0_is_exactly_the_stored_vector_even_against_the_norm_table() -> None:
    z = whole().apply(random(B, W, S, seed=9), EMPTY)
    assert torch.equal(z[0, 0], random(D, seed=2)) and torch.equal(z[2, 0], z[0, 0])


def test_the_empty_prompt_is_replaced_whole_and_no_other() -> None:
    hidden = random(B, W, S, seed=9)
    z = whole().apply(hidden, EMPTY)
    assert torch.equal(z[1], random(W, D, seed=3))
    assert torch.equal(z[[0, 2]], whole().apply(hidden, torch.zeros(B, dtype=torch.bool))[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_arithmetic_is_fp32_and_the_answer_in_the_students_dtype(dtype: torch.dtype) -> None:
    hidden = random(B, W, S, seed=9).to(dtype)
    z = whole().apply(hidden, EMPTY)
    assert z.dtype == dtype
    assert torch.equal(z, whole().apply(hidden.float(), EMPTY).to(dtype))
