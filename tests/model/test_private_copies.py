"""What a call runs is its own: modules reached by any way are copied, and nothing of the user's is written."""

import copy
import functools
import pickle
import random
import types
from collections import UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import funcattr
from funcattr import FuncattrError, functionalize

Stage = namedtuple("Stage", "layer after")


@dataclass
class Holder:
    layer: Any


class Slotted:
    __slots__ = ("layer",)

    def __init__(self, layer: Any) -> None:
        self.layer = layer


class Calls:
    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Layers(list[Any]):
    def run(self, x: Tensor) -> Tensor:
        return self[0](x)


WAYS: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "nested lists": lambda layer: (lambda held: lambda x: held[0][0](x))([[layer]]),
    "a tuple in a list": lambda layer: (lambda held: lambda x: held[0][1](x))([(0, layer)]),
    "a dict of lists": lambda layer: (lambda held: lambda x: held["a"][0](x))({"a": [layer]}),
    "a closure": lambda layer: lambda x: layer(x),
    "a closure in a closure": lambda layer: (lambda inner: lambda x: inner(x))(lambda x: layer(x)),
    "a default argument": lambda layer: lambda x, layer=layer: layer(x),
    "a keyword default": lambda layer: functools.partial(lambda x, *, layer=layer: layer(x)),
    "a partial": lambda layer: functools.partial(lambda layer, x: layer(x), layer),
    "a partial of partials": lambda layer: functools.partial(functools.partial(lambda a, layer, x: layer(x), 1), layer),
    "a bound method": lambda layer: layer.forward,
    "a method of a helper": lambda layer: Calls(layer).__call__,
    "a helper": Calls,
    "a helper of a helper": lambda layer: Calls(Calls(layer)),
    "a dataclass": lambda layer: (lambda held: lambda x: held.layer(x))(Holder(layer)),
    "slots": lambda layer: (lambda held: lambda x: held.layer(x))(Slotted(layer)),
    "a named tuple": lambda layer: (lambda held: lambda x: held.layer(x))(Stage(layer, None)),
    "a deque": lambda layer: (lambda held: lambda x: held[0](x))(deque([layer])),
    "a defaultdict": lambda layer: (lambda held: lambda x: held["a"](x))(defaultdict[str, Any](list, a=layer)),
    "a UserDict": lambda layer: (lambda held: lambda x: held["a"](x))(UserDict(a=layer)),
    "a list of a class of its own": lambda layer: Layers([layer]).run,
    "a set": lambda layer: (lambda held: lambda x: next(iter(held))(x))({layer}),
    "a key of a dict": lambda layer: (lambda held: lambda x: next(iter(held))(x))({layer: 1}),
    "a namespace": lambda layer: (lambda held: lambda x: held.layer(x))(types.SimpleNamespace(layer=layer)),
    "its weight alone": lambda layer: (lambda held: lambda x: F.linear(x, held[0], held[1]))(
        [layer.weight, layer.bias]
    ),
    "its weight in a dict": lambda layer: (lambda w: lambda x: F.linear(x, w["w"], w["b"]))(
        {"w": layer.weight, "b": layer.bias}
    ),
}


class Reaching(nn.Module):
    """Reaches its layers by an attribute that is neither a module nor a list of modules."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.run, self.normalise = WAYS[way](self.layer), WAYS["a dict of lists"](self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(self.run(x))


def by_functional_call(model: Any, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The independent reference: a module whose own tensors have other values."""
    other: Any = copy.deepcopy(model)
    plain = nn.Sequential(other.layer, other.norm).train(model.training)
    return torch.func.functional_call(plain, {_plain_name(k): v for k, v in tensors.items()}, (x,))


def _plain_name(name: str) -> str:
    return name.replace("layer.", "0.").replace("norm.", "1.")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_bound_is_used_however_a_module_is_reached(way: str) -> None:
    model, x = Reaching(way).double().eval(), torch.randn(4, 3).double()
    new = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    found = torch.func.grad(lambda p: functionalize(model).bind(p)(x).square().sum())(new)
    right = torch.func.grad(lambda p: by_functional_call(model, p, x).square().sum())(new)
    torch.testing.assert_close(functionalize(model).bind(new)(x), by_functional_call(model, new, x))
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("way", WAYS)
def test_statistics_of_a_batch_stay_out_however_a_module_is_reached(way: str) -> None:
    model, x = Reaching(way), torch.randn(4, 3)
    state = copy.deepcopy(model.state_dict())
    for rules in (None, {"relu": funcattr.rules.GRADIENT}):
        with pytest.warns(UserWarning, match="training mode"):
            funcattr.attribute(model, x, 0, rules=rules)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


class Unregistered(nn.Module):
    """Has layers that no table of modules knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [[nn.Linear(3, 3), nn.BatchNorm1d(3)]]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[0]:
            x = layer(x)
        return x


def test_layers_that_are_not_registered_keep_their_statistics() -> None:
    model, x = Unregistered(), torch.randn(4, 3)
    norm = model.layers[0][1]
    before = copy.deepcopy(norm.state_dict())
    found = funcattr.gradient(model, x, 0)
    torch.testing.assert_close(dict(norm.state_dict()), dict(before))
    twin = copy.deepcopy(model)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(twin(leaf)[:, 0].sum(), leaf)[0])


MODEL_IN_A_GLOBAL: list[nn.Module] = []


class ByGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        MODEL_IN_A_GLOBAL[:] = [self.layer]

    def forward(self, x: Tensor) -> Tensor:
        return MODEL_IN_A_GLOBAL[0](x)


class ByClassAttribute(nn.Module):
    held: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        type(self).held = [self.layer]

    def forward(self, x: Tensor) -> Tensor:
        return type(self).held[0](x)


class ByGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

        def endless() -> Any:
            while True:
                yield self.layer

        self.next = endless()

    def forward(self, x: Tensor) -> Tensor:
        return next(self.next)(x)


class RecurrentByGlobal(nn.Module):
    """Its weights are a list among the arguments of a torch function."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(3, 3)
        MODEL_IN_A_GLOBAL[:] = [self.layer]

    def forward(self, x: Tensor) -> Tensor:
        return MODEL_IN_A_GLOBAL[0](x)[0]


class ByEinsum(ByGlobal):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", [x, MODEL_IN_A_GLOBAL[0].weight])


@pytest.mark.parametrize("kind", [ByGlobal, ByClassAttribute, ByGenerator, RecurrentByGlobal, ByEinsum])
@pytest.mark.parametrize("rules", [None, {"relu": funcattr.rules.GRADIENT}])
def test_a_tensor_that_is_reached_past_the_copy_is_refused_by_name(kind: type[nn.Module], rules: Any) -> None:
    model = nn.Sequential(nn.ReLU(), kind())
    with pytest.raises(
        FuncattrError, match=r"in the module '1', the call reads the tensor '1.layer.weight.* of the use"
    ):
        funcattr.attribute(model, torch.ones(1, 3), 0, rules=rules)


# --- what a forward writes --------------------------------------------------------------------------------------------


class Writes(nn.Module):
    """Calls a function of itself and x, which writes somewhere, and returns a value that tells of the write."""

    def __init__(self, write: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.write = nn.Linear(3, 3), [write]
        self.tensor, self.array, self.names = torch.ones(3), np.ones(3, dtype=np.float32), {"seen": []}
        self.recent: deque[Any] = deque(maxlen=2)
        self.helper, self.drawn = types.SimpleNamespace(count=0, tensor=torch.ones(3)), random.Random(0)
        self.generator = torch.Generator().manual_seed(0)
        self.register_buffer("store", torch.ones(2, 3))
        self.register_buffer("row", self.get_buffer("store")[0])
        self.register_buffer("of_weight", self.linear.weight.detach()[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.write[0](self, x)


def _hooked(m: Any, x: Tensor) -> Tensor:
    if not m.linear._forward_hooks:
        m.linear.register_forward_hook(lambda module, args, out: 2 * out)
    return m.linear(x)


def _clamped(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.linear.weight.clamp_(min=0)
    return m.linear(x)


def _clamped_by_data(m: Any, x: Tensor) -> Tensor:
    m.linear.weight.data.clamp_(min=0)
    return m.linear(x)


def _by_numpy(m: Any, x: Tensor) -> Tensor:
    m.linear.weight.detach().numpy()[:] *= 2
    return m.linear(x)


def _aliased(m: Any, x: Tensor) -> Tensor:
    m.row.add_(1)
    return x * m.store.sum(0)


def _aliased_parameter(m: Any, x: Tensor) -> Tensor:
    m.of_weight.add_(1)
    return m.linear(x)


def _counted(m: Any, x: Tensor) -> Tensor:
    m.tensor += 1
    m.helper.tensor.add_(1)
    m.helper.count += 1
    return x * m.tensor * m.helper.tensor * m.helper.count


def _listed(m: Any, x: Tensor) -> Tensor:
    m.names["seen"].append(x)
    m.recent.append(x)
    m.names["new"] = m.recent
    return x * (len(m.names["seen"]) + len(m.recent))


def _in_an_array(m: Any, x: Tensor) -> Tensor:
    m.array += 1
    return x * torch.from_numpy(m.array)


def _drawn(m: Any, x: Tensor) -> Tensor:
    return x * m.drawn.random() + torch.rand(3, generator=m.generator)


def _set(m: Any, x: Tensor) -> Tensor:
    m.linear.weight.data = m.linear.weight.data * 2
    m.later = x
    return m.linear(x)


WRITES = (
    *(_hooked, _clamped, _clamped_by_data, _by_numpy, _aliased, _aliased_parameter, _counted, _listed, _in_an_array),
    *(_drawn, _set),
)


def state(model: Any) -> Any:
    tensors = {**model.state_dict(), "tensor": model.tensor, "helper": model.helper.tensor}
    rest = (model.array, len(model.names), len(model.names["seen"]), len(model.recent), model.helper.count)
    random_states = (model.drawn.getstate(), model.generator.get_state().tolist())
    hooks = [len(v) for m in model.modules() for k, v in vars(m).items() if k.endswith("hooks")]
    versions = {name: t._version for name, t in tensors.items()}
    return copy.deepcopy((dict(tensors), rest, hooks, sorted(vars(model)), versions)), random_states


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("rules", [None, {"relu": funcattr.rules.GRADIENT}])
def test_what_a_forward_writes_stays_with_the_call(write: Callable[..., Any], rules: Any) -> None:
    model, x = Writes(write), torch.randn(2, 3)
    leaf = x.clone().requires_grad_()
    right = torch.autograd.grad(copy.deepcopy(model)(leaf)[:, 1].sum(), leaf)[0]
    before = state(model)
    for _ in range(3):
        try:
            found = funcattr.attribute(model, x, 1, rules=rules).cotangent
        except FuncattrError:
            assert (rules is None, write) == (False, _clamped_by_data)  # the recorder takes no view of what is written
            continue
        torch.testing.assert_close(found, right)
    (tensors, rest, *more), drawn = state(model)
    (first, rest_before, *more_before), drawn_before = before
    torch.testing.assert_close(tensors, first, rtol=0, atol=0)
    torch.testing.assert_close(rest, rest_before, rtol=0, atol=0)
    assert more == more_before and drawn == drawn_before


def test_a_view_made_before_a_write_into_a_parameter_is_not_read_after_it() -> None:
    def stale(m: Any, x: Tensor) -> Tensor:
        view = m.linear.weight.detach().t()
        m.linear.weight.data.mul_(2)
        return x @ view

    with pytest.raises(FuncattrError, match="a view of a parameter is read that was made before the parameter was"):
        funcattr.gradient(Writes(stale), torch.ones(1, 3), 0)


def test_a_write_into_what_is_bound_is_refused() -> None:
    model, weight = Writes(_clamped), torch.randn(3, 3)
    before = weight.clone()
    with pytest.raises(FuncattrError, match=r"writes in place into the tensor that is bound to 'linear.weight'"):
        functionalize(model).bind({"linear.weight": weight})(torch.ones(1, 3))
    torch.testing.assert_close(weight, before, rtol=0, atol=0)


class Renormed(nn.Module):
    def __init__(self, bag: bool) -> None:
        super().__init__()
        self.table = (nn.EmbeddingBag if bag else nn.Embedding)(9, 4, max_norm=0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).reshape(len(ids), -1, 4).sum(1)).tanh()


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("rules", [None, {"relu": funcattr.rules.GRADIENT}])
def test_rows_that_an_embedding_shortens_stay_long(bag: bool, rules: Any) -> None:
    model, ids = Renormed(bag), torch.tensor([[1, 2]])
    before, twin = model.table.weight.detach().clone(), copy.deepcopy(model)
    rows = twin.table(ids).detach().requires_grad_()
    right = torch.autograd.grad(twin.head(rows.reshape(1, -1, 4).sum(1)).tanh()[:, 0].sum(), rows)[0]
    for _ in range(2):
        torch.testing.assert_close(funcattr.attribute(model, ids, 0, layer="table", rules=rules).cotangent, right)
    torch.testing.assert_close(model.table.weight.detach(), before, rtol=0, atol=0)
    assert not torch.allclose(before, twin.table.weight)  # the reference's rows were too long


class Past(nn.Module):
    """Appends to a cache that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, past: Any) -> Tensor:
        values = past if isinstance(past, list) else past.values
        values.append(x)
        return self.linear(torch.stack(values).sum(0)).tanh()


@pytest.mark.parametrize("make", [list, lambda values: types.SimpleNamespace(values=list(values))])
def test_a_cache_among_the_inputs_does_not_grow(make: Callable[[list[Tensor]], Any]) -> None:
    model, x, first = Past(), torch.randn(2, 3), torch.randn(2, 3)
    past = make([first])
    rise = (model(x, make([first])) - model(0 * x, make([first])))[:, 0].detach()
    for _ in range(2):
        found = funcattr.integrated_gradients(model, x, 0, kwargs={"past": past}, steps=200, chunk_size=1)
        torch.testing.assert_close(found.sum(1), rise, rtol=1e-2, atol=1e-3)
        funcattr.lrp(model, x, 0, kwargs={"past": past})
    assert len(past if isinstance(past, list) else past.values) == 1


def test_a_parametrised_weight_that_is_cached_is_that_of_the_call() -> None:
    model: Any = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    x, new = torch.randn(1, 3), {name: torch.randn_like(p) for name, p in model.named_parameters()}
    fm, right = functionalize(model), model(x).detach()
    bound = fm.bind(new)(x)
    with parametrize.cached():
        torch.testing.assert_close(fm(x), right)
        torch.testing.assert_close(fm.bind(new)(x), bound)
        torch.testing.assert_close(funcattr.gradient(model, x, 1), model[0].weight[1:].detach())
        assert model[0].weight.requires_grad  # the user's is not the call's
        torch.testing.assert_close(fm.bind(new)(x), bound)
    assert not torch.allclose(bound, right)


def test_what_a_hook_collects_is_the_users() -> None:
    model, x, seen = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3), list[Any]()
    model[0].register_forward_hook(lambda module, args, out: seen.append((module, out)))
    for _ in range(3):
        functionalize(model)(x)
    assert len(seen) == 3 and all(module is not model[0] for module, _ in seen)


# --- the functional model as a value ----------------------------------------------------------------------------------


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("through", [copy.deepcopy, lambda fm: pickle.loads(pickle.dumps(fm))])
def test_a_functional_model_is_pickled_and_copied(through: Callable[[Any], Any]) -> None:
    fm, x = functionalize(net()), torch.randn(2, 3)
    bound = fm.bind({"3.bias": torch.ones(2)}).shifted({"0": torch.ones(2, 4)})
    for model in (fm, bound):
        again = through(model)
        torch.testing.assert_close(again(x), model(x))
        assert again.sites == model.sites
        torch.testing.assert_close(funcattr.gradient(again, x, 0, layer="2"), funcattr.gradient(model, x, 0, layer="2"))
    assert through(fm).params["0.weight"] is not fm.params["0.weight"]


def _loss(fm: Any, x: Tensor) -> Tensor:
    return funcattr.gradient(fm, x, 0)


@pytest.mark.long
def test_a_functional_model_goes_to_a_spawned_worker() -> None:
    fm, x = functionalize(net()), torch.randn(2, 3)
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_loss, (fm, x))
    torch.testing.assert_close(found, funcattr.gradient(fm, x, 0))


def _its_own(m: Any) -> None:
    m.forward = m.forward


def _wrapped(m: Any) -> None:
    before = m.forward

    @functools.wraps(before)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return 2 * before(*args, **kwargs)

    m.forward = forward


def _as_accelerate(m: Any) -> None:
    before = m.forward

    def new_forward(module: nn.Linear, *args: Any) -> Any:
        return 2 * before(*args) + 0 * module.bias

    m.forward = functools.update_wrapper(functools.partial(new_forward, m), before)


def _bound(m: Any) -> None:
    m.forward = types.MethodType(lambda self, x: 2 * F.linear(x, self.weight, self.bias), m)


@pytest.mark.parametrize(("patch", "factor"), [(_its_own, 1), (_wrapped, 2), (_as_accelerate, 2), (_bound, 2)])
def test_a_forward_that_is_put_on_the_instance_runs_on_the_copy(patch: Callable[..., None], factor: int) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    patch(model[0])
    new, x = torch.randn(2, 3), torch.randn(4, 3)
    fm = functionalize(model)
    torch.testing.assert_close(fm(x), (factor * F.linear(x, model[0].weight, model[0].bias)).relu().detach())
    bound = fm.bind({"0.weight": new})
    torch.testing.assert_close(bound(x), (factor * F.linear(x, new, model[0].bias)).relu().detach())
    torch.testing.assert_close(copy.deepcopy(bound)(x), bound(x))
    assert fm.sites == ("0", "1")
    values = funcattr.read(fm, "0")(x)[1]["0"]
    torch.testing.assert_close(values.relu(), fm(x))
