"""Torch's own operations: the recorded pullback of each is autograd's, or an error names it."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import funcattr
from funcattr import FuncattrError

from ..sweeps import long, sweep

with warnings.catch_warnings():  # the table itself uses what torch deprecates
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.GRADIENT})
QUICK = 1
"""How many samples of each operation every run tries; all take a minute and a half."""
REFUSED = {
    "sign": ("does not depend on the input", "its derivative is zero wherever it has one: a query, as a comparison is"),
    "sgn": ("does not depend on the input", "as sign"),
}
"""Operations that are refused, with words of the error, and why."""
REFUSED_SAMPLES = {
    "nn_functional_embedding": ("embedding, which writes into an operand", "max_norm= writes into the weight"),
    "nn_functional_embedding_bag": ("embedding_bag, which writes into an operand", "max_norm= writes into the weight"),
}
"""Operations of which some samples are refused, with words of the error, and why."""


def differentiated() -> dict[str, Any]:
    """The operations that torch differentiates in float64 on a CPU, by name."""
    every = {op.formatted_name: op for op in op_db}
    return {
        name: op
        for name, op in every.items()
        if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu")
    }


OPERATIONS = differentiated()


class Sample(NamedTuple):
    """A call of an operation as a function of the tensors in it that have a derivative."""

    function: Callable[..., tuple[Tensor, ...]]
    primals: tuple[Tensor, ...]


def functions_of(op: Any, sample: Any) -> Iterator[Sample]:
    """The call as a function of its input, and of all floating-point tensors if autograd can do that."""
    flat, spec = pytree.tree_flatten((sample.input, tuple(sample.args), sample.kwargs))
    every = [i for i, v in enumerate(flat) if isinstance(v, Tensor) and v.is_floating_point()]
    first = len(pytree.tree_leaves(sample.input))
    for places in dict.fromkeys((tuple(every), tuple(i for i in every if i < first))):

        def function(*primals: Tensor, places: tuple[int, ...] = places) -> tuple[Tensor, ...]:
            values = list(flat)
            for i, x in zip(places, primals, strict=True):
                values[i] = x
            source, args, kwargs = pytree.tree_unflatten(values, spec)
            torch.manual_seed(1)  # the same draws in each call
            out = sample.output_process_fn_grad(op(source, *args, **kwargs))
            return tuple(v for v in pytree.tree_leaves(out) if isinstance(v, Tensor))

        if places:
            yield Sample(function, tuple(flat[i] for i in places))


def by_autograd(sample: Sample) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[Tensor]] | None:
    """The outputs, the cotangents for them, and autograd's pullback of those; None where autograd has none."""
    leaves = [x.clone().requires_grad_() for x in sample.primals]
    try:
        outputs = sample.function(*(leaf.clone() for leaf in leaves))
        followed = [y for y in outputs if y.requires_grad]
        if not followed:
            return None
        torch.manual_seed(2)
        cotangents = [torch.randn_like(y) if y.requires_grad else torch.zeros_like(y) for y in outputs]
        seeds = [g for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
        pulled = torch.autograd.grad(followed, leaves, seeds, allow_unused=True)
    except RuntimeError:  # it has no derivative by some of these tensors
        return None
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(sample.primals, pulled, strict=True)]
    return outputs, tuple(cotangents), filled


def check(name: str, count: int | None) -> int:
    """How many calls of an operation have a recorded pullback that is autograd's; raises for any other."""
    checked, op = 0, OPERATIONS[name]
    torch.manual_seed(0)
    for given in itertools.islice(op.sample_inputs("cpu", torch.float64, requires_grad=False), count):
        ways = ((sample, by_autograd(sample)) for sample in functions_of(op, given))
        sample, right = next(((s, r) for s, r in ways if r is not None), (None, None))
        if sample is None or right is None:
            continue
        outputs, cotangents, expected = right
        try:
            recorded, pull = funcattr.vjp(sample.function, *sample.primals, rules=RECORDED)
        except FuncattrError as error:
            if name in REFUSED_SAMPLES and REFUSED_SAMPLES[name][0] in str(error):
                continue
            raise
        pairs = [*zip(recorded, outputs, strict=True), *zip(pull(cotangents), expected, strict=True)]
        for got, want in pairs:
            torch.testing.assert_close(dense(got), dense(want), rtol=1e-7, atol=1e-9, equal_nan=True)
        checked += 1
    return checked


def dense(value: Tensor) -> Tensor:
    value = value.detach()
    value = value if value.layout is torch.strided else value.to_dense()
    return value.to(torch.complex64) if value.dtype is torch.complex32 else value


NAMES = sorted(OPERATIONS.keys() - REFUSED.keys())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sweep(NAMES, quick=NAMES[::10]))
def test_the_recorded_pullback_is_that_of_autograd(name: str) -> None:
    check(name, QUICK)


@long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_pullback_is_that_of_autograd_for_every_sample(name: str) -> None:
    assert check(name, None) > 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_by_an_error_of_ours(name: str) -> None:
    words, _ = REFUSED[name]
    with pytest.raises(FuncattrError, match=words):
        check(name, QUICK)


def test_the_table_is_not_empty() -> None:
    assert len(OPERATIONS) > 500
