"""Models as pure functions: equal to the module, blind to nothing of it, and leaving no trace on it."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import funcattr
from funcattr import FunctionalModel, functionalize, read

from ..sweeps import sweep


class Tied(nn.Module):
    """Two layers with one weight, and a module registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.again = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.b(self.a(x)).tanh())


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(3, 3, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Counter(nn.Module):
    """Counts its calls in a buffer, in place or by a new tensor, and multiplies by the count."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return x * self.calls


class Hidden(nn.Module):
    """Reaches its layers by plain lists, a dict, a bound method, and a hook that is its own method."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("scale", torch.full((), 2.0))
        self.listed, self.named, self.method = [self.one], {"two": self.two}, self.step
        self.one.register_forward_hook(self.hook)

    def step(self, x: Tensor) -> Tensor:
        return self.named["two"](self.listed[0](x))

    def hook(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        self.scale *= 2
        return out * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.method(x)


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def compiled_by_method() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.compile(backend="eager")
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 3),
    "reused": lambda: nn.Sequential(*[nn.Linear(3, 3)] * 2, nn.ReLU(inplace=True)),
    "tied": Tied,
    "lstm": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "weight_norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3))),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3))),
    "spectral norm, by hooks": lambda: nn.Sequential(spectral_norm(nn.Linear(3, 3))),
    "batch norm": lambda: batch_norm().eval(),
    "batch norm in training": batch_norm,
    "counter": Counter,
    "counter of new tensors": lambda: Counter(inplace=False),
    "hidden": Hidden,
    "fx graph": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
    "compiled by method": compiled_by_method,
}


def snapshot(model: nn.Module) -> Any:
    """All that could be seen of a module from outside: tensors by value, version and identity, the rest by identity."""
    state = model.state_dict(keep_vars=True)
    tensors = {k: (id(t), t.tolist(), t._version, t.requires_grad, t.grad) for k, t in state.items()}
    modules = dict(model.named_modules())
    attributes = {name: {k: id(v) for k, v in vars(m).items()} for name, m in modules.items()}
    tables = [
        (*v.keys(), *map(id, v.values())) for m in modules.values() for v in vars(m).values() if isinstance(v, dict)
    ]
    return tensors, attributes, tables, [(type(m), m.training) for m in modules.values()]


def drawn(fm: FunctionalModel) -> dict[str, Tensor]:
    return {name: torch.randn_like(p) for name, p in fm.params.items()}


def loaded(model: nn.Module, params: dict[str, Tensor]) -> nn.Module:
    """A copy of the module that owns `params`, the independent reference of `bind`."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(params[name])
    return other


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return MODELS[request.param]()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3)


def test_the_call_equals_the_module(model: nn.Module, x: Tensor) -> None:
    fm = functionalize(model)
    expected = copy.deepcopy(model)(x)
    torch.testing.assert_close(fm(x), expected.detach())
    torch.testing.assert_close(fm(x), expected.detach())  # nothing is carried over to the second call


def test_nothing_of_the_users_module_changes(model: nn.Module, x: Tensor) -> None:
    before, fm = snapshot(model), functionalize(model)
    first = fm.sites[0] if fm.sites else ""
    fm(x)
    fm.apply(drawn(fm), x)
    read(model, first)(x)
    torch.func.grad(lambda p: fm.apply(p, x).sum())(fm.params)
    funcattr.vjp(fm, x, rules={"relu": lambda call, g: g})[1](torch.ones_like(fm(x)))
    assert snapshot(model) == before


def test_bound_parameters_are_the_ones_used(model: nn.Module, x: Tensor) -> None:
    fm = functionalize(model)
    params = drawn(fm)
    expected = loaded(model, params)(x).detach()
    torch.testing.assert_close(fm.bind(params)(x), expected)
    torch.testing.assert_close(fm.apply(params, x), expected)


def test_gradients_reach_bound_parameters_and_no_others(model: nn.Module, x: Tensor) -> None:
    fm = functionalize(model)
    assert not fm(x).requires_grad
    params = drawn(fm)
    found = torch.func.grad(lambda p: fm.apply(p, x).pow(2).sum())(params)
    other = loaded(model, params)
    if params:
        other(x).pow(2).sum().backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in other.named_parameters()}, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "reused", "tied", "orthogonal", "batch norm", "hidden"])
def test_stacked_parameters_under_vmap_are_a_loop(name: str, x: Tensor) -> None:
    model = MODELS[name]()
    fm = functionalize(model)
    members = [loaded(model, drawn(fm)) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(members)
    before = copy.deepcopy(buffers)
    mapped = torch.func.vmap(lambda p: fm.apply(p, x))({**params, **buffers})
    torch.testing.assert_close(mapped, torch.stack([copy.deepcopy(m)(x) for m in members]))
    torch.testing.assert_close(buffers, before)


def test_bound_buffers_are_used_and_never_written(x: Tensor) -> None:
    calls = torch.tensor(4.0)
    torch.testing.assert_close(functionalize(Counter()).bind({"calls": calls})(x), x * 5)
    assert calls == 4


def test_a_hook_that_is_a_method_sees_what_is_bound(x: Tensor) -> None:
    model = Hidden()
    expected = model.two(model.one.weight.new_zeros(4, 3))
    torch.testing.assert_close(functionalize(model).bind({"scale": torch.zeros(())})(x), expected.detach())


def test_names_of_parameters_buffers_and_sites() -> None:
    model = batch_norm()
    fm = functionalize(model)
    assert list(fm.params) == [name for name, _ in model.named_parameters()]
    assert list(fm.buffers) == [name for name, _ in model.named_buffers()]
    assert fm.sites == ("0", "1")
    assert all(p is q for p, q in zip(fm.params.values(), model.parameters()))
    assert repr(fm) == "FunctionalModel(Sequential, 4 parameters, 2 sites)"
    assert functionalize(fm) is fm
    assert fm.training
    assert not functionalize(model.eval()).training


def test_bind_keeps_what_was_bound_before(x: Tensor) -> None:
    fm, (w, b) = functionalize(nn.Linear(3, 3)), (torch.randn(3, 3), torch.randn(3))
    bound = fm.bind({"weight": w}).bind({"bias": b})
    torch.testing.assert_close(bound(x), F.linear(x, w, b))
    assert bound.params["weight"] is w
    assert fm.params["weight"] is not w


@pytest.mark.parametrize("name", ["a.weight", "b.weight", "again.weight"])
def test_any_name_of_a_tied_weight_binds_it_everywhere(name: str, x: Tensor) -> None:
    model, weight = Tied(), torch.randn(3, 3)
    expected = loaded(model, {**dict(model.named_parameters()), "a.weight": weight})(x).detach()
    torch.testing.assert_close(functionalize(model).bind({name: weight})(x), expected)


def test_a_state_dict_binds(model: nn.Module, x: Tensor) -> None:
    fm = functionalize(model)
    torch.testing.assert_close(fm.bind(model.state_dict())(x), fm(x))


def test_binding_a_wrong_name_lists_the_closest(x: Tensor) -> None:
    message = r"bind\(params=...\): no such parameter or buffer '0.wieght'. Closest: '0.weight', '1.weight'.*\.params"
    with pytest.raises(ValueError, match=message):
        functionalize(batch_norm()).apply({"0.wieght": torch.zeros(3, 3)}, x)
    with pytest.raises(ValueError, match=r"no such parameter or buffer 'w'. Closest: none, the model has no tensors"):
        functionalize(torch.sin).bind({"w": x})


def test_what_is_added_to_sites_stays_when_a_model_is_bound_or_edited(x: Tensor) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    by, other = torch.randn(4, 3), torch.zeros(3)
    fm = functionalize(model).shifted({"0": by})
    hidden = (model[0](x) + by).relu()
    torch.testing.assert_close(fm(x), model[2](hidden).detach())
    torch.testing.assert_close(fm.bind({"2.bias": other})(x), F.linear(hidden, model[2].weight, other).detach())
    torch.testing.assert_close(funcattr.edit(fm, {"1": lambda h: 2 * h})(x), model[2](2 * hidden).detach())
    torch.testing.assert_close(fm.shifted({"0": by})(x), model[2]((model[0](x) + 2 * by).relu()).detach())


def test_an_optimisers_steps_are_seen(x: Tensor) -> None:
    model = nn.Linear(3, 3)
    fm, optimiser = functionalize(model), torch.optim.SGD(model.parameters(), lr=0.1)
    before = fm(x)
    model(x).sum().backward()
    optimiser.step()
    torch.testing.assert_close(fm(x), model(x).detach())
    assert not torch.equal(fm(x), before)


def test_the_users_own_hooks_are_respected(x: Tensor) -> None:
    model, seen = nn.Sequential(nn.Linear(3, 3)), list[str]()
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[0].register_forward_hook(lambda module, args, kwargs, out: seen.append("hook") or out * 2, with_kwargs=True)
    torch.testing.assert_close(functionalize(model)(x), model(x).detach())
    assert seen == ["hook", "hook"]


def test_threads_with_their_own_parameters_equal_the_series(x: Tensor) -> None:
    for name in ("tied", "lstm", "weight_norm", "counter", "hidden"):
        fm = functionalize(MODELS[name]())
        bound = [drawn(fm) for _ in range(40)]
        with ThreadPoolExecutor(8) as pool:
            threaded = list(pool.map(lambda p, fm=fm: fm.apply(p, x), bound))
        torch.testing.assert_close(threaded, [fm.apply(p, x) for p in bound])


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize(
    "name",
    # Dynamo takes no recurrent modules.
    sweep(sorted(set(MODELS) - {"lstm", "gru", "rnn"}), quick=("tied", "weight_norm", "batch norm", "counter")),
)
def test_compiled_apply_equals_eager_and_leaves_the_model_as_it_was(name: str, x: Tensor) -> None:
    model = MODELS[name]()
    before, fm = snapshot(model), functionalize(model)
    compiled = torch.compile(fm.apply, fullgraph=True, backend="aot_eager")
    for params in (drawn(fm), drawn(fm)):
        expected = loaded(model, params)(x).detach()
        torch.testing.assert_close(compiled(params, x), expected)
        torch.testing.assert_close(fm.apply(params, x), expected)
    assert snapshot(model) == before


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_model_is_unwrapped(x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    fm = functionalize(torch.compile(model, backend="eager"))
    assert fm.sites == ("0", "1")
    torch.testing.assert_close(fm(x), model(x).detach())


def test_a_plain_callable_has_no_names_and_takes_keywords(x: Tensor) -> None:
    fm = functionalize(torch.add)
    assert (fm.params, fm.buffers, fm.sites, fm.training) == ({}, {}, (), False)
    torch.testing.assert_close(fm(x, x, alpha=2), 3 * x)
    with pytest.raises(TypeError, match=r"functionalize\(model=...\): expected a module or a callable, got int"):
        functionalize(3)  # pyright: ignore[reportArgumentType]
