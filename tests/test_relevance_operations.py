"""Relevance through single operations and small nets, in every spelling: exact against the slow references."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcattr.testing.seeding import settle, uniform

from .contract import assert_equal
from .relevance_references import REFERENCES
from .test_relevance_families import METHODS
from .test_relevance_references import MAPS

pytestmark = pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives.*")  # at zero, say

W, V = uniform(5, 4, seed=2), uniform(4, 4, seed=3)
HIDDEN = torch.tensor([False, False, True, False])


def _heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.view(2, 1, 2, 2), x.flip(1).view(2, 1, 2, 2), (2 * x).view(2, 1, 2, 2)


def _written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 2 * x[:, 1]
    return y


# Each maps [2, 4] to [2, at least 2].
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # sums
    "add": lambda x: x + x.flip(1) + 1,
    "add the same": lambda x: x + x,
    "add broadcast": lambda x: x[:, :1] + x,
    "add alpha": lambda x: torch.add(x, torch.ones(4), alpha=3),
    "sub": lambda x: x - x.flip(1),
    "sub alpha": lambda x: torch.sub(x, x.flip(1), alpha=2),
    "rsub": lambda x: 1 - x,
    "sum": lambda x: x.sum(1, keepdim=True) * torch.ones(4),
    "mean": lambda x: x.mean(1, keepdim=True) * torch.ones(4),
    "cumsum": lambda x: x.cumsum(1),
    "average pool": lambda x: F.avg_pool1d(x[:, None], 2, padding=1)[:, 0],
    "adaptive pool": lambda x: F.adaptive_avg_pool1d(x[:, None], 3)[:, 0],
    "interpolate": lambda x: F.interpolate(x[:, None], 7, mode="linear")[:, 0],
    "index_add": lambda x: (
        torch.zeros_like(x).index_add_(0, torch.tensor([0, 0]), x).index_add(0, torch.tensor([1, 0]), 2 * x)
    ),
    # products and quotients
    "mul constant": lambda x: x[:, :1] * torch.arange(4.0),
    "mul": lambda x: x[:, :1] * x,
    "mul the same": lambda x: x * x,
    "gate": lambda x: x * (x @ V).sigmoid(),
    "gate view": lambda x: x * (x @ V).sigmoid().view(-1, 2, 2).flatten(1)[:, [1, 0, 2, 3]],
    "gate expand": lambda x: x * (x @ V).sigmoid()[:, :1].expand(-1, 4),
    "gate hardsigmoid": lambda x: x * F.hardsigmoid(x @ V),
    "gate of a gate": lambda x: x.sigmoid() * (x @ V).sigmoid(),
    "gate written": lambda x: x * torch.sigmoid(x),
    "gate minus": lambda x: x * (1 - x.sigmoid()),
    "minus an activation": lambda x: x * (0.5 - (x @ V).tanh()),
    "gate cat": lambda x: x * torch.cat([x[:, :2].sigmoid(), x[:, 2:].sigmoid()], 1),
    "gate of an activation": lambda x: (x @ V).relu() * x.sigmoid(),
    "activation as a factor": lambda x: (x @ V).tanh() * x,
    "two activations": lambda x: (x @ V).relu() * x.tanh(),
    "glu": lambda x: F.glu(x, 1),
    "div": lambda x: x / (1 + x * x),
    "div sum": lambda x: x / x.sum(1, keepdim=True),
    "div broadcast": lambda x: x[:, :1] / (2 + x.abs()),
    "div the same": lambda x: x / x,
    "div constant by": lambda x: 1 / x + x,
    # elementwise
    **{f.__name__: f for f in (F.elu, F.celu, F.selu, F.leaky_relu, F.softplus, F.mish, F.silu, F.hardswish)},
    **{f.__name__: f for f in (F.gelu, F.softsign, F.hardtanh, F.logsigmoid, torch.tanh, torch.sin, torch.erf)},
    "relu6": lambda x: F.relu6(4 * x),
    "threshold": lambda x: F.threshold(x, 0.5, 0.3),
    "prelu": lambda x: F.prelu(x, W[0, :1]),
    "power": lambda x: x**3,
    "root": lambda x: x.abs() ** 0.5,
    "falling power": lambda x: x.abs() ** -0.5 * x,
    "exponential": lambda x: 2**x,
    "exp log": lambda x: (x.exp() + 1).log(),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "at zero": lambda x: F.gelu(x - x.detach()) + (x - x.detach()).flip(1).sigmoid(),
    # normalisation
    "layer_norm": lambda x: F.layer_norm(x, (4,), W[0], W[1]),
    "layer_norm written": lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
    "rms_norm": lambda x: F.rms_norm(x, (4,), W[0]),
    "rms_norm written": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "group_norm": lambda x: F.group_norm(x[..., None] * torch.arange(1.0, 4.0), 2, W[0], W[1]).flatten(1),
    "instance_norm": lambda x: F.instance_norm(x.reshape(-1, 2, 2) * torch.arange(1.0, 3.0)).flatten(1),
    "unit length": lambda x: x / x.norm(dim=1, keepdim=True),
    # attention
    "softmax": lambda x: x.softmax(1) + x,
    "softmax masked": lambda x: x.masked_fill(HIDDEN, -torch.inf).softmax(1) + x,
    "softmax of a sum": lambda x: (x + torch.zeros(4).masked_fill(HIDDEN, -torch.inf)).softmax(1) + x,
    "softmax of the least": lambda x: (x + HIDDEN * torch.finfo(x.dtype).min).softmax(1) + x,
    "log_softmax": lambda x: x.log_softmax(1),
    "attention": lambda x: F.scaled_dot_product_attention(*_heads(x)).flatten(1),
    "attention causal": lambda x: F.scaled_dot_product_attention(*_heads(x), is_causal=True).flatten(1),
    "attention masked": lambda x: F.scaled_dot_product_attention(
        *_heads(x), attn_mask=torch.tensor([[True, False], [True, True]])
    ).flatten(1),
    "attention biased": lambda x: F.scaled_dot_product_attention(*_heads(x), attn_mask=W[:2, :2], scale=0.3).flatten(1),
    # linear maps
    "linear twice": lambda x: F.linear(F.linear(x, W, W[:, 0]), W.T),
    "linear beside another": lambda x: F.linear(x, W) + F.linear(x.relu(), W),
    "matmul": lambda x: (V @ (x @ V).T).T,
    "einsum": lambda x: torch.einsum("de,ne->nd", V, torch.einsum("nd,de->ne", x, V)),
    "addmm": lambda x: torch.addmm(W[0], x, V),
    "matmul of two": lambda x: x @ (x @ V).T,
    "einsum of two": lambda x: torch.einsum("nd,md->nm", x, x @ V),
    # bookkeeping
    "max_pool": lambda x: F.max_pool1d(x[:, None], 2, 1)[:, 0],
    "maximum": lambda x: torch.maximum(x, x.flip(1)) + x.amax(1, keepdim=True),
    "topk": lambda x: x.topk(3, 1).values + x.sort(1).values[:, :3],
    "where": lambda x: torch.where(x > 0, x, 2 * x),
    "gather": lambda x: x.gather(1, torch.tensor([[0, 0, 1, 2]] * 2)).roll(1, 1),
    "pad": lambda x: F.pad(F.pad(x[:, None], (1, 1), mode="reflect")[:, 0], (1, 1), value=1.0),
    "unbind": lambda x: torch.stack([a * b for a, b in zip(x.unbind(1), x.flip(1).unbind(1))], 1),
    "setitem": _written,
    "in place": lambda x: x.clone().add_(x.flip(1)).mul_(2).relu_(),
    "in place on a view": lambda x: (x @ V).view(2, 2, 2).transpose(1, 2).mul_(x.view(2, 2, 2)).flatten(1),
    "used twice": lambda x: (x @ V).relu() + x @ V,
}


def unlike_the_reference(model: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, str]:
    """The methods whose relevance is not the slow reference's, and what is wrong."""
    found = {}
    for method, attribute in METHODS.items():
        try:
            assert_equal(attribute(model, x, 1), REFERENCES[method](model, x, 1))
        except AssertionError as error:
            found[method] = str(error)
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_equal_the_slow_reference(name: str) -> None:
    assert unlike_the_reference(FUNCTIONS[name], uniform(2, 4)) == {}


@pytest.mark.parametrize("name", MAPS)
def test_linear_maps_equal_the_slow_reference(name: str) -> None:
    make, shape = MAPS[name]
    assert unlike_the_reference(nn.Sequential(settle(make), nn.Flatten()), uniform(*shape)) == {}


class Net(nn.Module):
    """Parts by name, and a function that puts them together. [2, 4, 5] -> [2, F]"""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x).flatten(1)


def _conv(before: int = 4, **options: Any) -> nn.Module:
    return nn.Conv1d(before, 4, 3, padding=1, **options)


def _norm(channels: int = 4, **options: Any) -> nn.Module:
    return nn.BatchNorm1d(channels, **options)


NETS: dict[str, Callable[[], nn.Module]] = {
    "norm between": lambda: Net(lambda s, x: s.d(s.b(s.c(x))), c=_conv(), b=_norm(), d=_conv()),
    "norm after the relu": lambda: Net(lambda s, x: s.b(s.c(x).relu_()), c=_conv(), b=_norm()),
    "norm of a sum": lambda: Net(lambda s, x: s.b(s.c(x) + x), c=_conv(), b=_norm()),
    "norm of parts": lambda: Net(lambda s, x: s.c(s.b(torch.cat([x, x.relu()], 1))), c=_conv(8), b=_norm(8)),
    "norm before two": lambda: Net(lambda s, x: (lambda y: s.c(y) + s.d(y))(s.b(x)), b=_norm(), c=_conv(), d=_conv()),
    "norm before one of two": lambda: Net(lambda s, x: (lambda y: s.c(y) + y.relu())(s.b(x)), b=_norm(), c=_conv()),
    "norm twice before": lambda: Net(lambda s, x: s.c(s.a(s.b(x))), a=_norm(), b=_norm(), c=_conv()),
    "norm without affine": lambda: Net(lambda s, x: s.b(s.c(x)), c=_conv(bias=False), b=_norm(affine=False)),
    "norm of tokens": lambda: Net(lambda s, x: s.m(s.b(s.l(x))), l=nn.Linear(5, 5), b=_norm(), m=nn.Linear(5, 3)),
    "norm of flat maps": lambda: Net(lambda s, x: s.b(s.c(x).flatten(1)), c=_conv(), b=_norm(20)),
    "flat maps of a norm": lambda: Net(lambda s, x: s.l(s.b(x).flatten(1)), l=nn.Linear(20, 3), b=_norm()),
    "norm and circular": lambda: Net(lambda s, x: s.c(s.b(x)), c=_conv(padding_mode="circular"), b=_norm()),
    "norm and pad": lambda: Net(lambda s, x: s.c(F.pad(s.b(x), (1, 1))), c=_conv(), b=_norm()),
    "shared parts": lambda: Net(lambda s, x: s.b(s.c(s.b(s.c(x)).relu())), c=_conv(), b=_norm()),
    "norm used twice": lambda: Net(lambda s, x: s.c(s.b(x)) + s.b(x).relu(), c=_conv(), b=_norm()),
    "shortcut": lambda: Net(lambda s, x: s.b(s.c(x)).add_(x).relu_(), c=_conv(), b=_norm()),
    "parallel": lambda: Net(lambda s, x: s.d(torch.cat([s.c(x), x], 1)), c=_conv(), d=_conv(8)),
    "tied": lambda: Net(lambda s, x: F.linear(F.linear(x, s.l.weight), s.l.weight.T), l=nn.Linear(5, 3)),
    "gated": lambda: Net(lambda s, x: s.c(x) * torch.sigmoid(s.d(x)), c=_conv(), d=_conv()),
    "detached gate": lambda: Net(lambda s, x: s.c(x) * torch.sigmoid(s.d(x.detach())), c=_conv(), d=_conv()),
    "bilinear": lambda: Net(lambda s, x: torch.einsum("nct,ncu->ntu", s.c(x), x), c=_conv()),
    "encoder": lambda: Net(lambda s, x: s.a(x.mT), a=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
}


@pytest.mark.parametrize("name", NETS)
def test_small_nets_equal_the_slow_reference(name: str) -> None:
    assert unlike_the_reference(settle(NETS[name]), uniform(2, 4, 5)) == {}


def test_the_check_names_the_methods_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = next(iter(METHODS))
    monkeypatch.setitem(METHODS, broken, lambda model, x, target: torch.ones_like(x))
    assert unlike_the_reference(FUNCTIONS["mul"], uniform(2, 4)).keys() == {broken}
