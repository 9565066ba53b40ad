"""FullGrad: biases where they are, and a sum that is the output."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr.testing import properties
from funcattr.testing.networks import Smooth, draw_comparable
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3)
        self.pool, self.out = nn.MaxPool2d(2), nn.Linear(12, 3)
        self.double()
        self.norm(torch.randn(9, 4, 6, 6).double())
        with torch.no_grad():
            self.norm.bias.uniform_(-1, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.second(self.norm(self.conv(x)).relu()))
        return self.out(self.pool(h).flatten(1))


X = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def by_hand(model: Net, x: Tensor, k: int) -> list[Tensor]:
    """Each layer's bias times the gradient at its output, from the paper's formulas on plain autograd."""
    x = x.clone().requires_grad_()
    h = [x, model.conv(x)]
    h.append(model.norm(h[-1]))
    h.append(model.second(h[-1].relu()))
    h.append(F.silu(h[-1]))
    h.append(model.out(model.pool(h[-1]).flatten(1)))
    g = torch.autograd.grad(h[-1][:, k].sum(), h)
    norm: Any = model.norm
    biases: Any = model.conv.bias, model.second.bias
    shift = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
    sigmoid = h[3].sigmoid()
    slope = sigmoid * (1 + h[3] * (1 - sigmoid))  # of silu
    fields: list[Any] = [
        x,
        *(b[:, None, None] for b in (biases[0], shift, biases[1])),
        h[4] - slope * h[3],
        model.out.bias,
    ]
    return [(b * v).detach() for b, v in zip(fields, g, strict=True)]


@pytest.mark.parametrize("absolute", [False, True])
def test_the_map_is_that_of_the_papers_biases(absolute: bool) -> None:
    model = Net()
    expected = torch.zeros(2, 1, 6, 6).double()
    for share in by_hand(model, X, 1):
        summed = (share.abs() if absolute else share).sum(1, keepdim=True)
        if summed.ndim == 2:
            expected += summed[:, :, None, None] / 36
        elif summed.shape[2:] == (6, 6):
            expected += summed
        else:
            weights = spread(summed.shape[2], 6)
            expected += torch.einsum("ui,ncij,vj->ncuv", weights, summed, weights)
    found = funcattr.full_grad(model, X, 1, absolute=absolute)
    assert_equal(found, expected)
    if not absolute:
        assert_equal(found.sum((1, 2, 3)), model(X)[:, 1].detach())


def spread(places: int, size: int) -> Tensor:
    """Linear interpolation from `places` to `size` (corners not aligned), each place's weights divided by their sum."""
    weights = torch.zeros(size, places).double()
    for u in range(size):
        at = min(max((u + 0.5) * places / size - 0.5, 0), places - 1)
        low = min(int(at), places - 2)
        weights[u, low], weights[u, low + 1] = 1 - (at - low), at - low
    return weights / weights.sum(0)


@given(data=st.data(), spatial=st.sampled_from([1, 2, 3]))
def test_sums_to_the_output_of_any_drawn_network(data: st.DataObject, spatial: int) -> None:
    net = draw_comparable(data, spatial=spatial)
    found = funcattr.full_grad(net.model, net.x, 1)
    assert found.shape == (len(net.x), 1, *net.x.shape[2:])
    assert_equal(found.flatten(1).sum(1), net.model(net.x)[:, 1].detach(), tolerance=1e-7)


@given(data=st.data())
def test_without_biases_and_with_relu_only_it_is_the_input_times_the_gradient(data: st.DataObject) -> None:
    net = draw_comparable(data, only_relu=True, bias=False)
    expected = funcattr.input_x_gradient(net.model, net.x, 1).sum(1, keepdim=True)
    assert_equal(funcattr.full_grad(net.model, net.x, 1), expected)


@pytest.mark.parametrize("target", [lambda y: y[:, 0] * y[:, 1].exp(), torch.tensor([2, 0]), torch.eye(3)[:2].double()])
def test_sums_to_any_target(target: Any) -> None:
    found, y = funcattr.full_grad(Net(), X, target), Net()(X).detach()
    expected: Any = target(y) if callable(target) else y * target if target.ndim > 1 else y[[0, 1], target]
    assert_equal(found.flatten(1).sum(1), expected.flatten(1).sum(1) if expected.ndim > 1 else expected)


LSTM, HEADS = nn.LSTM(6, 4, batch_first=True).double(), nn.MultiheadAttention(6, 2, batch_first=True).double()
TRANSFORMER = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True).double().eval()
NOT_DIFFERENTIATED_TWICE: dict[str, Any] = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention of one head": lambda x: F.scaled_dot_product_attention(x[:, 0], x[:, 1] * x[:, 0], x[:, 1]),
    "heads": lambda x: HEADS(*[x.flatten(1, 2)] * 3, need_weights=False)[0],
    "heads with weights": lambda x: HEADS(*[x.flatten(1, 2)] * 3)[0],
    "weights of heads": lambda x: HEADS(*[x.flatten(1, 2)] * 3)[1],
    "one example's heads": lambda x: HEADS(*[x[0].flatten(0, 1)] * 3)[0][None],
    "transformer": lambda x: TRANSFORMER(x.flatten(1, 2)),
    "distances": lambda x: torch.cdist(x, x * 2 + 1),
    "logarithms of cotangents": lambda x: x.logcumsumexp(-1),
    "a last state that leads nowhere": lambda x: LSTM(x.flatten(1, 2))[0],
}


@pytest.mark.parametrize("name", NOT_DIFFERENTIATED_TWICE)
def test_sums_where_torch_does_not_differentiate_twice(name: str) -> None:
    def model(x: Tensor) -> Tensor:
        return NOT_DIFFERENTIATED_TWICE[name](x).flatten(1)[:, :3]

    x = X[:1] if name.startswith("one") else X
    assert_equal(funcattr.full_grad(model, x, 1).flatten(1).sum(1), model(x)[:, 1].detach())


DTYPES = {
    "a wider output": (torch.float32, torch.float32, torch.float64),
    "a narrower output": (torch.float64, torch.float64, torch.float32),
    "a half output": (torch.float32, torch.float32, torch.float16),
    "narrower inside": (torch.float64, torch.float32, torch.float64),
    "half inside": (torch.float32, torch.bfloat16, torch.float32),
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_may_change_on_the_way(name: str, absolute: bool) -> None:
    given, inside, out = DTYPES[name]
    body = settle(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3)), dtype=inside)
    x = uniform(2, 1, 4, 4).to(given)

    def model(x: Tensor) -> Tensor:
        return body(x.to(inside)).to(out)

    found = funcattr.full_grad(model, x, 1, absolute=absolute)
    assert found.dtype == given
    if not absolute:
        tolerance = 0.05 if inside == torch.bfloat16 else 1e-2 if out == torch.float16 else 1e-5
        assert_equal(found.sum((1, 2, 3)).double(), model(x)[:, 1].double().detach(), tolerance=tolerance)


def test_an_operation_without_a_second_derivative_is_named() -> None:
    class Once(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            table = F.embedding_bag(torch.zeros(2, 1).long(), x[:, 0, 0], mode="max")
            return table * x[:, 0, 0]

    with pytest.raises(funcattr.errors.UnsupportedOperationError, match=r"embedding_bag in 'once'"):
        funcattr.full_grad(nn.Sequential(OrderedDict(once=Once())), X, 1)


def test_it_is_a_method_as_all_are() -> None:
    x = torch.randn(2, 2, 5, 5).double()
    attribution: Any = funcattr.full_grad
    properties.is_each_example_alone(attribution, Smooth().double().eval(), x, 1)
    properties.maps_over_targets(attribution, Smooth().double().eval(), x, torch.arange(2))
    properties.maps_over_parameters(attribution, Smooth().double().eval(), x, 1)
    properties.has_derivative(attribution, Smooth().double().eval(), x, 1, whole=False)
    properties.keeps_no_graph(attribution, Smooth().eval(), x.float(), 0)
    properties.keeps_nan_apart(attribution, Smooth().double().eval(), x, 0)


def test_examples_in_another_dimension_are_found() -> None:
    model, x = Net(), X.transpose(0, 1)[:, :1].repeat(1, 3, 1, 1)
    x = x + torch.randn(2, 3, 6, 6).double()
    found = funcattr.full_grad(lambda x: model(x.transpose(0, 1)), x, 1, example_dims={"x": 1})
    assert_equal(found.movedim(1, 0), funcattr.full_grad(model, x.transpose(0, 1), 1))


class TimeInFront(nn.Module):
    """Two layers inside of which examples lie in dimension 1: [T, N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.movedim(2, 0)).tanh()).mean(0)


@pytest.mark.parametrize("length", [5, 2])
def test_examples_elsewhere_inside_are_refused_and_one_example_is_not(length: int) -> None:
    model, x = TimeInFront().double(), torch.randn(2, 4, length).double()
    with pytest.raises(ValueError, match=r"^full_grad: expected examples in dimension 0 of every value .* one by one"):
        funcattr.full_grad(model, x, 1)
    one = funcattr.full_grad(model, x[:1], 1)
    assert_equal(one.sum(), model(x[:1])[0, 1].detach())


def test_what_is_no_image_is_refused_and_so_is_compiled_code(fresh_dynamo: None) -> None:
    with pytest.raises(ValueError, match=r"^full_grad\(x=\.\.\.\): expected a shape \[N, C, \*spatial\]"):
        funcattr.full_grad(nn.Linear(3, 2), torch.ones(1, 3), 0)
    fm = funcattr.functionalize(Net())
    with pytest.raises(Exception, match="compiled code has not"):
        torch.compile(lambda x: funcattr.full_grad(fm, x, 1), fullgraph=True, backend="eager")(X)
