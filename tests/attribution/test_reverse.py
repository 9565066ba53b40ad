"""The result of a reverse pass has a derivative by everything that was given and requires one.

Where nothing does, it is autograd's, which follows a value into another thread.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules import Entry
from funcattr.testing.seeding import settle, uniform


class Net(nn.Module):
    """A bent function of its input, of a second input, and of a keyword. [N, 3] -> [N, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor, factor: Tensor | float = 1.0, *, shift: Tensor | float = 0.0) -> Tensor:
        return torch.tanh(self.layer(x) * factor + shift)


X, V = uniform(2, 3), uniform(2, 3, seed=2)
GIVEN: dict[str, Callable[..., Tensor]] = {
    "the input": lambda model, v, **at: funcattr.gradient(model, v, 1, **at),
    "an argument": lambda model, v, **at: funcattr.gradient(model, X, 1, args=(v,), **at),
    "a keyword": lambda model, v, **at: funcattr.gradient(model, X, 1, kwargs={"shift": v}, **at),
    "a cotangent": lambda model, v, **at: funcattr.gradient(model, X, v, **at),
    "a function of the output": lambda model, v, **at: funcattr.gradient(
        model, X, lambda y: (y * v).square().sum(1), **at
    ),
    "a contrast of functions": lambda model, v, **at: funcattr.gradient(
        model, X, funcattr.contrast(lambda y: (y * v).sum(1), v), **at
    ),
    "a bound parameter": lambda model, v, **at: funcattr.gradient(
        funcattr.functionalize(model).bind({"layer.bias": v[0]}), X, 1, **at
    ),
    "an edit": lambda model, v, **at: funcattr.gradient(funcattr.edit(model, {"layer": lambda h: h * v}), X, 1, **at),
    "the noise at a site": lambda model, v, **at: funcattr.noise_tunnel(
        partial(funcattr.gradient, model, **at), X, 1, sigma=v.square(), noise_layer="layer", samples=2
    ),
}


@pytest.mark.parametrize("layer", [None, "layer"])
@pytest.mark.parametrize("place", GIVEN)
def test_a_gradient_has_a_derivative_by_what_requires_one(place: str, layer: str | None) -> None:
    model: Any = settle(Net)
    assert torch.autograd.gradcheck(lambda v: GIVEN[place](model, v, layer=layer), V.clone().requires_grad_())


ON_RECORD: dict[str, Callable[..., Tensor]] = {
    "guided": funcattr.guided_backprop,
    "attnlrp": funcattr.attnlrp,
    "epsilon": partial(funcattr.lrp, rules="epsilon"),
    "deep_lift": partial(funcattr.deep_lift, baseline=torch.zeros_like(X)),
}


@pytest.mark.parametrize("method", ON_RECORD)
def test_a_pass_on_record_has_a_derivative_by_what_a_target_holds(method: str) -> None:
    bent: Any = settle(lambda: nn.Sequential(Net(), nn.ReLU(), nn.Linear(3, 3), nn.Softplus()))

    def explained(v: Tensor) -> Tensor:
        return ON_RECORD[method](bent, X, lambda y: (y * v).square().sum(1))

    assert torch.autograd.gradcheck(explained, V.clone().requires_grad_())


BENT: Any = settle(lambda: nn.Sequential(Net(), nn.ReLU(), nn.Linear(3, 3), nn.Softplus()))
HOLDING: dict[str, Callable[[Tensor], Any]] = {
    "a rule": lambda v: {"relu": lambda call, g: g * v},
    "a rule among the package's": lambda v: rules.epsilon_everywhere() | {"softplus": lambda call, r: r * v},
    "a partial": lambda v: {"softplus": partial(lambda call, g, by: g * by, by=v)},
    "a rule with options": lambda v: {"relu": rules.beta_smooth(beta=1 + v[0, 0].square())},
    "a rule for what comes last": lambda v: Rulebook((Entry("linear", lambda c, g: c.vjp(g)[0] * v, position="last"),)),
    "a rule that joins": lambda v: {"relu": rules.join(lambda call, g: g * v)},
}


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("rule", HOLDING)
def test_a_result_has_a_derivative_by_what_a_rule_holds(rule: str, layer: str | None) -> None:
    """Where nothing else requires one. Inside `torch.func.grad` it has too."""

    def explained(v: Tensor) -> Tensor:
        return funcattr.attribute(BENT, X, 1, rules=HOLDING[rule](v), layer=layer).cotangent

    assert torch.autograd.gradcheck(explained, V.clone().requires_grad_())
    v = V.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(explained(v).square().sum(), v)
    torch.testing.assert_close(torch.func.grad(lambda v: explained(v).square().sum())(V), by_autograd)
    with torch.no_grad():
        assert not explained(v).requires_grad
    assert torch.is_grad_enabled()
    assert not explained(V).requires_grad


def test_an_error_behind_a_rule_that_holds_a_tensor_leaves_autograd_as_it_was() -> None:
    v = torch.ones((), requires_grad=True)
    book: Any = {"relu": lambda call, g: g * v, "tanh": lambda call, g: None}
    with pytest.raises(ValueError, match="returned None"):
        funcattr.attribute(BENT, X, 1, rules=book)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("times_difference", [True, False])
def test_deep_lift_has_a_derivative_by_its_baseline(times_difference: bool, layer: str | None) -> None:
    given: Any = {"times_difference": times_difference, "layer": layer}
    baseline = V.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: funcattr.deep_lift(BENT, X, 1, baseline=v, **given), baseline)
    rows = uniform(4, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: funcattr.deep_lift(BENT, X, 1, baseline=funcattr.distribution(v), **given), rows
    )


@pytest.mark.parametrize("book", ["gradient", "epsilon"])
def test_a_pass_has_a_derivative_by_the_mask_of_a_condition(book: str) -> None:
    options: Any = {} if book == "gradient" else {"rules": book}

    def explained(mask: Tensor) -> Tensor:
        return funcattr.attribute(BENT, X, 1, conditions=rules.Conditions({"2": mask}), **options).cotangent

    assert torch.autograd.gradcheck(explained, V[0].clone().requires_grad_())


PACKED: dict[str, Callable[..., Tensor]] = {
    **ON_RECORD,
    "gradient": funcattr.gradient,
    "integrated gradients": partial(funcattr.integrated_gradients, steps=2),
    "cp_lrp": funcattr.cp_lrp,
    "a norm": partial(funcattr.lrp, rules="epsilon_plus"),
    "reveal cancel": partial(funcattr.deep_lift, rules=rules.deep_lift_reveal_cancel()),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("method", PACKED)
def test_saved_tensors_may_be_packed_around_a_call(method: str, requires_grad: bool) -> None:
    """As by `save_on_cpu`, and by a checkpoint whose part explains; `torch.func.vjp` by itself refuses there."""
    x, explained = X.clone().requires_grad_(requires_grad), partial(PACKED[method], BENT)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t):
        found = explained(x, 1)
    right = explained(x, 1)
    torch.testing.assert_close(found, right)
    if requires_grad:
        in_part: Any = checkpoint(explained, x, 1, use_reentrant=False)
        slopes = [torch.autograd.grad(a.square().sum(), x)[0] for a in (found, right, in_part)]
        for slope in slopes:
            torch.testing.assert_close(slope, slopes[1])


class Threaded(Net):
    """A part of it runs in another thread. [N, 3] -> [N, 3]"""

    def forward(self, x: Tensor, factor: Tensor | float = 1.0, *, shift: Tensor | float = 0.0) -> Tensor:
        h = self.layer(x)
        with ThreadPoolExecutor(1) as pool:
            return torch.tanh(h * factor + shift) + pool.submit(torch.exp, h).result()


SAME_NUMBER: dict[str, Any] = {
    "a class": 1,
    "a function": lambda y: y[:, 1],
    "a contrast with a function": funcattr.contrast(1, lambda y: 0 * y[:, 1]),
    "a function of all outputs": funcattr.of_outputs(lambda y: y[:, 1]),
}


def part_elsewhere(x: Tensor) -> Tensor:
    """A function whose part runs in another thread. [N, 3] -> [N, 3]"""
    with ThreadPoolExecutor(1) as pool:
        return x.tanh() * pool.submit(torch.exp, x).result()


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("model", [part_elsewhere, settle(Threaded)])
def test_a_part_in_another_thread_has_its_gradient_whoever_may_differentiate_it(
    model: Any, requires_grad: bool
) -> None:
    x, root = X.clone().requires_grad_(requires_grad), X.clone().requires_grad_()
    found = funcattr.gradient(model, x, 1)
    (right,) = torch.autograd.grad(model(root)[:, 1].sum(), root, create_graph=True)
    torch.testing.assert_close(found, right, check_stride=False)
    assert found.requires_grad == requires_grad
    if requires_grad:
        second = (torch.autograd.grad(g.square().sum(), t)[0] for g, t in ((found, x), (right, root)))
        torch.testing.assert_close(*second)


def test_a_result_has_a_derivative_by_what_a_function_holds() -> None:
    weight = uniform(3, 3).requires_grad_()
    found = funcattr.gradient(lambda x: torch.tanh(x @ weight), X, 1)
    root = X.clone().requires_grad_()
    (right,) = torch.autograd.grad(torch.tanh(root @ weight)[:, 1].sum(), root, create_graph=True)
    first, second = (torch.autograd.grad(g.square().sum(), weight)[0] for g in (found, right))
    torch.testing.assert_close(first, second)
    assert not funcattr.gradient(torch.tanh, X, 1).requires_grad
    with torch.no_grad():
        assert not funcattr.gradient(lambda x: torch.tanh(x @ weight), X, 1).requires_grad


class Squared(torch.autograd.Function):
    """x x, whose node in autograd's graph keeps a tensor by the name that the nodes of leaves have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.variable = torch.ones(())
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * x * grads[0]


def test_only_a_leaf_is_something_to_ask_a_derivative_by() -> None:
    found = funcattr.gradient(lambda x: Squared.apply(x), X, 1)
    torch.testing.assert_close(found, 2 * X * torch.tensor([0.0, 1.0, 0.0]))
    assert not found.requires_grad


@pytest.mark.parametrize("layer", [None, "layer"])
@pytest.mark.parametrize("target", SAME_NUMBER)
def test_a_part_in_another_thread_has_its_gradient_under_any_target(target: str, layer: str | None) -> None:
    model: Any = settle(Threaded)
    root = (X if layer is None else model.layer(X)).detach().requires_grad_()
    h = model.layer(root) if layer is None else root
    (right,) = torch.autograd.grad((h.tanh() + h.exp())[:, 1].sum(), root)
    torch.testing.assert_close(funcattr.gradient(model, X, SAME_NUMBER[target], layer=layer), right)


def test_a_model_runs_once_where_no_derivative_can_be_asked_for() -> None:
    model: Any = settle(Net)
    runs: list[int] = []
    model.layer.register_forward_hook(lambda *_: runs.append(1))
    funcattr.gradient(model, X, lambda y: y[:, 1].square())
    assert len(runs) == 1
    weight = torch.ones(()).requires_grad_()
    assert funcattr.gradient(model, X, lambda y: y[:, 1].square() * weight).requires_grad
    assert len(runs) == 2
