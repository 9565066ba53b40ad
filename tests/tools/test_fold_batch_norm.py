"""A model whose batch norms are folded is the same function, has none of them, and says where it cannot be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr.testing.seeding import settle, uniform

from ..sweeps import long, sweep
from ..zoo.classic import BasicBlock, ResNet

PAIRS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "linear": (lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6)], (3, 4)),
    "conv1d without bias": (lambda: [nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)], (2, 4, 8)),
    "conv2d of groups": (lambda: [nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6)], (2, 4, 5, 5)),
    "conv3d, not affine": (lambda: [nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, affine=False)], (2, 2, 3, 3, 3)),
    "transposed, of groups": (
        lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)],
        (2, 4, 4, 4),
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
def test_each_kind_of_layer_takes_its_batch_norm(name: str) -> None:
    make, shape = PAIRS[name]
    model, x = settle(lambda: nn.Sequential(*make(), nn.Tanh(), nn.Flatten())), uniform(*shape)
    folded = funcattr.fold_batch_norm(model, x)
    assert (batch_norms(lambda: model(x)), batch_norms(lambda: folded(x))) == (1, 0)
    assert_close(folded(x), model(x))
    assert_close(funcattr.gradient(folded, x, 1), funcattr.gradient(model, x, 1))


METHODS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "gradient": lambda m, x: funcattr.gradient(m, x, 1),
    "guided_backprop": lambda m, x: funcattr.guided_backprop(m, x, 1),
    "lrp": lambda m, x: funcattr.lrp(m, x, 1, rules="epsilon_plus", start="one"),
    "grad_cam": lambda m, x: funcattr.grad_cam(m, x, 1, layer="layer2"),
    "integrated_gradients": lambda m, x: funcattr.integrated_gradients(m, x, 1, steps=3),
    "of each class": lambda m, x: torch.vmap(lambda c: funcattr.gradient(m, x, c))(torch.arange(3)),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_give_the_same_without_a_batch_norm(name: str) -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded = funcattr.fold_batch_norm(model, x)
    assert_close(METHODS[name](folded, x), METHODS[name](model, x))
    assert batch_norms(lambda: METHODS[name](folded, x)) == 0 < batch_norms(lambda: METHODS[name](model, x))


@long
def test_in_compiled_code_and_exported() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded = funcattr.fold_batch_norm(model, x)
    expected = funcattr.guided_backprop(model, x, 1)
    compiled: Any = torch.compile(lambda x: funcattr.guided_backprop(folded, x, 1), backend="eager", fullgraph=True)
    assert_close(compiled(x), expected)
    assert_close(torch.compile(lambda x: folded(x), backend="eager", fullgraph=True)(x), model(x))
    program = funcattr.export(lambda x: funcattr.guided_backprop(folded, x, 1), x)
    assert_close(program.module()(x), expected)


def test_the_model_is_not_touched_and_its_later_steps_do_not_reach_the_folded_one() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    folded = funcattr.fold_batch_norm(model, x)
    expected = folded(x)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert torch.equal(folded(x), expected)


def test_sites_are_the_ones_whose_values_are_as_before() -> None:
    model, x = resnet(), uniform(2, 3, 16, 16)
    folded = funcattr.fold_batch_norm(model, x)
    assert "conv1" not in folded.sites
    assert "bn1" in folded.sites
    for name in folded.sites:
        assert_close(funcattr.read(folded, name)(x)[1][name], funcattr.read(model, name)(x)[1][name])
    with pytest.raises(funcattr.UnknownSiteError, match="'conv1'"):
        funcattr.read(folded, "conv1")(x)
    with pytest.raises(funcattr.UnknownSiteError, match="'conv1'"):
        funcattr.gradient(folded, x, 1, layer="conv1")


class Shared(nn.Module):
    """A convolution whose batch norm is one of two readers, or whose weights are another's, as asked."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        if how == "tied":
            self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.how == "twice":
            return self.norm(self.conv(self.norm(y))).mean((2, 3))
        if self.how == "output":
            return self.norm(y).mean((2, 3)), y
        if self.how == "read":
            return (self.norm(y) + y).mean((2, 3))
        return (self.norm(y) + self.other(x)).mean((2, 3))


@pytest.mark.parametrize("how", ["tied", "twice", "output", "read"])
def test_what_something_else_depends_on_is_not_folded(how: str) -> None:
    with pytest.raises(ValueError, match="found no batch norm"):
        funcattr.fold_batch_norm(Shared(how).eval(), torch.rand(2, 3, 4, 4))


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
            "a shape": lambda: self.norm(h) * h.shape[1],
            "a comparison": lambda: self.norm(h) * (h > 0),
            "an item": lambda: self.norm(h) * h[0],
            "the output": lambda: (self.norm(h), h),
            "a write": lambda: self.norm(h.mul_(2)),
            "changed before": lambda: self.norm(h + 1),
        }
        return readings[self.how]()


READINGS = ["no norm", "another norm", "both", "a method", "a shape", "a comparison", "an item", "a write"]


EVERY_READING = [*READINGS, "changed before", "the output"]


@pytest.mark.parametrize(
    ("how", "run"),
    sweep(
        [(how, run) for how in EVERY_READING for run in ("eager", "compiled")],
        quick=(*(f"{how}-eager" for how in EVERY_READING), "no norm-compiled", "a write-compiled", "a method-compiled"),
    ),
)
def test_another_reading_of_a_folded_layer_is_refused(how: str, run: str, fresh_dynamo: None) -> None:
    model, x = settle(lambda: Changing(how)), uniform(2, 2, 3, 3)
    folded: Any = funcattr.fold_batch_norm(model, x[:1])
    assert_close(folded(x[:1]), model(x[:1]))
    function: Any = torch.compile(lambda x: folded(x), backend="eager") if run == "compiled" else folded
    with pytest.raises(funcattr.FuncattrError, match="reads the output of 'conv' in another way"):
        function(x)


def test_what_the_record_does_not_show_is_not_folded() -> None:
    class Compares(Shared):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return (self.norm(y) * (y > 0)).mean((2, 3))

    with pytest.raises(ValueError, match="found no batch norm"):
        funcattr.fold_batch_norm(settle(lambda: Compares("")), uniform(2, 3, 4, 4))


def test_the_weights_that_a_model_reads_are_its_own() -> None:
    class Reads(Shared):
        def forward(self, x: Tensor) -> Any:
            return self.norm(self.conv(x)).mean((2, 3)) + self.conv.weight.sum() + self.norm.weight.sum()

    model, x = settle(lambda: Reads("")), uniform(2, 3, 4, 4)
    assert_close(funcattr.fold_batch_norm(model, x)(x), model(x))


def test_inputs_may_come_by_name() -> None:
    class Named(Shared):
        def forward(self, x: Tensor) -> Any:
            return self.norm(input=self.conv(input=x)).mean((2, 3))

    model, x = settle(lambda: Named("")), uniform(2, 3, 4, 4)
    folded = funcattr.fold_batch_norm(model, x)
    assert_close(folded(x), model(x))
    assert batch_norms(lambda: folded(x)) == 0


def test_inputs_of_another_rank_get_their_batch_norm() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    folded, x = funcattr.fold_batch_norm(model, uniform(3, 5)), uniform(3, 4, 5)
    assert_close(folded(x), model(x))
    assert batch_norms(lambda: folded(x)) == 1 > batch_norms(lambda: folded(uniform(3, 5)))


def test_folded_tensors_cannot_be_bound() -> None:
    folded = funcattr.fold_batch_norm(resnet(), uniform(2, 3, 16, 16))
    for name in ("conv1.weight", "bn1.bias", "bn1.running_mean", "conv1.folded_weight"):
        for model in (folded, funcattr.edit(folded, {"relu": lambda v: v * 2})):
            with pytest.raises(ValueError, match=f"'{name}' is folded"):
                model.bind({name: torch.zeros(())})
    assert folded.bind({"fc.bias": torch.zeros(4, dtype=torch.float64)}).params["fc.bias"].sum() == 0


def test_bad_arguments() -> None:
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        funcattr.fold_batch_norm(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), x)
    with pytest.raises(TypeError, match="expected a module"):
        funcattr.fold_batch_norm(torch.relu, x)
    edited = funcattr.edit(Shared("plain").eval(), {"norm": lambda v: v * 2})
    with pytest.raises(ValueError, match="has edits"):
        funcattr.fold_batch_norm(edited, x)
