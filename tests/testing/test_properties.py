"""Each property fails on a method that lacks it."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

import funcattr
from funcattr import rules
from funcattr.testing import properties
from funcattr.testing.networks import Smooth
from funcattr.testing.seeding import settle

MODEL = settle(Smooth)
X = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gradient(model: Any, x: Tensor, target: Any) -> Tensor:
    return funcattr.gradient(model, x, target)


class Memory:
    """Gives something else at the second call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Any, x: Tensor, target: Any) -> Tensor:
        self.calls += 1
        return gradient(model, x, target) * self.calls


def _writes_buffer(model: Any, x: Tensor, target: Any) -> Tensor:
    next(model.parameters()).data.mul_(1.5)
    return gradient(model, x, target)


def _on_strides(model: Any, x: Tensor, target: Any) -> Tensor:
    return gradient(model, x, target) * (1 + x.is_contiguous())


def _across_examples(model: Any, x: Tensor, target: Any) -> Tensor:
    return gradient(model, x, target) / x.mean()


def _only_eager(model: Any, x: Tensor, target: Any) -> Tensor:
    scale = 2.0 if is_batchedtensor(x) else 1.0
    return gradient(model, x, target) * scale


def _only_eager_classes(model: Any, x: Tensor, target: Any) -> Tensor:
    mapped = isinstance(target, Tensor) and is_batchedtensor(target)
    return gradient(model, x, target) * (2.0 if mapped else 1.0)


def _only_eager_parameters(model: Any, x: Tensor, target: Any) -> Tensor:
    mapped = any(map(is_batchedtensor, model.params.values()))
    return gradient(model, x, target) * (2.0 if mapped else 1.0)


def _detached(model: Any, x: Tensor, target: Any) -> Tensor:
    return gradient(model, x, target).detach() + 0 * x


def _wrong_derivative(model: Any, x: Tensor, target: Any) -> Tensor:
    """The value is right, and half of its dependence on x is cut."""
    half = gradient(model, x, target) / 2
    return half + half.detach()


def _drops_nan(model: Any, x: Tensor, target: Any) -> Tensor:
    return gradient(model, x, target).nan_to_num()


def _spreads_nan(model: Any, x: Tensor, target: Any) -> Tensor:
    return gradient(model, x, target) + 0 * x.sum()


def _graph(model: Any, x: Tensor, target: Any) -> Tensor:
    with torch.enable_grad():
        return gradient(model, x, target) + 0 * nn.Parameter(torch.zeros((), dtype=x.dtype))


def _compiled_differs(model: Any, x: Tensor, target: Any) -> Tensor:
    return gradient(model, x, target) * (2.0 if torch.compiler.is_compiling() else 1.0)


def with_mapped_classes(attribution: Any) -> None:
    properties.maps_over_targets(attribution, MODEL, X, torch.arange(2))


def with_parameters(attribution: Any) -> None:
    properties.has_derivative_by_parameters(attribution, MODEL, X, 1, "blocks.second.weight")


def of_property(property_: Callable[..., Any], **options: Any) -> Callable[[Any], None]:
    return lambda attribution: property_(attribution, MODEL, X, 1, **options)


def _has_form(attribution: Any) -> None:
    properties.has_form(attribution(MODEL, X, 1), X)


BROKEN: dict[str, tuple[Callable[[Any], None], Callable[..., Any], str]] = {
    "shape": (_has_form, lambda m, x, t: gradient(m, x, t).sum(1, keepdim=True), "expected .*2, 2, 5, 5"),
    "dtype": (_has_form, lambda m, x, t: gradient(m, x, t).float(), "torch.float32"),
    "structure": (_has_form, lambda m, x, t: (gradient(m, x, t),), "structured as"),
    "strides": (of_property(properties.ignores_strides), _on_strides, "of a strided input"),
    "touched": (of_property(properties.touches_nothing), _writes_buffer, "other values than before"),
    "random state": (
        of_property(properties.touches_nothing),
        lambda m, x, t: gradient(m, x, t) * torch.rand(()),
        "torch's random state",
    ),
    "batch": (of_property(properties.is_each_example_alone), _across_examples, "each example alone, beside the batch"),
    "vmap examples": (of_property(properties.is_each_example_alone), _only_eager, "vmap over examples"),
    "vmap noise": (of_property(properties.maps_over_noise), _only_eager, "vmap over noise"),
    "vmap targets": (with_mapped_classes, _only_eager_classes, "vmap over targets"),
    "vmap parameters": (of_property(properties.maps_over_parameters), _only_eager_parameters, "vmap over parameters"),
    "no derivative": (of_property(properties.has_derivative), _detached, "not that of finite differences"),
    "half a derivative": (of_property(properties.has_derivative), _wrong_derivative, "not that of finite differences"),
    "derivative of parameters": (with_parameters, _wrong_derivative, "not that of finite differences"),
    "nan dropped": (of_property(properties.keeps_nan_apart), _drops_nan, "NaN in an example is not seen"),
    "nan spread": (of_property(properties.keeps_nan_apart), _spreads_nan, "beside an example with NaN"),
    "graph": (of_property(properties.keeps_no_graph), _graph, "requires a gradient"),
    "sum": (of_property(properties.conserves), gradient, "the sum of attributions"),
    "compiled": (of_property(properties.compiles), _compiled_differs, "compiled"),
}


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_property_fails_on_a_method_that_lacks_it(broken: str) -> None:
    check, method, message = BROKEN[broken]
    if broken != "sum":  # the gradient has all of the others
        check(gradient)
    with pytest.raises(AssertionError, match=message):
        check(method)
    if broken == "touched":
        settled = settle(Smooth)
        MODEL.load_state_dict(settled.state_dict())


def test_conservation_holds_and_a_leak_without_a_declaration_is_seen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x, plus = torch.randn(5, 3, dtype=torch.float64), rules.epsilon_plus()
    properties.accounts_for_relevance(model, x, 0, rules=plus)
    for lossy in (lambda call, r: 0.9 * rules.epsilon(call, r), lambda call, r: 1.1 * rules.epsilon(call, r)):
        with pytest.raises(AssertionError, match=r"linear in '[02]'.*nothing declares where"):
            properties.accounts_for_relevance(model, x, 0, rules=plus | {"dense": lossy})


def test_the_sum_of_attributions_is_the_output() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    properties.conserves(funcattr.input_x_gradient, model, torch.randn(5, 3, dtype=torch.float64), 1)


def test_state_that_threads_share_is_seen() -> None:
    shared = {"x": 0.0}

    def leaky(value: float) -> Tensor:
        shared["x"] = value
        time.sleep(0.001 * random.random())
        return torch.tensor(shared["x"])

    random.seed(0)
    properties.runs_in_threads([lambda: torch.tensor(1.0), lambda: torch.tensor(2.0)])
    with pytest.raises(AssertionError, match="in a thread beside others"):
        properties.runs_in_threads([lambda i=i: leaky(float(i)) for i in range(20)])


def test_an_error_in_a_thread_is_seen() -> None:
    def job() -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("not here")
        return torch.zeros(())

    with pytest.raises(AssertionError, match="in a thread beside others: RuntimeError: not here"):
        properties.runs_in_threads([job])
