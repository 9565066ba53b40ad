"""The comparison of attributions fails where it has to."""

from typing import Any

import pytest
import torch
from torch import Tensor

from funcattr.testing import assert_equal, loop

GOOD = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (GOOD * (1 + 1e-6), "told: Tensor-likes are not close"),
        (GOOD[:2], r"told: shape \(2,\), expected \(3,\)"),
        (GOOD.float(), "told: dtype torch.float32, expected torch.float64"),
        (GOOD * float("nan"), "told: Tensor-likes are not close"),
        ((GOOD,), "told: structure"),
    ],
)
def test_assert_equal_fails_on_a_wrong_value_shape_dtype_or_structure(wrong: Any, message: str) -> None:
    assert_equal(GOOD, GOOD.clone(), told="told")
    with pytest.raises(AssertionError, match=message):
        assert_equal(wrong, GOOD, told="told")


def test_assert_equal_takes_structures() -> None:
    assert_equal({"a": (GOOD, 2 * GOOD)}, {"a": (GOOD, 2 * GOOD)})
    with pytest.raises(AssertionError):
        assert_equal({"a": (GOOD, 2 * GOOD)}, {"a": (GOOD, 3 * GOOD)})


def test_nan_equals_nan_only() -> None:
    broken = torch.tensor([float("nan"), 1.0])
    assert_equal(broken, broken.clone())
    with pytest.raises(AssertionError):
        assert_equal(broken, torch.zeros(2))


def test_loop_is_not_the_batched_call() -> None:
    calls: list[int] = []
    loop(lambda v: calls.append(1) or v, torch.zeros(4, 2))
    assert len(calls) == 4


def test_loop_goes_through_structures() -> None:
    def both(batch: dict[str, Tensor], scale: Tensor) -> tuple[Tensor, Tensor]:
        return batch["a"] * scale, batch["b"].sum()

    batch, scale = {"a": torch.randn(3, 2), "b": torch.randn(3, 4)}, torch.randn(3)
    found = loop(both, batch, scale)
    assert_equal(found, (batch["a"] * scale[:, None], batch["b"].sum(1)), tolerance=1e-6)
