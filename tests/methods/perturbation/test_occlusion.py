"""Occlusion: windows of any rank, at the border too, against loops over slices."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from funcattr.methods.perturbation.occlusion import occlusion
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal

few = settings(max_examples=25)


def net(values: int) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Flatten(), nn.Linear(values, 4), nn.Tanh(), nn.Linear(4, 3)))


@given(st.data())
@few
def test_equals_loops_over_slices(data: st.DataObject) -> None:
    size = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    rank = data.draw(st.integers(1, len(size)))
    window = tuple(data.draw(st.integers(1, length)) for length in size[-rank:])
    steps = tuple(data.draw(st.integers(1, wide)) for wide in window)
    stride: Any = data.draw(st.sampled_from([steps, min(window), 1]))
    examples = data.draw(st.integers(1, 2))
    shapes = [(), (1, *size), (examples, *size), (size[-1],)]
    baseline = uniform(*data.draw(st.sampled_from(shapes)), seed=3)
    x, model = uniform(examples, *size), net(torch.Size(size).numel())
    options: Any = {"window": window, "stride": stride, "baseline": baseline}
    target: Any = data.draw(st.sampled_from([1, [2, 0][:examples]]))
    actual = occlusion(model, x, target, **options, chunk_size=data.draw(st.sampled_from([None, 1, 3])))
    assert_equal(actual, references.occlusion(model, x, target, **options))


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    a = occlusion(lambda x: x.sum(1), x, window=(3,), stride=2)
    # Windows on 0..2 and on 2..3, where the border cuts it.
    assert a.tolist() == [[7.0, 7.0, (7 + 12) / 2, 12.0]]


def test_windows_side_by_side_sum_to_the_rise_of_an_additive_score() -> None:
    x, weights = uniform(2, 3, 6, 6), uniform(3, 6, 6, seed=2)
    a = occlusion(lambda x: (x * weights).sum((1, 2, 3)), x, window=(2, 3), stride=(2, 3), baseline=0.5)
    one_each = a[:, 0, ::2, ::3]
    assert_equal(one_each.sum((1, 2)), ((x - 0.5) * weights).sum((1, 2, 3)))


def test_leading_dimensions_are_covered_as_a_whole() -> None:
    model, x = net(24), uniform(2, 2, 3, 4)
    assert_equal(occlusion(model, x, 1, window=(2, 2)), occlusion(model, x, 1, window=(2, 2, 2)), tolerance=1e-12)
    assert not torch.allclose(occlusion(model, x, 1, window=(2, 2)), occlusion(model, x, 1, window=(1, 2, 2)))


@pytest.mark.parametrize(
    ("window", "stride"),
    [((2,), 1), ((2,), (2,)), ((2,), ((2,), (1,))), (((2,), (1, 2)), 1), (((3,), (1, 2)), ((2,), (1, 2)))],
)
def test_several_inputs_are_covered_one_at_a_time(window: Any, stride: Any) -> None:
    inner, x = net(10), (uniform(2, 4), uniform(2, 2, 3, seed=2))

    def model(a: Tensor, b: Tensor) -> Tensor:
        return inner(torch.cat([a, b.flatten(1)], 1))

    options: Any = {"window": window, "stride": stride, "baseline": (0.1, uniform(2, 3, seed=4))}
    for chunk_size in (1, None):
        actual = occlusion(model, x, [1, 2], **options, chunk_size=chunk_size)
        for a, e in zip(actual, references.occlusion(model, x, [1, 2], **options), strict=True):
            assert_equal(a, e)
    by_name = occlusion(lambda a, b: model(a, b), {"b": x[1], "a": x[0]}, 1, window={"b": (1, 2), "a": (2,)})
    in_order = occlusion(model, x, 1, window=((2,), (1, 2)))
    assert_equal(by_name["a"], in_order[0], tolerance=1e-12)
    assert_equal(by_name["b"], in_order[1], tolerance=1e-12)


def test_a_window_of_no_dimension_covers_the_example() -> None:
    x = uniform(3, 2, 4)
    found = occlusion(lambda x: x.flatten(1).prod(1), x, window=(), baseline=0.5)
    lost = x.flatten(1).prod(1) - 0.5**8
    assert_equal(found, lost.reshape(3, 1, 1).expand(3, 2, 4), tolerance=1e-12)
    a, b = uniform(5), uniform(5, seed=2)
    of_a, of_b = occlusion(lambda a, b: a * b, (a, b), window=(), baseline=(0.5, 0.0))
    assert_equal(of_a, (a - 0.5) * b, tolerance=1e-12)
    assert_equal(of_b, a * b, tolerance=1e-12)


def test_token_ids_get_the_scores_dtype() -> None:
    embedding, ids = settle(lambda: nn.Embedding(7, 3)), torch.tensor([[1, 4, 2, 2], [6, 6, 0, 1]])

    def model(ids: Tensor) -> Tensor:
        return embedding(ids).prod(1)

    found = occlusion(model, ids, 1, window=(2,), baseline=5)
    assert found.dtype == torch.float64
    assert_equal(found, references.occlusion(model, ids, 1, window=(2,), baseline=5))


X = uniform(2, 3, 4, 5)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "number": ({"window": 2}, TypeError, r"^occlusion\(window=2\): expected a tuple of ints, such as \(16, 16\)"),
    "list": ({"window": [2, 2]}, ValueError, r"^occlusion\(window=\[2, 2\]\): expected a tuple of ints, or 1 of them"),
    "fraction": ({"window": (2.5, 2)}, ValueError, r"^occlusion\(window=\(2.5, 2\)\): expected a tuple of ints, or 1"),
    "zero": ({"window": (0, 2)}, ValueError, r"^occlusion\(window=0\): expected at least 1"),
    "too large": (
        {"window": (2, 6)},
        ValueError,
        r"^occlusion\(window=\(2, 6\)\): larger than the input, whose trailing sizes are \[4, 5\]",
    ),
    "too many": (
        {"window": (2, 3, 4, 5)},
        ValueError,
        r"^occlusion\(window=\(2, 3, 4, 5\)\): expected at most 3 sizes",
    ),
    "two windows": (
        {"window": ((2, 2), (2, 2))},
        ValueError,
        r"expected a tuple of ints, or 1 of them structured as x",
    ),
    "stride": (
        {"stride": (1, 3)},
        ValueError,
        r"^occlusion\(stride=\(1, 3\)\): larger than the window \(2, 2\), so that it misses values",
    ),
    "stride of 0": ({"stride": 0}, ValueError, r"^occlusion\(stride=0\): expected at least 1"),
    "strides": (
        {"stride": (1, 1, 1)},
        ValueError,
        r"^occlusion\(stride=\(1, 1, 1\)\): expected one number, or 2 as the",
    ),
    "stride as text": ({"stride": "1"}, TypeError, r"^occlusion\(stride=...\): expected an int, got str"),
    "baseline": ({"baseline": X[:, :, :2]}, ValueError, r"^occlusion\(baseline=...\): expected the input's shape"),
    "chunk": ({"chunk_size": -1}, ValueError, r"^occlusion\(chunk_size=-1\): expected at least 1"),
    "class": ({"target": 3}, ValueError, r"^occlusion\(target=3\): class out of range"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    change, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        occlusion(**{"model": net(60), "x": X, "target": 1, "window": (2, 2)} | change)
