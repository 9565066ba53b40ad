"""Targets made of data: contrasts, spans, similarities, and functions of all outputs, against loops and autograd."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import contrast, of_outputs, pointing, similarity, span
from funcattr.attribution.targets import cotangent_of, read_target

from ..sweeps import long
from .test_targets import METHODS_WITH_SAMPLES, positions

each_method = pytest.mark.parametrize("method", METHODS_WITH_SAMPLES.values(), ids=METHODS_WITH_SAMPLES)


def wrong(value: Any) -> Any:
    """A value that no type admits, or that is told apart as the test runs."""
    return value


def by_autograd(output: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = output.clone().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def log_probs_of(output: Tensor, rows: list[list[tuple[int, int]]]) -> Tensor:
    """The sum of log-probabilities of (position, token) pairs, written out with exponentials."""
    found = []
    for example, pairs in zip(output, rows, strict=True):
        found.append(sum(example[p, v] - example[p].exp().sum().log() for p, v in pairs))
    return torch.stack([torch.as_tensor(value) for value in found])


def logits_of(output: Tensor, rows: list[list[tuple[int, int]]]) -> Tensor:
    return torch.stack([sum((y[p, v] for p, v in pairs), y.new_zeros(())) for y, pairs in zip(output, rows)])


OUTPUT = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SPANS: dict[str, tuple[Any, Any, list[list[tuple[int, int]]]]] = {
    "for all": ([1, 4], 1, [[(1, 1), (2, 4)]] * 2),
    "from the end": ([1, 4], -2, [[(2, 1), (3, 4)]] * 2),
    "for each": (torch.tensor([[1, 4], [0, 0]]), torch.tensor([[0, 3], [2, 2]]), [[(0, 1), (3, 4)], [(2, 0), (2, 0)]]),
    "of different lengths": ([[1, 4, 2], [3]], [[0, 1, 2], [-1]], [[(0, 1), (1, 4), (2, 2)], [(3, 3)]]),
    "from one place": ([[1, 4, 2], [3]], 0, [[(0, 1), (1, 4), (2, 2)], [(0, 3)]]),
    "one token": (torch.tensor([3]), [2], [[(2, 3)]] * 2),
}


@pytest.mark.parametrize("name", SPANS)
def test_a_span_is_the_sum_of_its_tokens(name: str) -> None:
    tokens, where, pairs = SPANS[name]
    for of, reference in (("log_prob", log_probs_of), ("logit", logits_of)):
        target = span(tokens, where, of=wrong(of))
        torch.testing.assert_close(target(OUTPUT), reference(OUTPUT, pairs))
        expected = by_autograd(OUTPUT, lambda y, reference=reference: reference(y, pairs))
        torch.testing.assert_close(cotangent_of("f", OUTPUT, read_target("f", target)), expected)


def test_a_contrast_is_a_difference_of_any_two_targets() -> None:
    parts: list[Any] = [(1, 2), [(0, 1), (-1, 3)], torch.tensor([[0, 1], [2, 2]]), span([[1, 2], [3]], 0), 2]
    parts += [lambda y: y.exp().sum((1, 2)), contrast((0, 0), (1, 1)), similarity(torch.ones(1, 4, 5))]
    for target in parts:
        for foil in parts:
            found = cotangent_of("f", OUTPUT, contrast(target, foil))
            each = [cotangent_of("f", OUTPUT, read_target("f", part)) for part in (target, foil)]
            torch.testing.assert_close(found, each[0] - each[1])


def test_a_contrast_of_tokens_is_that_of_their_log_probabilities() -> None:
    by_logits = cotangent_of("f", OUTPUT, contrast((1, 2), (1, 4)))
    by_log_probs = cotangent_of("f", OUTPUT, contrast(span([2], 1), span([4], 1)))
    torch.testing.assert_close(by_logits, by_log_probs)


def test_a_contrast_does_not_read_infinite_classes_beside_its_own() -> None:
    masked = OUTPUT.clone()
    masked[..., 3] = -torch.inf
    found = cotangent_of("f", masked, contrast((1, 2), (1, 4)))
    torch.testing.assert_close(found, cotangent_of("f", OUTPUT, contrast((1, 2), (1, 4))))


@pytest.mark.parametrize("shape", [[5], [1, 5], [3, 5]])
def test_a_similarity_is_a_cosine_or_a_product(shape: list[int]) -> None:
    output, reference = torch.randn(3, 5, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)

    def cosine(y: Tensor) -> Tensor:
        return (y * reference).sum(1) / (y.square().sum(1).sqrt() * reference.square().sum(-1).sqrt())

    torch.testing.assert_close(cotangent_of("f", output, similarity(reference)), by_autograd(output, cosine))
    product = cotangent_of("f", output, similarity(reference, of="dot"))
    torch.testing.assert_close(product, reference.expand(3, 5))


def test_a_similarity_to_an_output_has_a_derivative_by_it() -> None:
    x, reference = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def attribution(r: Tensor) -> Tensor:
        return funcattr.gradient(lambda x: x**2, x, similarity(r, of="dot"))

    torch.testing.assert_close(torch.func.jacrev(attribution)(reference).diagonal(dim1=1, dim2=2), 2 * x)


PER_EXAMPLE: dict[str, tuple[Any, list[Any]]] = {
    "contrast": (
        contrast(torch.tensor([[2, 1], [0, 3]]), [(0, 0), (1, 1)]),
        [contrast((2, 1), (0, 0)), contrast((0, 3), (1, 1))],
    ),
    "span": (span([[1, 2], [3]], [[0, -1], [1]]), [span([1, 2], [0, -1]), span([3], [1])]),
    "similarity": (
        similarity(torch.arange(24.0).reshape(2, 3, 4), of="dot"),
        [similarity(torch.arange(24.0).reshape(2, 3, 4)[i : i + 1], of="dot") for i in range(2)],
    ),
    "a contrast of spans": (
        contrast(span([[1, 2], [3]], 0), span([[0], [0, 0]], 1)),
        [contrast(span([1, 2], 0), span([0], 1)), contrast(span([3], 0), span([0, 0], 1))],
    ),
}


@each_method
@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_what_a_target_has_for_an_example_goes_with_it(method: Callable[..., Tensor], name: str) -> None:
    both, each = PER_EXAMPLE[name]
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    alone = torch.cat([method(positions, x[i : i + 1], each[i]) for i in range(2)])
    torch.testing.assert_close(method(positions, x, both), alone)


@long
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_built_targets_in_compiled_code(name: str) -> None:
    x, target = torch.randn(2, 3, 4), PER_EXAMPLE[name][0]
    fm = funcattr.functionalize(positions)

    def explained(x: Tensor) -> tuple[Tensor, Tensor]:
        return funcattr.gradient(fm, x, target), funcattr.integrated_gradients(fm, x, target, steps=3, chunk_size=1)

    compiled = torch.compile(explained, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), explained(x))


def test_built_targets_under_vmap_are_loops() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    tokens = torch.tensor([[[1, 2], [0, 3]], [[3, 3], [1, 0]]])
    made: list[Callable[[Tensor], Any]] = [lambda t: span(t, 0), lambda t: span(t, -2), lambda t: span(t, t % 3)]
    made += [lambda t: contrast(t, [(0, 0), (1, 1)]), lambda t: contrast(span(t, 0), span(t, 1, of="logit"))]
    for build in made:
        mapped = torch.vmap(lambda t, build=build: funcattr.gradient(positions, x, build(t)))(tokens % 3)
        looped = torch.stack([funcattr.gradient(positions, x, build(t)) for t in tokens % 3])
        torch.testing.assert_close(mapped, looped)


def test_a_token_out_of_range_that_cannot_be_looked_at_makes_the_example_nan() -> None:
    x, tokens = torch.randn(2, 3, 4), torch.tensor([[[1, 2], [0, 9]]])
    found = torch.vmap(lambda t: funcattr.gradient(positions, x, span(t, 0)))(tokens)[0]
    assert found[0].isfinite().all() and found[1].isnan().any()


def test_deep_lift_sums_to_the_difference_of_a_built_target() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 20), nn.Unflatten(1, (4, 5))).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    for target in (contrast((0, 1), (2, 3)), span([[1, 2], [3]], 0), pointing(1)):
        found = funcattr.deep_lift(model, x, target).sum(1)
        torch.testing.assert_close(found, target(model(x)) - target(model(0 * x)))


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        (
            lambda: span([5], 0),
            ValueError,
            r"gradient\(target=span\(tokens=...\)\): out of range in \[5\]; .* 4 tokens",
        ),
        (lambda: span([-1], 0), ValueError, r"out of range in \[-1\]"),
        (lambda: span([1, 1], 2), ValueError, r"span\(positions=...\)\): out of range in \[2, 3\]; .* 3 positions"),
        (lambda: span([1, 1], -1), ValueError, r"span\(positions=-1\): the span would go on at the beginning"),
        (lambda: span([1, 1], [0]), ValueError, r"as many positions as tokens, \[1, 2\], or the first, got \[1, 1\]"),
        (lambda: span([[1, 1], [0]], [[0], [0, 1]]), ValueError, "as many positions as tokens"),
        (lambda: span([1, 1], [[0, 1], [0]]), ValueError, "as many positions as tokens"),
        (lambda: span([[1], [2]], [[0], [1], [2]]), ValueError, "as many positions as tokens"),
        (lambda: span([1], wrong(np.bool_(True))), TypeError, "expected a list of integers, .* got bool"),
        (lambda: span([[1], [1], [1]], 0), ValueError, "expected one span, or 2, one an example; got 3"),
        (lambda: span([], 0), TypeError, r"span\(tokens=...\): expected a list of integers"),
        (lambda: span([[1], []], 0), ValueError, "expected at least one token for each example, got none"),
        (lambda: span([1.0], 0), TypeError, "expected integers, got float"),
        (lambda: span([True], 0), TypeError, "expected integers, got bool"),
        (lambda: span(torch.ones(2), 0), TypeError, "expected integers, got torch.float32"),
        (lambda: span([[1], 1], 0), TypeError, "got a list of both"),
        (lambda: span("cat", 0), TypeError, "expected a list of integers, .* got str"),
        (lambda: span([1], 0, of=wrong("prob")), ValueError, r"span\(of='prob'\): expected 'logit' or 'log_prob'"),
        (lambda: contrast((0, 9), (0, 1)), ValueError, "class out of range; the output has 4 in dimension 2"),
        (lambda: contrast((0, 1), torch.tensor([[0, 9]] * 2)), ValueError, r"class out of range in \[9, 9\]"),
        (lambda: contrast(span([9], 0), (0, 1)), ValueError, r"out of range in \[9\]; the output has 4 tokens"),
        (lambda: contrast(wrong("cat"), 1), TypeError, r"contrast\(target='cat'\): expected an int"),
        (
            lambda: similarity(torch.ones(4)),
            ValueError,
            r"a reference of the output's shape \[2, 3, 4\], .* got \[1, 4\]",
        ),
        (lambda: similarity(torch.ones(3, 3, 4)), ValueError, "one reference, or 2, one an example; got 3"),
        (lambda: similarity(torch.zeros(2, 3, 4)), ValueError, "a reference is zero, and has no cosine"),
        (lambda: similarity(torch.ones(4, dtype=torch.long)), TypeError, "a floating-point tensor, got torch.int64"),
        (lambda: similarity(wrong([1.0])), TypeError, "expected a floating-point tensor, got list"),
        (lambda: similarity(torch.tensor(1.0)), ValueError, r"got shape \[\]"),
        (lambda: similarity(torch.ones(4), of=wrong("l2")), ValueError, "'cosine' or 'dot'"),
        (lambda: of_outputs(wrong(3)), TypeError, "expected a function of the outputs, got int"),
    ],
)
def test_what_does_not_fit_is_refused(target: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        funcattr.gradient(positions, torch.randn(2, 3, 4), target())


def test_one_span_may_stand_at_other_positions_in_each_example() -> None:
    output = torch.randn(2, 5, 7)
    found = span([3, 6], [[1, 2], [0, -1]], of="logit")(output)
    torch.testing.assert_close(
        found, torch.stack([output[0, 1, 3] + output[0, 2, 6], output[1, 0, 3] + output[1, 4, 6]])
    )
    padded = span([[3], [6, 2]], [[1], [0, 3]], of="logit")(output)
    torch.testing.assert_close(padded, torch.stack([output[0, 1, 3], output[1, 0, 6] + output[1, 3, 2]]))
    gradients = funcattr.integrated_gradients(lambda x: x, output, span([3], [[1], [4]], of="logit"), steps=3)
    torch.testing.assert_close(gradients.sum((1, 2)), torch.stack([output[0, 1, 3], output[1, 4, 3]]))


@pytest.mark.parametrize("first", [np.int64(2), np.int32(-3), np.array([2, 3]), [np.int64(2), 3]])
def test_positions_may_be_numpys(first: Any) -> None:
    output = torch.randn(2, 5, 7)
    expected = output[:, 2, 3] + output[:, 3, 6]
    torch.testing.assert_close(span([np.int64(3), 6], first, of="logit")(output), expected)


def test_a_span_of_an_output_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an output \[N, T, V\], .* got shape \[2, 3\]"):
        funcattr.gradient(lambda x: x, torch.randn(2, 3), span([1], 0))


def test_built_targets_read_as_written() -> None:
    assert repr(contrast(1, [0, 2])) == "contrast(1, [0, 2])"
    assert repr(span([1], 2)) == "span([[1]], [[2]], of='log_prob')"
    assert repr(similarity(torch.ones(3))) == "similarity(<[1, 3]>, of='cosine')"


# --- all outputs -----------------------------------------------------------------------------------------------------


def several(x: Tensor) -> dict[str, Any]:
    """Nested outputs of different shapes and dtypes."""
    return {
        "tokens": (x.cumsum(1) ** 2).to(torch.float32),
        "more": ([x.sum((1, 2)), x[:, 0] ** 3], {"count": torch.arange(len(x))}, None, "name"),
    }


def of_several(y: dict[str, Any]) -> Tensor:
    (total, cubes), numbers, _, _ = y["more"]
    return y["tokens"][:, 1, 2].double() * total + cubes.prod(1) + 0 * numbers["count"]


@pytest.mark.parametrize("name", sorted(set(METHODS_WITH_SAMPLES) - {"lrp"}))
def test_a_function_of_all_outputs_is_a_function_in_the_model(name: str) -> None:
    method, x = METHODS_WITH_SAMPLES[name], torch.randn(2, 3, 4, dtype=torch.float64)
    found = method(several, x, of_outputs(of_several))
    torch.testing.assert_close(found, method(lambda x: of_several(several(x)), x, None), rtol=1e-5, atol=1e-6)


def test_rules_stop_at_the_outputs() -> None:
    """The function's own gradient goes in, as a target's does: relevance is x times it for a linear model."""
    x = torch.randn(2, 3, dtype=torch.float64)
    linear = nn.Linear(3, 2).double()
    found = funcattr.attnlrp(lambda x: (linear(x), x), x, of_outputs(lambda y: y[0].prod(1) * y[1][:, 0]))
    leaf = x.clone().requires_grad_()
    y = linear(leaf)
    (expected,) = torch.autograd.grad((y.prod(1) * leaf[:, 0]).sum(), leaf)
    torch.testing.assert_close(found, x * expected)


def test_outputs_that_are_no_trees_of_tensors_are_refused() -> None:
    class Cache:
        pass

    x = torch.randn(2, 3)
    with pytest.raises(TypeError, match=r"got a Cache among the outputs. Leave it out \(use_cache=False\)"):
        funcattr.gradient(lambda x: (x, Cache()), x, of_outputs(lambda y: y[0].sum(1)))
    with pytest.raises(TypeError, match=r"gradient\(target=of_outputs\(...\), output=...\): it sees all outputs"):
        funcattr.gradient(lambda x: (x, x), x, of_outputs(lambda y: y[0].sum(1)), output=0)
    with pytest.raises(ValueError, match=r"with a row for each example, got shapes \[\[2, 3\], \[\]\]"):
        funcattr.gradient(lambda x: (x, x.sum()), x, of_outputs(lambda y: y[0].sum(1)))
    with pytest.raises(TypeError, match="returns no floating-point tensor"):
        funcattr.gradient(lambda x: (x > 0,), x, of_outputs(lambda y: y[0].sum(1)))
    with pytest.raises(ValueError, match=r"expected one number per example, shape \[2\], got \[2, 3\]"):
        funcattr.gradient(lambda x: (x, x), x, of_outputs(lambda y: y[0]))


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_function_of_all_outputs_is_refused_in_compiled_code() -> None:
    fm = funcattr.functionalize(several)
    compiled = torch.compile(
        lambda x: funcattr.gradient(fm, x, of_outputs(of_several)), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match="cannot leave compiled code"):
        compiled(torch.randn(2, 3, 4, dtype=torch.float64))
