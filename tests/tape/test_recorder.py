"""What the recorder must see: every spelling and what it must refuse."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr import UnsupportedOperationError, UntrackedPathError
from funcattr.tape.record import Recording, record
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal

RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.STOP})
ZERO_RELU = funcattr.Rulebook({"relu": lambda call, p: torch.zeros_like(call.operands[0])})


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.relu": torch.relu,
    "F.relu": F.relu,
    "F.relu(inplace)": lambda x: F.relu(x, inplace=True),
    "F.relu(True)": lambda x: F.relu(x, True),
    "F.relu_": lambda x: F.relu_(x),
    "torch.relu_": lambda x: torch.relu_(x),
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6(inplace)": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 4.0),
    "F.hardtanh(inplace)": lambda x: F.hardtanh(x, min_val=0.0, max_val=4.0, inplace=True),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 4.0),
    "nn.Hardtanh": nn.Hardtanh(0.0, 4.0, inplace=True),
    "clamp(min)": lambda x: x.clamp(min=0),
    "clamp(0)": lambda x: x.clamp(0),
    "clamp(0, max)": lambda x: torch.clamp(x, 0, 9.0),
    "clamp_": lambda x: x.clamp_(min=0.0),
    "clip": lambda x: torch.clip(x, min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "nn.Threshold(inplace)": nn.Threshold(0.0, 0.0, inplace=True),
    "torch.threshold_": lambda x: torch.threshold_(x, 0.0, 0.0),
    "aten.relu": lambda x: torch.ops.aten.relu(x),
    "aten.relu.default": lambda x: torch.ops.aten.relu.default(x),
}


@pytest.mark.parametrize("spelling", RELUS)
def test_every_spelling_of_relu_gets_the_relu_rule(spelling: str) -> None:
    x = _double(3, 4)
    out, pull = funcattr.vjp(lambda x: RELUS[spelling](x * 1) + 0 * x, x, rules=ZERO_RELU)
    assert_equal(out, RELUS[spelling](x.clone()))
    assert_equal(pull(torch.ones_like(out))[0], torch.zeros_like(x))


NOT_RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp(-1)": lambda x: x.clamp(min=-1),
    "clamp(max)": lambda x: x.clamp(max=0),
    "hardtanh": F.hardtanh,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


@pytest.mark.parametrize("spelling", NOT_RELUS)
def test_what_is_no_relu_keeps_its_adjoint(spelling: str) -> None:
    x = _double(3, 4)
    _, pull = funcattr.vjp(NOT_RELUS[spelling], x, rules=ZERO_RELU)
    assert_equal(pull(torch.ones_like(x))[0], torch.func.vjp(NOT_RELUS[spelling], x)[1](torch.ones_like(x))[0])


ADDS: dict[str, Callable[[Tensor], Tensor]] = {
    "+": lambda x: x + 1,
    "1 +": lambda x: 1 + x,
    "torch.add": lambda x: torch.add(x, 1),
    "add": lambda x: x.add(1),
    "add_": lambda x: (x * 1).add_(1),
    "out=": lambda x: torch.add(x, 1, out=torch.empty_like(x)),
}


@pytest.mark.parametrize("spelling", ADDS)
def test_every_spelling_of_add_is_one_operation(spelling: str) -> None:
    seen: list[str] = []

    def rule(call: funcattr.rules.Call, p: Tensor) -> Tensor:
        seen.append(call.op)
        return p

    x = _double(2)
    funcattr.vjp(ADDS[spelling], x, rules={"add": rule})[1](x)
    assert seen == ["add"]


class _Inner(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class _OwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


UNSEEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "autograd.Function": (lambda x: _OwnBackward.apply(x), "an autograd Function"),
    "vmap": (lambda x: torch.vmap(torch.sin)(x), "a torch.func transform"),
    "grad": (lambda x: torch.func.grad(lambda v: (v * x).sum())(x), "a torch.func transform"),
    "closure in vmap": (lambda x: torch.vmap(lambda i: x[0] * i)(torch.arange(3.0)), "a torch.func transform"),
    "numpy": (lambda x: torch.from_numpy(x.numpy()) + x, "numpy"),
    "autograd.grad": (lambda x: torch.autograd.grad(x.sum(), x)[0], "grad"),
    "hook": (lambda x: (x.register_hook(print), x)[1], "register_hook"),
    "backward": (lambda x: (x.sum().backward(), x)[1], "backward"),
    "data": (lambda x: (setattr(x, "data", x.detach()), x)[1], "__set__"),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_what_cannot_be_seen_through_is_refused_with_its_path(what: str) -> None:
    fn, named = UNSEEN[what]
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(_Inner(fn)))
    with pytest.raises(UnsupportedOperationError, match=rf"in the module '1\.0', cannot see through {named}"):
        funcattr.guided_backprop(model, torch.randn(2, 4), 0)


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return x * 2


def _calls_scripted(x: Tensor) -> Tensor:
    return _scripted(x)


def test_an_unseen_operation_beside_a_visible_path_is_refused() -> None:
    """A scripted function, too deep in the model to be found by looking, must not count as a constant."""
    model = nn.Sequential(nn.Linear(4, 4), _Inner(lambda x: x.relu() + _calls_scripted(x)))
    with pytest.raises(UnsupportedOperationError, match=r"cannot see through aten.mul.* called from outside of Python"):
        funcattr.guided_backprop(model, torch.randn(2, 4), 0)
    constant = nn.Sequential(nn.Linear(4, 4), _Inner(lambda x: x.relu() + _calls_scripted(torch.ones(4))))
    assert funcattr.guided_backprop(constant, torch.randn(2, 4), 0).shape == (2, 4)
    assert torch._C._len_torch_dispatch_stack() == 0


class _Noted(TorchDispatchMode):
    """A mode of the model's own, which notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_that_the_model_enters_sees_its_operations_and_no_path_is_lost_beneath_it() -> None:
    modes: list[_Noted] = []

    def fn(x: Tensor, inner: Callable[[Tensor], Tensor]) -> Tensor:
        modes[:] = _Noted(), _Noted()
        with modes[0]:
            x = torch.relu(x) * 2
            with modes[1]:
                x = inner(x)
            x = x + 1
        return x

    def twice(x: Tensor) -> Tensor:
        return x.tanh() * 3

    model = nn.Sequential(nn.Linear(4, 4), _Inner(lambda x: fn(x, twice)))
    plain = nn.Sequential(model[0], _Inner(lambda x: twice(torch.relu(x) * 2) + 1))
    x = torch.randn(2, 4)
    assert_equal(funcattr.guided_backprop(model, x, 0), funcattr.guided_backprop(plain, x, 0))
    assert [seen.split(".")[1] for seen in modes[1].seen] == ["tanh", "mul"]
    assert [seen.split(".")[1] for seen in modes[0].seen] == ["relu", "mul", "tanh", "mul", "add"]
    # Such a mode calls what it sees from Python, where the recorder sees it.
    scripted = nn.Sequential(model[0], _Inner(lambda x: fn(x, _calls_scripted)))
    plain = nn.Sequential(model[0], _Inner(lambda x: torch.relu(x) * 4 + 1))
    assert_equal(funcattr.guided_backprop(scripted, x, 0), funcattr.guided_backprop(plain, x, 0))
    assert torch._C._len_torch_dispatch_stack() == 0


def test_transforms_of_constants_inside_the_model_are_fine() -> None:
    def fn(x: Tensor) -> Tensor:
        return x * torch.vmap(lambda i: i * 2)(torch.arange(4.0))

    assert_equal(
        funcattr.vjp(fn, torch.ones(2, 4), rules=RECORDED)[1](torch.ones(2, 4))[0],
        torch.arange(4.0).mul(2).expand(2, 4),
    )


def test_a_relu_inside_a_fused_operation_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(4, 3, nonlinearity="relu", batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][:, -1]

    model, x = Net().eval(), torch.randn(2, 5, 4)
    with pytest.raises(UnsupportedOperationError, match=r"rnn_relu \(which contains relu\) in 'rnn'"):
        funcattr.guided_backprop(model, x, 0)
    assert funcattr.gradient(model, x, 0).shape == x.shape
    with pytest.raises(UnsupportedOperationError, match=r"_addmm_activation \(which contains relu\) in ''"):
        funcattr.guided_backprop(lambda x: torch._addmm_activation(torch.zeros(2), x, torch.ones(3, 2)), x[0, :, :3], 0)


@pytest.mark.parametrize(
    "fn",
    [lambda x: x.detach() * 2, lambda x: torch.ones(2, 3), lambda x: x.argmax(1).double()[:, None] * torch.ones(3)],
)
def test_an_output_that_does_not_depend_on_the_input_is_an_error(fn: Callable[[Tensor], Tensor]) -> None:
    for method in (funcattr.gradient, funcattr.guided_backprop):
        with pytest.raises(UntrackedPathError, match="does not depend on the input"):
            method(fn, torch.randn(2, 4), 0)


def test_repeated_operands_get_a_cotangent_each() -> None:
    seen: list[int] = []

    def rule(call: funcattr.rules.Call, p: Tensor) -> tuple[Tensor, ...]:
        seen.append(len(call.operands))
        return 2 * p, 3 * p

    x = torch.ones(2)
    assert_equal(funcattr.vjp(lambda x: x * x, x, rules={"mul": rule})[1](x)[0], 5 * x)
    assert seen == [2]


def test_users_input_is_not_written_by_a_model_that_writes_its_input() -> None:
    def model(x: Tensor) -> Tensor:
        x.mul_(2)
        x[:, 0] = 0
        return funcattr.site(x, "h").relu()

    x = torch.randn(2, 3)
    before = x.clone()
    for layer in (None, "h"):
        funcattr.gradient(model, x, 1, layer=layer)
        funcattr.guided_backprop(model, x, 1, layer=layer)
    assert torch.equal(x, before)


def test_residuals_are_freed_as_the_walk_goes() -> None:
    alive: list[int] = []

    def rule(call: funcattr.rules.Call, p: Tensor) -> Tensor:
        alive.append(len(steps))
        return p

    passed = record(
        lambda x: x.relu().relu().relu(), (torch.ones(2),), Recording("f", funcattr.Rulebook({"relu": rule}))
    )
    cells = dict(zip(passed.pull.__code__.co_freevars, passed.pull.__closure__ or (), strict=True))
    steps = cells["steps"].cell_contents
    passed.pull(torch.ones(2), release=True)
    assert alive == [2, 1, 0]


def test_only_the_layers_after_the_root_are_recorded() -> None:
    model = funcattr.functionalize(nn.Sequential(*(nn.Linear(3, 3) for _ in range(5))))
    passed = record(model, (torch.randn(2, 3),), Recording("f", RECORDED, ("3",)))
    cells = dict(zip(passed.pull.__code__.co_freevars, passed.pull.__closure__ or (), strict=True))
    assert len(cells["steps"].cell_contents) == 1


def test_one_forward_pass_for_a_layer_method() -> None:
    calls: list[int] = []

    class Counting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(input)

    model = nn.Sequential(Counting(3, 3), nn.ReLU(), Counting(3, 2))
    funcattr.grad_cam(model, torch.randn(2, 3), 0, layer="1")
    assert len(calls) == 2


def test_models_without_relu_warn_that_the_rule_changes_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.GELU()), torch.randn(2, 3)
    for method in (funcattr.guided_backprop, funcattr.deconvnet):
        with pytest.warns(UserWarning, match=r"the model has no relu, only gelu; the \w+ rule changes nothing"):
            method(model, x, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        funcattr.guided_backprop(nn.Linear(3, 3), x, 0)
        funcattr.guided_backprop(nn.Sequential(nn.GELU(), nn.ReLU()), x, 0)


def test_training_mode_warns() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    with pytest.warns(UserWarning, match=r"gradient: the model is in training mode"):
        funcattr.gradient(model, torch.randn(4, 3), 0)


STOPS = funcattr.Rulebook({"sigmoid": funcattr.rules.STOP, "scaled_dot_product_attention": funcattr.rules.GRADIENT})


class Attends(nn.Module):
    """Fused attention over x, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.last = (nn.Linear(*size) for size in ((4, 4), (4, 4), (4, 4), (20, 2)))

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.last((mixed * x.sigmoid()).flatten(1))


@pytest.mark.parametrize(
    "method",
    [funcattr.cp_lrp, funcattr.attnlrp, lambda model, x, t: funcattr.attribute(model, x, t, rules=STOPS).cotangent],
    ids=["cp_lrp", "attnlrp", "a rulebook that stops"],
)
def test_a_stopped_call_is_no_constant_for_a_derivative_of_the_result(method: Any) -> None:
    model, x, way = settle(Attends), uniform(2, 5, 4), uniform(2, 5, 4, seed=3)

    def size(x: Tensor) -> Tensor:
        return method(model, x, 1).square().sum()

    with sdpa_kernel(SDPBackend.MATH):  # the kernel for CPUs has no second derivative
        expected = (size(x + 1e-6 * way) - size(x - 1e-6 * way)) / 2e-6
        leaf = x.clone().requires_grad_()
        for found in (torch.func.grad(size)(x), torch.autograd.grad(size(leaf), leaf)[0]):
            torch.testing.assert_close((found * way).sum(), expected.detach(), rtol=1e-6, atol=1e-9)
