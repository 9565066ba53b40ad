"""Rules skip the terms of x < 0 where data flow tells that there are none: only there, and without a difference."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import Rulebook
from funcattr.rules import STOP

from ..contract import assert_equal
from .applied import DEFAULTS, rule_of
from .linear_maps import Description, LinearMap


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


def _seeded(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return F.alpha_dropout(x, training=True)


def _complex_square(x: Tensor) -> Tensor:
    z = torch.view_as_complex(x.reshape(-1, 2))
    return torch.view_as_real(z * z).reshape(x.shape)


SIGNED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu - 1": lambda x: torch.relu(x) - 1,
    "relu + constant": lambda x: F.relu(x) + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype),
    "relu * constant": lambda x: F.relu(x) * torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype),
    "relu / constant": lambda x: F.relu(x) / -2,
    "-relu": lambda x: -F.relu(x),
    "relu - relu": lambda x: F.relu(x) - F.relu(-x),
    "relu + x": lambda x: F.relu(x) + x,
    "relu.sub_": lambda x: F.relu(x).sub_(0.5),
    "relu, written": lambda x: _written(F.relu(x)),
    "relu, its view written": lambda x: F.relu(x).view(6, 2)[:4].neg_().view(2, 4),
    "relu, masked": lambda x: F.relu(x).masked_fill(x > 1, -1),
    "relu, where": lambda x: torch.where(x > 1, F.relu(x), x),
    "relu, shifted by a batch norm": lambda x: F.batch_norm(F.relu(x), _ones(4), _ones(4)),
    "relu, layer norm": lambda x: F.layer_norm(F.relu(x), (4,)),
    "cat": lambda x: torch.cat([F.relu(x[:, :2]), x[:, 2:]], 1),
    "cat with a constant": lambda x: torch.cat([F.relu(x[:, 1:]), -_ones(3, 1)], 1),
    "stack with a constant": lambda x: torch.stack([F.relu(x), -3 * _ones(3, 4)], 1).mean(1),
    "stack": lambda x: torch.stack([F.relu(x), x], 1).mean(1),
    "pad with a negative number": lambda x: F.pad(F.relu(x)[:, 1:], (1, 0), value=-1),
    "leaky_relu": lambda x: F.leaky_relu(x),
    "elu": lambda x: F.elu(x),
    "hardtanh": lambda x: F.hardtanh(x),
    "clamp(min=-1)": lambda x: x.clamp(min=-1),
    "clamp(max=1)": lambda x: x.clamp(max=1),
    "clamp(min=tensor)": lambda x: x.clamp(min=-_ones(4)),
    "threshold": lambda x: F.threshold(x, 0.0, -1.0),
    "threshold below 0": lambda x: F.threshold(x, -1.0, 0.0),
    "gelu": lambda x: F.gelu(x),
    "tanh": lambda x: torch.tanh(F.relu(x) - 1),
    "maximum": lambda x: torch.maximum(x, F.relu(x) - 1),
    "a relu of something else": lambda x: x * 1 + 0 * F.relu(x),
    "pow 3": lambda x: x**3,
    "log of relu": lambda x: torch.log(F.relu(x) + 0.5),
    "softmax - mean": lambda x: x.softmax(-1) - 0.25,
    "linear of relu": lambda x: F.relu(x) @ torch.linspace(-1, 1, 16, dtype=x.dtype).reshape(4, 4),
    "add(relu, relu, alpha=-1)": lambda x: torch.add(F.relu(x), F.relu(-x), alpha=-1),
    "relu.add_(relu, alpha=-1)": lambda x: F.relu(x).add_(F.relu(-x), alpha=-1),
    "softplus(beta=-1)": lambda x: F.softplus(x, beta=-1),
    "average pool of relu, negative divisor": lambda x: F.avg_pool2d(F.relu(x)[None], 1, divisor_override=-1)[0],
    "alpha_dropout of relu": lambda x: _seeded(F.relu(x)),
    "complex product of relu": lambda x: _complex_square(F.relu(x.flip(1))),
    "square of a complex number": lambda x: torch.view_as_real(torch.view_as_complex(x.view(6, 2)).square()).view(3, 4),
    "pad of relu by a keyword": lambda x: F.pad(F.relu(x)[:, 1:], pad=(1, 0), mode="constant", value=-1.0),
    "lerp": lambda x: torch.lerp(F.relu(x), F.relu(-x), 2.0),
    "sum of both signs": lambda x: F.relu(x).cumsum(-1) - 1,
}


def _written(x: Tensor) -> Tensor:
    x[:, 0] = -1
    return x


def _check_after(before: Callable[[Tensor], Tensor], *, signed: bool) -> None:
    """Every rule has its closed form in a linear layer after `before`, which has its ordinary adjoint."""
    x = torch.linspace(2, -2, 12, dtype=torch.float64).reshape(3, 4)
    at, adjoint = funcattr.vjp(before, x, rules={"lgamma": STOP})  # torch.func refuses to write into a relu's output
    assert (at < 0).any() == signed
    m = LinearMap(Description("linear", "function", tuple(at.shape), (5, 4), (5,), {}, False, False, 1))
    m.x = at
    for name, options in DEFAULTS.items():
        expected, scale = m.expected(name, **options)
        chosen = Rulebook({"linear": rule_of(name, options)}, name=name)
        found = funcattr.vjp(lambda x: m.model(before(x)), x, rules=chosen)[1](m.relevance)[0]
        assert_equal(found / scale.max(), adjoint(expected)[0] / scale.max())


@pytest.mark.parametrize("before", SIGNED)
def test_a_value_that_only_looks_non_negative_is_treated_as_signed(before: str) -> None:
    _check_after(SIGNED[before], signed=True)


NON_NEGATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "clamp": lambda x: x.clamp(min=0),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "square": lambda x: x * x,
    "max-pool": lambda x: F.max_pool1d(F.relu(x), 2, 1, padding=1)[:, :4],
    "average pool": lambda x: F.avg_pool1d(F.relu(x), 3, 1, padding=1),
    "dropout": lambda x: F.dropout(F.relu(x), training=False),
    "views": lambda x: F.relu(x).reshape(4, 3).mT.contiguous(),
    "sum": lambda x: F.relu(x) + torch.relu(-x),
    "cat": lambda x: torch.cat([F.relu(x[:, :2]), x[:, 2:].sigmoid()], 1),
    "softmax": lambda x: x.softmax(-1),
    "abs": torch.abs,
}


@pytest.mark.parametrize("before", NON_NEGATIVE)
def test_a_value_that_is_non_negative_gives_the_same_formula(before: str) -> None:
    _check_after(NON_NEGATIVE[before], signed=False)
