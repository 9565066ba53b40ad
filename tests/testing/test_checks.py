"""The public checks pass on what is right, and each fails on a broken rule, rulebook, method or model."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import rules
from funcattr.testing import check_method, check_model, check_rule, check_rulebook, inputs, layers, targets

FEW: dict[str, Any] = {"examples": 2}


@pytest.fixture(autouse=True)
def _unshrunk() -> Iterator[None]:
    """Here checks fail on purpose; a smaller network that fails too tells nobody anything."""
    name: Any = settings.get_current_profile_name()
    settings.register_profile("unshrunk", settings.get_profile(name), phases=[Phase.generate])
    settings.load_profile("unshrunk")
    yield
    settings.load_profile(name)


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp


# --- what is right passes --------------------------------------------------------------------------------------------


def test_methods_pass() -> None:
    check_method(funcattr.input_x_gradient, conserves=True, **FEW)
    check_method(funcattr.grad_cam, at_layer=True, channels=1, **FEW)
    check_method(funcattr.attnlrp, conserves=True, spatial=1, **FEW)


@pytest.mark.parametrize("name", ["epsilon_plus", "attnlrp"])
def test_rulebooks_pass(name: str) -> None:
    check_rulebook(name, **FEW)


def test_rulebooks_that_change_a_gradient_pass() -> None:
    check_rulebook(rules.guided_backprop(), **FEW)


def test_rules_pass() -> None:
    check_rule(rules.epsilon(eps=1e-3), "linear", **FEW)
    check_rule(lambda call, g: g * (call.operands[0] > 0) * (g > 0), "relu", within=funcattr.Rulebook({}), **FEW)
    check_rule(lambda call, r: r, "relu", **FEW)


def test_a_rule_for_an_operation_of_a_given_model_passes() -> None:
    x, weight = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    check_rule(lambda call, r: r, "erf", model=lambda x: torch.erf(x @ weight), x=x)


def test_models_pass() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(9, 4)).double()
    x = torch.randn(2, 2, 5, dtype=torch.float64)
    check_model(model, x, 1, rules="epsilon_plus")
    check_model(model.float(), x.float(), -1)
    check_model(lambda a, b: (a * b.sin()).sum(1), (torch.randn(3, 4), torch.randn(3, 4)))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_calls_are_checked_where_asked() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    check_model(model, torch.randn(2, 3, dtype=torch.float64), 1, compiled=True)


# --- what is broken fails --------------------------------------------------------------------------------------------


def _half(call: Any, r: Tensor) -> Tensor:
    return rules.epsilon(call, r) / 2


def _of_the_batch(call: Any, r: Tensor) -> Tensor:
    return r * call.operands[0].mean()


def _detached(call: Any, g: Tensor) -> Tensor:
    return g * call.operands[0].detach().tanh()


def _draws(call: Any, r: Tensor) -> Tensor:
    torch.rand(1)
    return r


@pytest.mark.parametrize(
    ("rule", "operation", "options", "message"),
    [
        (_half, "linear", {}, "nothing declares where the other"),
        (_of_the_batch, "relu", {"conserves": False}, "each example alone, beside the batch"),
        (_draws, "relu", {}, "torch's random state is not what it was"),
        (_detached, "relu", {"within": {}}, "the derivative is not that of finite differences"),
    ],
)
def test_a_broken_rule_fails(rule: Any, operation: str, options: dict[str, Any], message: str) -> None:
    if options.get("within") == {}:
        options = {"within": funcattr.Rulebook({})}
    with pytest.raises(AssertionError, match=message):
        check_rule(rule, operation, examples=10, **options)


def test_a_broken_rule_of_a_given_model_fails() -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="nothing declares where the other"):
        check_rule(lambda call, r: 2 * r, "erf", model=lambda x: torch.erf(x * 2), x=x)


def test_a_rule_that_nothing_calls_is_no_pass() -> None:
    with pytest.raises(ValueError, match=r"check_rule\(operation='erf'\): no drawn network calls it. Give a model="):
        check_rule(lambda call, r: r, "erf", kinds=("linear",), max_blocks=1, **FEW)
    with pytest.raises(ValueError, match=r"check_rule\(operation='erf', model=...\): the model does not call it"):
        check_rule(lambda call, r: r, "erf", model=lambda x: x * 2, x=torch.ones(2, 3))


def test_a_broken_rulebook_fails() -> None:
    with pytest.raises(AssertionError, match="nothing declares where the other"):
        check_rulebook(rules.epsilon_plus() | {"dense": _half}, examples=10)


def test_a_rulebook_without_a_rule_says_so() -> None:
    with pytest.raises(funcattr.UnsupportedOperationError):
        check_rulebook(funcattr.Rulebook({"linear": rules.epsilon}, unlisted="raise", space="relevance"), examples=10)


def _averaged(model: Any, x: Tensor, target: Any) -> Tensor:
    g = funcattr.gradient(model, x, target)
    return g - g.mean(0, keepdim=True)


def _without_channels(model: Any, x: Tensor, target: Any) -> Tensor:
    return funcattr.gradient(model, x, target).sum(1, keepdim=True)


def _half_constant(model: Any, x: Tensor, target: Any) -> Tensor:
    half = funcattr.gradient(model, x, target) / 2
    return half + half.detach()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (_averaged, {}, "each example alone, beside the batch"),
        (_without_channels, {"kinds": ("conv",)}, "the attribution is"),
        (_half_constant, {"examples": 2}, "the derivative is not that of finite differences"),
        (funcattr.gradient, {"conserves": True}, "the sum of attributions"),
    ],
)
def test_a_broken_method_fails(method: Callable[..., Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(method, **{"examples": 10, **options})


class Centred(nn.Module):
    """Whose examples see each other."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) ** 2


class Counting(nn.Module):
    """Whose buffer counts calls, and that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        return x**2 * self.calls[0]


def test_a_broken_model_fails() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    with pytest.raises(AssertionError, match="each example alone, beside the batch"):
        check_model(Centred(), x, 1)
    with pytest.raises(AssertionError):
        check_model(Counting(), x, 1)


def test_a_model_that_computes_something_else_on_record_fails() -> None:
    from torch.overrides import _get_current_function_mode

    def model(x: Tensor) -> Tensor:
        return x**2 if _get_current_function_mode() is None else x**3

    with pytest.raises(AssertionError, match="the output on record, beside the model's own"):
        check_model(model, torch.randn(3, 4, dtype=torch.float64), 1)


# --- strategies ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data())
def test_targets_of_outputs_with_positions_are_valid(data: st.DataObject) -> None:
    x = data.draw(inputs(2, 3, 4))
    target = data.draw(targets((2, 3, 4)))
    found = funcattr.gradient(lambda x: x**2, x, target)
    assert (found != 0).flatten(1).sum(1).tolist() == [1, 1]


class Skipping(nn.Sequential):
    """Calls all but its last module."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), nn.Linear(2, 2))

    def forward(self, input: Tensor) -> Tensor:
        return self[1](self[0](input))


@settings(deadline=None)
@given(st.data())
def test_layers_are_sites_that_the_call_passes(data: st.DataObject) -> None:
    model = Skipping()
    x = data.draw(inputs(2, 3, dtype=torch.float32))
    layer = data.draw(layers(model, x))
    assert layer in ("0", "1", "1.0", "1.1")
    assert funcattr.gradient(model, x, 0, layer=layer).shape[0] == 2


def test_layers_of_a_model_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layers\(model=...\): a call of the model passes no site below its root"):
        layers(nn.Linear(3, 4), torch.ones(1, 3))
