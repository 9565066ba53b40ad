"""`funcattr.metrics.mean_by_class` against a dictionary of lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcattr.compat.torchray.benchmark import PointingGame
from funcattr.metrics import mean_by_class


def slow_mean_by_class(values: list[float], classes: list[int]) -> float:
    by_class: dict[int, list[float]] = {}
    for value, number in zip(values, classes, strict=True):
        by_class.setdefault(number, []).append(value)
    means = [math.fsum(members) / len(members) for members in by_class.values()]
    return math.fsum(means) / len(means)


@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(-3, 3)), min_size=1, max_size=12))
def test_mean_by_class_equals_a_dictionary_of_lists(pairs: list[tuple[float, int]]) -> None:
    values, classes = [list(column) for column in zip(*pairs, strict=True)]
    found = mean_by_class(torch.tensor(values, dtype=torch.float64), torch.tensor(classes))
    assert found.shape == () and found.item() == pytest.approx(slow_mean_by_class(values, classes), abs=1e-12)


def test_hits_by_class_are_the_accuracy_of_torchray() -> None:
    """TorchRay's counts a class without examples as 0: all of them have some here."""
    hits, classes = torch.arange(40) % 3 > 0, torch.arange(40) % 7
    game = PointingGame(num_classes=7)
    for hit, number in zip(hits.tolist(), classes.tolist(), strict=True):
        game.aggregate(1 if hit else -1, number)
    assert mean_by_class(hits, classes).item() == pytest.approx(float(game.accuracy), abs=1e-6)


def test_nan_and_no_examples_have_no_mean() -> None:
    classes = torch.tensor([1, 1, 2])
    assert mean_by_class(torch.tensor([1.0, math.nan, 1.0]), classes).isnan()
    assert mean_by_class(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_mean_keeps_the_dtype_of_the_values(dtype: torch.dtype) -> None:
    values = torch.ones(5000, dtype=dtype)  # more than half precision counts
    assert mean_by_class(values, torch.zeros(5000, dtype=torch.int64)).item() == 1
    assert mean_by_class(values, torch.zeros(5000, dtype=torch.uint8)).dtype == dtype
    assert mean_by_class(torch.tensor([2, 3]), torch.tensor([0, 0])).item() == 2.5


def test_mean_by_class_vmaps_compiles_and_has_a_derivative() -> None:
    values, classes = torch.rand(3, 6, dtype=torch.float64), torch.tensor([[4, 4, 0, 9, 0, 4]] * 2 + [[1] * 6])
    expected = torch.stack([mean_by_class(v, c) for v, c in zip(values, classes, strict=True)])
    torch.testing.assert_close(torch.vmap(mean_by_class)(values, classes), expected)
    torch._dynamo.reset()
    compiled = torch.compile(mean_by_class, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values[0], classes[0]), expected[0])
    torch._dynamo.reset()
    weights = torch.func.grad(mean_by_class)(values[0], classes[0])
    torch.testing.assert_close(weights, torch.tensor([1 / 9, 1 / 9, 1 / 6, 1 / 3, 1 / 6, 1 / 9], dtype=torch.float64))


def test_classes_may_lie_on_another_device() -> None:
    values, classes = torch.zeros(3, device="meta"), torch.tensor([0, 1, 1])
    assert mean_by_class(values, classes).device.type == "meta"


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2).long(), r"values=...\): expected a real number .* got \[2, 1\]"),
        (
            torch.zeros(2, dtype=torch.complex64),
            torch.zeros(2).long(),
            r"values=...\): expected a real number .* of torch.complex64",
        ),
        (torch.zeros(2), torch.zeros(3).long(), r"classes=...\): expected an integer for each value, \[2\], got \[3\]"),
        (torch.zeros(2), torch.zeros(2), r"classes=...\): expected an integer .* got \[2\] of torch.float32"),
        (torch.zeros(2), torch.zeros(2).bool(), r"classes=...\): expected an integer .* got \[2\] of torch.bool"),
    ],
)
def test_what_has_no_mean_by_class_is_refused(values: Tensor, classes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^mean_by_class\({message}"):
        mean_by_class(values, classes)
