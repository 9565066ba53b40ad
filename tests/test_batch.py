"""Copies of examples: neighbours in the batch, with their targets and options, and the way back."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcattr import pointing
from funcattr.attribution.targets import repeated_target
from funcattr.batch import batch_of, merged, parted, repeated

numbers = st.integers(1, 4)


def copies(value: Tensor, times: int) -> list[Any]:
    return [row.tolist() for row in value for _ in range(times)]


@given(numbers, numbers, st.lists(st.integers(1, 3), max_size=2))
def test_each_example_is_followed_by_its_copies(examples: int, times: int, shape: list[int]) -> None:
    x = torch.randn(examples, *shape)
    assert repeated(x, examples, times).tolist() == copies(x, times)


@given(numbers, numbers)
def test_what_has_no_row_for_each_example_stays_the_same_object(examples: int, times: int) -> None:
    other, scalar, text = torch.zeros(examples + 1, 2), torch.tensor(3.0), "as it is"
    tree: Any = {"x": torch.arange(examples), "rest": [other, (scalar, text, None, 7)]}
    found = repeated(tree, examples, times)
    assert found["x"].tolist() == copies(tree["x"], times)
    assert found["rest"][0] is other and found["rest"][1][0] is scalar
    assert found["rest"][1][1:] == (text, None, 7)
    assert repeated(tree, examples, 1) is tree


@given(numbers, numbers, st.data())
def test_targets_go_with_their_examples(examples: int, times: int, data: st.DataObject) -> None:
    classes = data.draw(st.lists(st.integers(0, 9), min_size=examples, max_size=examples))
    expected = [c for c in classes for _ in range(times)]

    def run(target: Any) -> Any:
        return repeated_target("f", target, examples, times)

    assert run(classes) == expected
    assert run(torch.tensor(classes)).tolist() == expected
    first, second = run((torch.tensor(classes), 3))
    assert first.tolist() == expected and second == 3
    assert run(pointing(classes)).parts["target"] == expected
    assert run(pointing(torch.tensor(classes))).parts["target"].tolist() == expected
    assert run(pointing(4)).parts["target"] == 4
    cotangent = torch.randn(examples, 5)
    assert run(cotangent).tolist() == copies(cotangent, times)


def test_targets_for_all_examples_stay_as_they_are() -> None:
    function: Any = lambda y: y[:, 0]  # noqa: E731
    for target in (3, None, function, torch.tensor(2), (1, 2)):
        assert repeated_target("f", target, 2, 3) is target or repeated_target("f", target, 2, 3) == target


@pytest.mark.parametrize(
    "target",
    [
        [0, 1, 2],
        [1],
        [(0, 1)],
        torch.tensor([0, 1, 2]),
        torch.zeros(3, 2).long(),
        (torch.tensor([0]), 1),
        pointing([0]),
    ],
)
def test_targets_of_other_batches_are_refused(target: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^f\(target=\.\.\.\): expected one class or index per example, 2 of them, got"
    ):
        repeated_target("f", target, 2, 3)


@given(numbers, numbers, st.lists(st.integers(0, 3), max_size=2))
def test_merged_and_parted_are_inverse(examples: int, times: int, shape: list[int]) -> None:
    x = torch.randn(examples, times, *shape)
    assert merged(x).tolist() == [x[n, s].tolist() for n in range(examples) for s in range(times)]
    assert torch.equal(parted(merged(x), times), x)


def test_the_batch_of_a_structure_is_what_its_tensors_have_in_common() -> None:
    a, b = torch.zeros(3, 2), torch.zeros(3, 4, 5)
    assert [batch_of("f", x) for x in (a, (a, b), {"a": a, "b": b}, [a, (b, a)])] == [3] * 4


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (1.0, TypeError, r"expected a tensor, a tuple or a dict of tensors, got float"),
        (None, TypeError, r"expected a tensor, a tuple or a dict of tensors, got NoneType"),
        ((), TypeError, r"expected a tensor, a tuple or a dict of tensors, got tuple"),
        ((torch.zeros(2), "text"), TypeError, r"expected a tensor, a tuple or a dict of tensors, got str"),
        (torch.tensor(1.0), ValueError, r"expected a batch of at least one example, got shape \[\]"),
        (torch.zeros(0, 3), ValueError, r"expected a batch of at least one example, got shape \[0, 3\]"),
        (
            (torch.zeros(2, 3), torch.zeros(4, 3)),
            ValueError,
            r"expected inputs with one batch dimension in common, got shapes \[\[2, 3\], \[4, 3\]\]",
        ),
    ],
)
def test_what_is_no_batch_is_refused(x: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^f\(x=\.\.\.\): {message}"):
        batch_of("f", x)
