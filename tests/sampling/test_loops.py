"""Loops over samples: each number once and in order, in chunks, and in compiled code one body."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcattr.sampling.loops import chunk_of, loop, positive

from ..graphs import calls_in

CPU = torch.device("cpu")


def squares(carry: Any, samples: Tensor) -> tuple[Any, tuple[Tensor, Tensor]]:
    """Sum of the samples' squares and how many there were; each of them and its double come out."""
    values = samples.double()
    part = {"sum": values.square().sum(), "count": torch.ones_like(values).sum()}
    return part if carry is None else pytree.tree_map(torch.add, carry, part), (values * 2, values[:, None].square())


def looped(body: Any, carry: Any, count: int, chunk: int) -> Any:
    return loop("f", body, carry, count, chunk, device=CPU)


# --- eager -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_sample_comes_once_and_in_order(count: int, chunk: int) -> None:
    seen: list[list[int]] = []

    def body(carry: Any, samples: Tensor) -> Any:
        seen.append(samples.tolist())
        return squares(carry, samples)

    start = {"sum": torch.tensor(0.0).double(), "count": torch.tensor(0.0).double()}
    for carry in (None, start):
        seen.clear()
        total, (doubles, each) = looped(body, carry, count, chunk)
        assert [sample for part in seen for sample in part] == list(range(count))
        assert all(len(part) == chunk for part in seen[:-1]) and len(seen[-1]) <= chunk
        assert total["sum"] == sum(k * k for k in range(count)) and total["count"] == count
        assert doubles.tolist() == [2 * k for k in range(count)]
        assert each.tolist() == [[k * k] for k in range(count)]


def test_a_body_may_have_no_outputs() -> None:
    assert looped(lambda carry, samples: (samples.sum(), ()), None, 4, 2) == (torch.tensor(5), ())


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False)])
def test_progress_is_shown_when_asked_for(progress: bool, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    loop("noise_tunnel", squares, None, 10, 2, device=CPU, progress=progress)
    told = capsys.readouterr()
    assert ("noise_tunnel" in told.err and "/5" in told.err) == shown
    assert told.out == ""


# --- chunk sizes -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 2000), st.integers(1, 10**8), st.integers(1, 40))
@settings(max_examples=50)
def test_by_default_sixteen_examples_or_four_million_values_run_at_once(count: int, size: int, examples: int) -> None:
    chunk = chunk_of("f", None, count, size, examples)
    assert 1 <= chunk <= count
    assert chunk == 1 or (chunk * examples <= 16 and chunk * examples * size <= 2**22)
    more = chunk + 1
    assert more > count or more * examples > 16 or more * examples * size > 2**22


def test_the_chunk_size_that_is_asked_for_is_taken() -> None:
    assert chunk_of("f", 7, 100, 10**9, 32) == 7
    assert chunk_of("f", 1000, 100, 1) == 100
    assert chunk_of("f", None, 1000, 3 * 224 * 224) == 16
    assert chunk_of("f", None, 1000, 3 * 224 * 224, examples=8) == 2
    assert chunk_of("f", None, 5, 0) == 5


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (0, ValueError, r"^f\(steps=0\): expected at least 1\.$"),
        (-1, ValueError, r"^f\(steps=-1\): expected at least 1\.$"),
        (True, TypeError, r"^f\(steps=\.\.\.\): expected an int, got bool\.$"),
        (2.5, TypeError, r"^f\(steps=\.\.\.\): expected an int, got float\.$"),
        (torch.tensor(2), TypeError, r"^f\(steps=\.\.\.\): expected an int, got Tensor\.$"),
        (None, TypeError, r"^f\(steps=\.\.\.\): expected an int, got NoneType\.$"),
    ],
)
def test_counts_are_positive_ints(value: Any, kind: type[Exception], message: str) -> None:
    assert positive("f", "steps", 3) == 3
    with pytest.raises(kind, match=message):
        positive("f", "steps", value)
    if value is not None:
        with pytest.raises(kind, match=message.replace("steps", "chunk_size")):
            chunk_of("f", value, 10, 1)


# --- compiled --------------------------------------------------------------------------------------------------------


def waves(x: Tensor, count: int, chunk: int) -> Any:
    """sum_k sin(k x), and each of them."""

    def body(carry: Any, samples: Tensor) -> Any:
        each = torch.sin(samples.to(x.dtype)[:, None] * x)
        return each.sum(0) if carry is None else carry + each.sum(0), (each,)

    return loop("f", body, None, count, chunk, device=x.device)


def total(x: Tensor, count: int, chunk: int) -> Tensor:
    return waves(x, count, chunk)[0]


def check(actual: Any, expected: Any) -> None:
    for a, b in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


X = torch.linspace(-1, 1, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("count", "chunk", "bodies"),
    [
        (20, 2, 1),  # a scan
        (21, 2, 2),  # and what is left over
        (3, 2, 2),  # less than two whole chunks: written out
    ],
)
def test_compiled_the_body_is_there_once(count: int, chunk: int, bodies: int, fresh_dynamo: None) -> None:
    counter = calls_in(lambda x: waves(x, count, chunk), "sin")
    for scale in (1, 2):
        check(counter.run(scale * X), waves(scale * X, count, chunk))
    assert counter.calls == {"aten.sin.default": bodies} and counter.graphs == 1


TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "vmap": lambda f: lambda x: torch.vmap(f)(torch.stack([x, 2 * x])),
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum()),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_inside_a_transform_the_chunks_are_written_out(name: str, fresh_dynamo: None) -> None:
    function = TRANSFORMS[name](lambda x: total(x, 7, 2))
    counter = calls_in(function, "sin")
    check(counter.run(X), function(X))
    assert counter.calls["aten.sin.default"] in (0, 4) and counter.graphs == 1  # a derivative needs cosines only


def test_compiled_a_loop_in_a_loop(fresh_dynamo: None) -> None:
    def nested(x: Tensor) -> Any:
        def body(carry: Any, samples: Tensor) -> Any:
            inner = total(x * samples.sum(), 4, 2)
            return inner if carry is None else carry + inner, ()

        return loop("f", body, None, 6, 1, device=x.device)[0]

    counter = calls_in(nested, "sin")
    check(counter.run(X), nested(X))
    # The outer body once, in it the inner one for each of its two chunks; the run that tells shapes may leave its scan.
    assert counter.calls["aten.sin.default"] in (2, 3)


def test_compiled_keeps_a_given_carry_and_its_dtypes(fresh_dynamo: None) -> None:
    def counted(x: Tensor) -> Any:
        def body(carry: Any, samples: Tensor) -> Any:
            return {"n": carry["n"] + len(samples), "x": carry["x"] * 0.5 + samples.sum()}, ()

        return loop("f", body, {"n": torch.tensor(5), "x": x}, 10, 2, device=x.device)[0]

    compiled = torch.compile(counted, fullgraph=True, backend="aot_eager")
    check(compiled(X), counted(X))
    assert compiled(X)["n"] == 15


def test_compiled_the_backward_of_a_loop(fresh_dynamo: None) -> None:
    compiled = torch.compile(lambda x: waves(x, 7, 2), fullgraph=True, backend="aot_eager")
    leaf = X.clone().requires_grad_()
    actual, expected = compiled(leaf), waves(leaf, 7, 2)
    check(actual, expected)
    for part in (lambda found: found[0].sum(), lambda found: (found[1][0] * X).sum()):
        check(torch.autograd.grad(part(compiled(leaf)), leaf)[0], torch.autograd.grad(part(waves(leaf, 7, 2)), leaf)[0])
    assert not compiled(X)[0].requires_grad


def test_the_count_of_bodies_sees_written_out_ones(fresh_dynamo: None) -> None:
    """What the tests above would say of a loop without a scan."""

    def written_out(x: Tensor) -> Tensor:
        return torch.stack([torch.sin(k * x) for k in range(5)]).sum(0)

    counter = calls_in(written_out, "sin")
    counter.run(X)
    assert counter.calls == {"aten.sin.default": 5}
