"""Targets and picked outputs, against loops that write down each number of the cotangent."""

import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.utils.generic import ModelOutput

import funcattr
from funcattr import pointing
from funcattr.attribution import targets as reading
from funcattr.attribution.targets import pick_output, read_target, repeated_target


def cotangent_of(call: str, output: Tensor, target: Any) -> Tensor:
    """Of a target as people write it."""
    return reading.cotangent_of(call, output, read_target(call, target))


@st.composite
def outputs(draw: st.DrawFn, min_rank: int = 2, max_rank: int = 4) -> Tensor:
    rank = draw(st.integers(min_rank, max_rank))
    shape = [draw(st.integers(1, 4)) for _ in range(rank)]
    return torch.randn(shape, dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])))


def one_at(output: Tensor, chosen: Callable[[int], tuple[Any, ...]]) -> Tensor:
    """Ones where the leading trailing indices of example n are `chosen(n)`, number by number."""
    cotangent = torch.zeros_like(output)
    for position in product(*(range(size) for size in output.shape)):
        wanted = chosen(position[0])
        if position[1 : 1 + len(wanted)] == wanted:
            cotangent[position] = 1
    return cotangent


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@given(outputs(), st.data())
def test_a_class_is_a_one_in_dimension_one_at_every_position(output: Tensor, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, output.shape[1] - 1))
    for target in (c, torch.tensor(c)):
        check(cotangent_of("f", output, target), one_at(output, lambda n: (c,)))


@given(outputs(), st.data())
def test_a_class_per_example_is_the_same_as_a_list_or_a_tensor(output: Tensor, data: st.DataObject) -> None:
    n, k = output.shape[:2]
    classes = data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    for target in (classes, torch.tensor(classes), torch.tensor(classes, dtype=torch.uint8)):
        check(cotangent_of("f", output, target), one_at(output, lambda n: (classes[n],)))


@pytest.mark.parametrize("trailing", [(1,), (3,), (3, 2, 4), (5, 3)])  # [N, 1], [N, K], [N, K, H, W], [N, T, V]
@pytest.mark.parametrize("bad", [-6, 5, 100])
def test_a_class_tensor_out_of_range_is_refused_and_under_vmap_gives_nan(trailing: tuple[int, ...], bad: int) -> None:
    output, classes = torch.randn(3, *trailing), torch.tensor([0, bad, 0])
    with pytest.raises(ValueError, match=rf"f\(target=\.\.\.\): class out of range in \[0, {bad}, 0\]; the output has"):
        cotangent_of("f", output, classes)
    found = torch.func.vmap(lambda t: cotangent_of("f", output, t))(classes[None])[0]
    assert found[1].isnan().all()
    check(found[[0, 2]], one_at(torch.zeros(2, *trailing), lambda n: (0,)))


def test_an_index_tensor_out_of_range_is_refused_and_under_vmap_gives_nan_in_its_example_only() -> None:
    output, index = torch.randn(2, 3, 4), torch.tensor([3, 4])
    with pytest.raises(ValueError, match=r"class out of range in \[3, 4\]; the output has 4 in dimension 2"):
        cotangent_of("f", output, (1, index))
    found = torch.func.vmap(lambda i: cotangent_of("f", output, (1, i)))(index[None])[0]
    assert found[1].isnan().all()
    check(found[:1], one_at(torch.zeros(1, 3, 4), lambda n: (1, 3)))


def test_vmap_over_classes_is_a_loop() -> None:
    output = torch.randn(2, 3, 4)
    shared, each = torch.tensor([0, 2, 1, 2]), torch.tensor([[0, 1], [2, 2], [1, 0]])
    for targets in (shared, each):
        mapped = torch.func.vmap(lambda t: cotangent_of("f", output, t))(targets)
        looped = torch.stack([cotangent_of("f", output, t) for t in targets])
        torch.testing.assert_close(mapped, looped, rtol=0, atol=0, equal_nan=True)


def test_vmap_over_indices_and_cotangents_is_a_loop() -> None:
    output, rows, columns = torch.randn(2, 3, 4), torch.tensor([0, 2]), torch.tensor([[3, 1], [0, 0]])
    mapped = torch.func.vmap(lambda i, j: cotangent_of("f", output, (i, j)))(rows, columns)
    check(mapped, torch.stack([cotangent_of("f", output, (i, j)) for i, j in zip(rows, columns)]))
    cotangents = torch.randn(5, 2, 3, 4)
    check(torch.func.vmap(lambda c: cotangent_of("f", output, c))(cotangents), cotangents)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_seeds_equal_eager_ones() -> None:
    output = torch.randn(2, 3, 4)
    rows = [(1, 3), (-1, 0)]
    for target in (
        *(1, -1, [2, 0], torch.tensor([2, 1]), (1, torch.tensor([3, 0])), torch.randn(2, 3, 4)),
        *(rows, torch.tensor(rows)),
    ):
        compiled = torch.compile(lambda y, t=target: cotangent_of("f", y, t), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(output), cotangent_of("f", output, target), rtol=0, atol=0, equal_nan=True)


@given(outputs(), st.data())
def test_an_index_picks_one_number_per_example(output: Tensor, data: st.DataObject) -> None:
    n, sizes = output.shape[0], output.shape[1:]
    each = [data.draw(st.lists(st.integers(0, s - 1), min_size=n, max_size=n)) for s in sizes]
    per_example = [data.draw(st.booleans()) for _ in sizes]
    per_example[-1] = per_example[-1] and len(sizes) == 1  # vectors alone could be rows
    target = tuple(torch.tensor(i) if many else i[0] for i, many in zip(each, per_example))
    expected = one_at(output, lambda n: tuple(i[n] if many else i[0] for i, many in zip(each, per_example)))
    check(cotangent_of("f", output, target), expected)


@given(outputs(min_rank=1))
def test_a_cotangent_is_itself_in_the_outputs_dtype(output: Tensor) -> None:
    cotangent = torch.randn(output.shape, dtype=torch.float64)
    check(cotangent_of("f", output, cotangent), cotangent.to(output.dtype))


@given(outputs(min_rank=1))
def test_a_function_of_the_output_is_its_gradient(output: Tensor) -> None:
    found = cotangent_of("f", output, lambda y: (y**2).reshape(len(y), -1).sum(1))
    check(found, torch.stack([2 * y for y in output]))


@pytest.mark.parametrize("shape", [[3], [3, 1], [3, 1, 1], [1]])
def test_none_is_a_one_for_each_example(shape: list[int]) -> None:
    check(cotangent_of("f", torch.randn(shape), None), torch.ones(shape))


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        (None, ValueError, r"f\(target=None\): expected an output with one number per example, got shape \[2, 3\]"),
        (3, ValueError, r"f\(target=3\): class out of range; the output has 3 in dimension 1"),
        (-4, ValueError, r"f\(target=-4\): class out of range; the output has 3 in dimension 1"),
        ([0, 3], ValueError, r"f\(target=\[0, 3\]\): class out of range"),
        ([0, 1, 2], ValueError, r"f\(target=...\): expected one class or index per example, 2 of them, got 3"),
        ([], ValueError, "expected one class or index per example, 2 of them, got 0"),
        (torch.tensor([0]), ValueError, "expected one class or index per example, 2 of them, got 1"),
        (torch.tensor([0, 1, 2]), ValueError, "expected one class or index per example, 2 of them, got 3"),
        (torch.tensor([[0], [1], [2]]), ValueError, "expected one class or index per example, 2 of them, got 3"),
        (torch.tensor([[0, 1], [1, 0]]), ValueError, r"\[2, 3\]: 1 numbers, got 2.* a one-hot target is a cotangent"),
        ([(0, 1), (1, 0)], ValueError, r"f\(target=...\): expected an index .* \[2, 3\]: 1 numbers, got 2"),
        ([(0,), (1,), (2,)], ValueError, "expected one class or index per example, 2 of them, got 3"),
        ([(0,), (1, 0)], ValueError, r"f\(target=\[\(0,\), \(1, 0\)\]\): expected index tuples of one length"),
        ([(0,), 1], TypeError, r"f\(target=\[\(0,\), 1\]\): expected ints, or index tuples, got a list of both"),
        ([(True,), (False,)], TypeError, "expected an int, .* got bool"),
        (
            ((0,), (1,)),
            TypeError,
            r"a tuple is one index, for all examples.* One index per example is a list",
        ),
        ((torch.tensor([0, 1]),) * 2, ValueError, r"a tuple of 2 vectors could mean .*: torch.stack\(target, 1\)"),
        ((torch.tensor(0.0),), TypeError, r"expected integers in an index, got torch.float32"),
        (torch.zeros(2, 1, 1, dtype=torch.long), ValueError, r"integers of shape \[N\], .* got shape \[2, 1, 1\]"),
        (torch.tensor([[0.0, math.nan, 0.0]] * 2), ValueError, r"f\(target=...\): expected a cotangent of finite"),
        (torch.tensor([[0.0, math.inf, 0.0]] * 2), ValueError, "a cotangent of finite numbers, got infinity or NaN"),
        (np.array([True, False]), TypeError, "expected integer classes, got an array of bool"),
        (np.bool_(True), TypeError, "expected an int, .* got bool"),
        (np.float32(1), TypeError, "expected an int, .* got float32"),
        (np.array(1.0), TypeError, "expected an int, .* got float64"),
        (np.array(["cat", "dog"]), TypeError, "expected integer classes, got an array of <U3"),
        (np.array([0, 1, 2]), ValueError, "expected one class or index per example, 2 of them, got 3"),
        (np.zeros((2, 1, 1), dtype=int), ValueError, r"got an array of shape \[2, 1, 1\]"),
        (1.0, TypeError, r"f\(target=1.0\): expected an int, .* got float"),
        (math.nan, TypeError, r"f\(target=nan\): expected an int, .* got float"),
        (
            [torch.tensor(0), torch.tensor([1])],
            ValueError,
            r"tensors of one shape, got shapes \[\[\], \[1\]\]",
        ),
        ({0: 1}, TypeError, r"f\(target=\{0: 1\}\): expected an int, .* got dict"),
        (torch.tensor([True, False]), TypeError, "expected integer classes, got torch.bool"),
        (torch.tensor([1j, 0]), TypeError, "expected integer classes, got torch.complex64"),
        (True, TypeError, r"f\(target=True\): expected an int, a list of ints, .*, or an integer tensor, got bool"),
        ("cat", TypeError, r"f\(target='cat'\): expected an int, a list of ints, .*, or an integer tensor, got str"),
        ([0, 1.0], TypeError, r"f\(target=\[0, 1.0\]\): expected an int"),
        ((0, 1), ValueError, r"an index into the trailing dimensions .* \[2, 3\]: 1 numbers, got 2. One class per"),
        ((3,), ValueError, r"class out of range; the output has 3 in dimension 1"),
        ((1.5,), TypeError, r"expected an int"),
        (torch.tensor([0.0, 1.0]), ValueError, r"floating-point target is a cotangent.*\[2, 3\], got shape \[2\]"),
        (lambda y: y, ValueError, r"target=<function>\): expected one number per example, shape \[2\], got \[2, 3\]"),
        (lambda y: y.argmax(1), TypeError, r"target=<function>\): expected floating-point numbers, got torch.int64"),
        (lambda y: y[0, 0].item(), ValueError, r"expected one number per example, shape \[2\], got float"),
        (lambda y: y.sum(), ValueError, r"expected one number per example, shape \[2\], got \[\]"),
        (torch.zeros(2, dtype=torch.long, device="meta"), ValueError, "the target is on meta, the output on cpu"),
        (torch.zeros(2, 3, device="meta"), ValueError, "the target is on meta, the output on cpu"),
    ],
)
def test_bad_targets_say_what_was_expected(target: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        cotangent_of("f", torch.randn(2, 3), target)


@pytest.mark.parametrize("target", [0, [0, 0], torch.tensor([0, 0])])
def test_a_class_of_an_output_without_classes_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match=r"shape \[2\], one number per example. Use target=None"):
        cotangent_of("f", torch.randn(2), target)


# --- indices from the end, per example, of NumPy ---------------------------------------------------------------------


@given(outputs(), st.data())
def test_numbers_below_zero_count_from_the_end(output: Tensor, data: st.DataObject) -> None:
    n, sizes = output.shape[0], output.shape[1:]
    each = [data.draw(st.lists(st.integers(0, s - 1), min_size=n, max_size=n)) for s in sizes]
    rows = [tuple(i[k] for i in each) for k in range(n)]
    ends = [tuple(v - s for v, s in zip(row, sizes)) for row in rows]
    classes = [row[0] for row in ends]
    by_class, by_index = one_at(output, lambda n: (each[0][n],)), one_at(output, lambda n: rows[n])
    for target in (classes, torch.tensor(classes), torch.tensor(classes, dtype=torch.int8), np.array(classes)):
        check(cotangent_of("f", output, target), by_class)
    for target in (ends, torch.tensor(ends), np.array(ends), [list(row) for row in ends]):
        check(cotangent_of("f", output, target), by_index)
    check(cotangent_of("f", output, ends[0]), one_at(output, lambda n: rows[0]))
    check(cotangent_of("f", output, classes[0]), one_at(output, lambda n: rows[0][:1]))


def test_small_integers_count_far() -> None:
    output = torch.zeros(1, 300)
    check(cotangent_of("f", output, torch.tensor([-1], dtype=torch.int8)), one_at(output, lambda n: (299,)))
    check(cotangent_of("f", output, torch.tensor([250], dtype=torch.uint8)), one_at(output, lambda n: (250,)))


@given(outputs(), st.data())
def test_an_index_per_example_is_the_same_in_every_spelling(output: Tensor, data: st.DataObject) -> None:
    row = st.tuples(*(st.integers(0, s - 1) for s in output.shape[1:]))
    rows = data.draw(st.lists(row, min_size=len(output), max_size=len(output)))
    expected = one_at(output, lambda n: rows[n])
    array = np.array(rows)
    spellings = (
        *(rows, [list(row) for row in rows], torch.tensor(rows), torch.tensor(rows, dtype=torch.int32)),
        *([torch.tensor(row) for row in rows], array, array.astype(np.uint8), list(array)),
        [tuple(np.int16(v) for v in row) for row in rows],
    )
    for target in spellings:
        check(cotangent_of("f", output, target), expected)


def test_numpys_classes_are_classes() -> None:
    output = torch.randn(2, 3)
    for one in (np.int64(2), np.uint8(2), np.array(2), np.int32(-1)):
        check(cotangent_of("f", output, one), cotangent_of("f", output, 2))
    for each in (np.array([2, 0]), [np.int64(2), np.int64(0)], [torch.tensor(2), torch.tensor(0)], np.array([-1, 0])):
        check(cotangent_of("f", output, each), cotangent_of("f", output, [2, 0]))
    cotangent = np.array([[0.5, 0, 1], [2, 3, 4]])
    check(cotangent_of("f", output, cotangent), torch.tensor(cotangent, dtype=torch.float32))
    check(cotangent_of("f", torch.randn(2, 3, 4), (np.int64(-1), np.array([3, 0]))), one_at(
        torch.zeros(2, 3, 4), lambda n: (2, [3, 0][n])
    ))  # fmt: skip
    check(cotangent_of("f", output, pointing(np.array([-1, 0]))), cotangent_of("f", output, [2, 0]))


def test_an_index_per_example_under_vmap_is_a_loop_and_out_of_range_nan() -> None:
    output, targets = torch.randn(2, 3, 4), torch.tensor([[[2, 1], [-1, 3]], [[0, -4], [3, 0]]])
    mapped = torch.func.vmap(lambda t: cotangent_of("f", output, t))(targets)
    check(mapped[0], one_at(output, lambda n: [(2, 1), (2, 3)][n]))
    check(mapped[1, :1], one_at(output[:1], lambda n: (0, 0)))
    assert mapped[1, 1].isnan().any()


def test_an_index_per_example_is_repeated_with_the_examples() -> None:
    rows = [(2, 1), (0, 3)]
    expected = [(2, 1), (2, 1), (0, 3), (0, 3)]
    assert repeated_target("f", rows, 2, 2) == expected
    found: Any = repeated_target("f", torch.tensor(rows), 2, 2)
    check(found, torch.tensor(expected))
    with pytest.raises(ValueError, match="expected one class or index per example, 3 of them, got 2"):
        repeated_target("f", torch.tensor(rows), 3, 2)


def positions(x: Tensor) -> Tensor:
    """[N, T, C] -> [N, T, C], each position by those up to it."""
    return x.cumsum(1) ** 2


METHODS_WITH_SAMPLES: dict[str, Callable[..., Tensor]] = {
    "integrated_gradients": partial(funcattr.integrated_gradients, steps=4, chunk_size=3),
    "expected_gradients": partial(funcattr.expected_gradients, samples=4, chunk_size=3),
    "feature_ablation": partial(funcattr.feature_ablation, chunk_size=5),
    "occlusion": partial(funcattr.occlusion, window=(2,), chunk_size=2),
    "shapley_sampling": partial(funcattr.shapley_sampling, permutations=torch.arange(12).expand(2, 12)),
    "gradient": funcattr.gradient,
    "lrp": partial(funcattr.lrp, rules={"cumsum": funcattr.rules.GRADIENT, "pow": funcattr.rules.GRADIENT}),
    "noise_tunnel": lambda f, x, t: funcattr.noise_tunnel(partial(funcattr.gradient, f), x, t, samples=3, chunk_size=2),
}


@pytest.mark.parametrize("method", METHODS_WITH_SAMPLES.values(), ids=METHODS_WITH_SAMPLES)
@pytest.mark.parametrize("write", [list, torch.tensor, np.array], ids=["tuples", "tensor", "array"])
def test_an_index_per_example_goes_with_its_example(method: Callable[..., Tensor], write: Any) -> None:
    x, rows = torch.randn(2, 3, 4, dtype=torch.float64), [(-1, 1), (0, -1)]
    alone = torch.cat([method(positions, x[i : i + 1], ((2, 1), (0, 3))[i]) for i in range(2)])
    torch.testing.assert_close(method(positions, x, write(rows)), alone)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("write", [list, torch.tensor], ids=["tuples", "tensor"])
def test_an_index_per_example_in_compiled_code(write: Any) -> None:
    x, target = torch.randn(2, 3, 4), write([(-1, 1), (0, -1)])
    fm = funcattr.functionalize(positions)
    compiled = torch.compile(lambda x: funcattr.gradient(fm, x, target), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), funcattr.gradient(fm, x, target))


def test_an_index_per_example_under_vmap_of_a_method_is_a_loop() -> None:
    x, targets = torch.randn(2, 3, 4), torch.tensor([[[2, 1], [-1, 3]], [[0, -4], [1, 0]]])
    mapped = torch.vmap(lambda t: funcattr.integrated_gradients(positions, x, t, steps=3))(targets)
    looped = torch.stack([funcattr.integrated_gradients(positions, x, t, steps=3) for t in targets])
    torch.testing.assert_close(mapped, looped)


# --- pointing --------------------------------------------------------------------------------------------------------


def pointing_loop(output: Tensor, classes: list[int]) -> Tensor:
    """exp(y[:, c]) over its sum over space, in exact Python floats."""
    seeds = torch.zeros_like(output)
    for n, c in enumerate(classes):
        logits = output[n, c].flatten().tolist()
        weights = [math.exp(v - max(logits)) for v in logits]
        seeds[n, c] = torch.tensor([w / sum(weights) for w in weights], dtype=output.dtype).reshape(output[n, c].shape)
    return seeds


@given(st.lists(st.integers(1, 3), max_size=3), st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_pointing_is_the_spatial_softmax_of_the_class(space: list[int], classes: list[int]) -> None:
    output = 3 * torch.randn(len(classes), 3, *space, dtype=torch.float64)
    for target in (classes, torch.tensor(classes)):
        torch.testing.assert_close(cotangent_of("f", output, pointing(target)), pointing_loop(output, classes))
    torch.testing.assert_close(cotangent_of("f", output, pointing(1)), pointing_loop(output, [1] * len(classes)))


@pytest.mark.parametrize("target", [torch.ones(2, 3), torch.ones(2), (0, 1), [(0, 1)], None, lambda y: y.sum(1)])
def test_pointing_is_at_classes(target: Any) -> None:
    with pytest.raises(TypeError, match=r"(?s)^pointing\(.*\): expected a class, or one class per example"):
        pointing(target)


def test_pointing_does_not_overflow_in_float32() -> None:
    output = torch.randn(2, 3, 4, 4) * 1e4
    found = cotangent_of("f", output, pointing([2, 0]))
    torch.testing.assert_close(found, pointing_loop(output, [2, 0]))
    torch.testing.assert_close(found.flatten(1).sum(1), torch.ones(2))


def test_pointing_without_space_is_the_class() -> None:
    output = torch.randn(2, 3) * 1e4
    check(cotangent_of("f", output, pointing([2, 0])), cotangent_of("f", output, [2, 0]))


def test_pointing_at_a_class_tensor_out_of_range_gives_nan() -> None:
    found = cotangent_of("f", torch.randn(2, 3, 2, 2), pointing(torch.tensor([0, 3])))
    assert found[1].isnan().all()
    assert found[0].isfinite().all()


def test_pointing_under_vmap_is_a_loop() -> None:
    output, classes = torch.randn(2, 3, 2, 2), torch.tensor([[0, 1], [2, 2]])
    mapped = torch.func.vmap(lambda c: cotangent_of("f", output, pointing(c)))(classes)
    check(mapped, torch.stack([cotangent_of("f", output, pointing(c)) for c in classes]))


def test_pointing_at_a_class_beside_infinite_ones() -> None:
    output = torch.randn(2, 3, 2, 2)
    output[:, 1] = -torch.inf
    masked = output.masked_fill(output.isinf(), 0.0)
    torch.testing.assert_close(cotangent_of("f", output, pointing([2, 0])), pointing_loop(masked, [2, 0]))


def test_pointing_reads_as_written() -> None:
    assert repr(pointing(7)) == "pointing(7)"


@pytest.mark.parametrize(
    ("target", "kind"),
    [(3, ValueError), ([0], ValueError), ("cat", TypeError), (None, TypeError), ((0,), TypeError), ([(0,)], TypeError)],
)
def test_pointing_at_nothing_is_refused(target: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="pointing"):
        cotangent_of("f", torch.randn(2, 3), pointing(target))


@dataclass
class Detected:
    boxes: Tensor
    count: int


@dataclass
class Classified:
    logits: Tensor
    features: Tensor


@dataclass
class Answer(ModelOutput):
    """An output as of Hugging Face's models, which are ordered dictionaries and have attributes."""

    logits: Tensor | None = None
    hidden: Tensor | None = None
    other: Tensor | None = None


Y, Z = torch.randn(2, 3), torch.randn(2, 4)
WithLogits = namedtuple("WithLogits", ["features", "logits"])
Pair = namedtuple("Pair", ["first", "second"])


@pytest.mark.parametrize(
    ("value", "output", "picked"),
    [
        (Y, None, Y),
        ((Y,), None, Y),
        ({"out": Y}, None, Y),
        ({"logits": Y, "aux": Z}, None, Y),
        (WithLogits(Z, Y), None, Y),
        (Classified(Y, Z), None, Y),
        (Answer(logits=Y, hidden=Z), None, Y),
        (Answer(other=Y), None, Y),
        ((Z, Y), 1, Y),
        ({"out": Z, "aux": Y}, "aux", Y),
        (OrderedDict(out=Y, aux=Z), "out", Y),
        ({0: Z, 1: Y}, 1, Y),
        (Pair(Z, Y), "second", Y),
        (Pair(Z, Y), 1, Y),
        (Classified(Z, Y), "features", Y),
        (Detected(Y, 1), "boxes", Y),
        (Answer(logits=Z, hidden=Y), "hidden", Y),
    ],
)
def test_the_output_is_picked(value: Any, output: str | int | None, picked: Tensor) -> None:
    assert pick_output("f", value, output) is picked


@pytest.mark.parametrize(
    ("value", "output", "kind", "message"),
    [
        ((Y, Z), None, ValueError, "several things; say which with output=. It has 2 items, fields unnamed"),
        (Pair(Y, Z), None, ValueError, r"say which with output=. It has 2 items, fields \('first', 'second'\)"),
        ({"b": Y, "a": Z}, None, ValueError, r"say which with output=. It has the keys \['a', 'b'\]"),
        (Answer(hidden=Y, other=Z), None, ValueError, r"the keys \['hidden', 'other'\]"),
        (Detected(Y, 1), None, ValueError, r"the fields \['boxes', 'count'\]"),
        ({"a": Y}, "b", ValueError, r"f\(output='b'\): the model's output has no such part. It has the keys \['a'\]"),
        ((Y, Z), 2, ValueError, r"f\(output=2\): the model's output has no such part. It has 2 items"),
        (Pair(Y, Z), "third", ValueError, r"no such part. It has 2 items, fields \('first', 'second'\)"),
        (Detected(Y, 1), "scores", ValueError, r"no such part. It has the fields \['boxes', 'count'\]"),
        (Y, "logits", ValueError, r"f\(output='logits'\): the model's output has no such part. It has the type Tensor"),
        (Y, 0, ValueError, r"f\(output=0\): the model's output has no such part. It has the type Tensor"),
        ((Y, Z), True, TypeError, r"f\(output=True\): expected a key, an index or an attribute's name"),
        ((Y, Z), False, TypeError, r"f\(output=False\): expected a key, an index"),
        ({1: Y}, 1.0, TypeError, r"f\(output=1.0\): expected a key, an index"),
        ({0: Y}, np.bool_(False), TypeError, r"expected a key, an index or an attribute's name"),
        (Detected(Y, 1), "count", TypeError, "f: expected the model to return a tensor, got int"),
        (3.0, None, TypeError, "f: expected the model to return a tensor, got float"),
        (torch.tensor([1]), None, TypeError, "f: expected a floating-point output, got torch.int64"),
    ],
)
def test_bad_outputs_say_what_there_is(value: Any, output: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        pick_output("f", value, output)
