"""What a pullback reads is what the call read: a write into it in between is an error, any other write is none."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import AliasedWriteError, rules
from funcattr.calls.saved_tensors import MadeAgain
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal

# Forces the recorder, which uses the closed forms of adjoints; with no rules at all vjp is torch.func.vjp.
RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.STOP}, name="recorded")
EPSILON, Z_PLUS = rules.epsilon_everywhere(), rules.epsilon_plus()
RATIO = funcattr.Rulebook({"activation": rules.ratio}, name="ratio")
HALF = funcattr.Rulebook({"relu": funcattr.rules.output_only(lambda call, g: g * (call.output > 0) / 2)}, name="half")

Model = Callable[[Tensor, Tensor], Tensor]
READ: dict[str, tuple[Model, Any]] = {
    "mul": (lambda x, c: x * c, RECORDED),
    "linear": (F.linear, RECORDED),
    "matmul": (lambda x, c: x @ c, RECORDED),
    "maximum, torch.func.vjp": (lambda x, c: torch.maximum(x, c), RECORDED),
    "linear, epsilon": (F.linear, EPSILON),
    "linear, z+": (F.linear, Z_PLUS),
    "add, norm": (lambda x, c: x + c, EPSILON),
    "cat, a list": (lambda x, c: torch.cat([x, c]) * 1, funcattr.Rulebook({"cat": lambda call, g: call.vjp(g)})),
    "prelu, ratio": (F.prelu, RATIO),
    "layer norm": (lambda x, c: F.layer_norm(x, (3,), c), rules.attnlrp()),
    "the same by its last rule": (F.linear, funcattr.Rulebook({}) | funcattr.rules.Entry("linear_map", rules.epsilon)),
}


def constant(fn: Model) -> Tensor:
    """What `fn` reads beside its input: one number a feature where that is what it takes, else a matrix."""
    return uniform(3) if fn in (READ["prelu, ratio"][0], READ["layer norm"][0]) else uniform(3, 3)


each_read = pytest.mark.parametrize(("fn", "book"), READ.values(), ids=READ)


@each_read
@pytest.mark.parametrize("when", ["in the model", "before the pullback"])
def test_a_constant_that_is_written_after_it_was_read(fn: Model, book: Any, when: str) -> None:
    x, c = uniform(3, 3), constant(fn)

    def model(x: Tensor) -> Tensor:
        y = fn(x, c)
        if when == "in the model":
            c.mul_(5)
        return y

    y, pull = funcattr.vjp(model, x, rules=book)
    if when != "in the model":
        c.mul_(5)
    with pytest.raises(AliasedWriteError, match="between the call that read it and the pullback"):
        pull(torch.ones_like(y))


@each_read
def test_a_constant_that_vmap_maps_over_is_written_after_it_was_read(fn: Model, book: Any) -> None:
    """The tensor that the model sees counts no writes there; the one that it wraps does."""
    for write in (lambda c: c.mul_(5), lambda c: c[..., 0].zero_()):

        def model(x: Tensor, c: Tensor, write: Callable[[Tensor], object] = write) -> Tensor:
            own = c.clone()
            y = fn(x, own)
            write(own)
            return y

        def pulled(model: Model, x: Tensor, c: Tensor) -> Tensor:
            y, pull = funcattr.vjp(lambda x: model(x, c), x, rules=book)
            return pull(torch.ones_like(y))[0]

        one = partial(pulled, model)
        each = (torch.stack([uniform(3, 3), uniform(3, 3)]), torch.stack([constant(fn), constant(fn)]))
        with pytest.raises(AliasedWriteError, match="between the call that read it and the pullback"):
            torch.vmap(one)(*each)
        with pytest.raises(AliasedWriteError, match="between the call that read it and the pullback"):
            torch.vmap(torch.vmap(one))(*(t[None] for t in each))


@each_read
def test_the_same_without_a_write(fn: Model, book: Any) -> None:
    x, c = uniform(3, 3), constant(fn)
    y, pull = funcattr.vjp(lambda x: fn(x, c), x, rules=book)
    before = pull(torch.ones_like(y))[0]
    c.clone().mul_(5)
    assert_equal(pull(torch.ones_like(y))[0], before)
    assert before.abs().max() > 0


def test_a_mask_that_is_written_after_it_was_read() -> None:
    mask = torch.tensor([True, False, True])
    y, pull = funcattr.vjp(lambda x: torch.where(mask, x, 0), uniform(2, 3), rules=RECORDED)
    mask.logical_not_()
    with pytest.raises(AliasedWriteError):
        pull(torch.ones_like(y))


OUTPUT: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "relu": (torch.relu, RECORDED),
    "softmax": (lambda x: x.softmax(-1), RECORDED),
    "tanh, torch.func.vjp": (torch.tanh, RECORDED),
    "a rule that reads it": (torch.relu, HALF),
}


@pytest.mark.parametrize(("fn", "book"), OUTPUT.values(), ids=OUTPUT)
def test_an_output_that_its_owner_writes_into(fn: Callable[[Tensor], Tensor], book: Any) -> None:
    y, pull = funcattr.vjp(fn, uniform(2, 3), rules=book)
    before = pull(torch.ones_like(y))[0]
    assert_equal(pull(torch.ones_like(y))[0], before)
    y.zero_()
    with pytest.raises(AliasedWriteError):
        pull(torch.ones_like(y))


def test_the_error_names_the_module() -> None:
    class Decays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale: Tensor
            self.register_buffer("scale", torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            y = x * self.scale
            self.scale.mul_(0.9)
            return y

    model = settle(lambda: nn.Sequential(nn.Linear(3, 3), Decays(), nn.ReLU(), nn.Linear(3, 2)))
    with pytest.raises(AliasedWriteError, match="in the module '1', a tensor of the model or its input was written"):
        funcattr.guided_backprop(model, uniform(2, 3), 0)


@pytest.mark.parametrize("combine", [torch.add, torch.sub, lambda x, c: torch.stack([x, c.expand(2, 3)])[0]])
def test_what_no_pullback_reads_may_be_written(combine: Model) -> None:
    x, total = uniform(2, 3), torch.zeros(3, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        y = combine(x, total)
        total.add_(1)
        return torch.relu(y) - 1

    y, pull = funcattr.vjp(model, x, rules=RECORDED)
    y.mul_(2)
    assert_equal(pull(torch.ones_like(y))[0], (x > 0).double())


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, lambda n: nn.InstanceNorm1d(n, track_running_stats=True)])
def test_statistics_that_calls_update_are_not_what_their_pullback_reads(norm: Callable[[int], nn.Module]) -> None:
    layer = settle(lambda: norm(3)).train()
    x = uniform(4, 3, 5)
    y, pull = funcattr.vjp(lambda x: layer(layer(x)).sum(-1), x, rules=rules.attnlrp())
    fresh = copy.deepcopy(layer)
    z, once = funcattr.vjp(lambda x: fresh(layer(x)).sum(-1), x, rules=rules.attnlrp())
    assert_equal(y, z)
    assert_equal(pull(torch.ones_like(y))[0], once(torch.ones_like(y))[0])


def test_a_counter_that_indexes_is_not_read() -> None:
    def model(x: Tensor) -> Tensor:
        place, total = torch.tensor(0), torch.zeros(())
        for _ in range(3):
            total = total + 2 * x[:, place]
            place += 1
        return total

    y, pull = funcattr.vjp(model, uniform(2, 3), rules=RECORDED)
    assert_equal(pull(torch.ones_like(y))[0], torch.full((2, 3), 2.0, dtype=torch.float64))


def test_a_divisor_is_not_read_by_its_rule() -> None:
    x, scale = uniform(2, 3), torch.full((3,), 2.0, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        y = x / scale
        scale.mul_(0.9)
        return y * 2

    y, pull = funcattr.vjp(model, x, rules=rules.epsilon_everywhere())
    assert_equal(pull(y)[0], x)


@pytest.mark.parametrize("rules", [RECORDED, EPSILON, Z_PLUS], ids=["adjoint", "epsilon", "z+"])
def test_what_is_made_again_is_made_of_what_it_was(rules: funcattr.Rulebook) -> None:
    """A tensor that was gathered is not held, but made again; and refused where what it is made of was written."""
    source, made = torch.randn(4, 3, dtype=torch.float64), list[int]()

    def whole() -> Tensor:
        made.append(1)
        return 2 * source

    def count(tensor: Tensor) -> int:
        return tensor._version

    def linear(x: Tensor) -> Tensor:
        return F.linear(x, MadeAgain(whole, source, count, "layer").of(2 * source.clone()))

    x = torch.randn(2, 3, dtype=torch.float64)
    expected = funcattr.vjp(lambda x: F.linear(x, 2 * source), x, rules=rules)[1](torch.ones(2, 4).double())[0]
    _, pull = funcattr.vjp(linear, x, rules=rules)
    assert not made
    assert_equal(pull(torch.ones(2, 4).double())[0], expected)
    assert made
    source.mul_(3)
    with pytest.raises(AliasedWriteError, match="in the module 'layer', a tensor of the model or its input was writ"):
        pull(torch.ones(2, 4).double())
