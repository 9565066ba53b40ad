"""An output has a row for each example: what has another number of rows is refused, however it is explained."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr

from ..contract import assert_equal

OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda y: y.mT,
    "twice as many": lambda y: torch.cat([y, 2 * y]),
    "a row for each class": lambda y: y.reshape(-1, 1),
    "the first example's": lambda y: y[:1],
    "one number": lambda y: y.sum(),
    "one number, in a vector": lambda y: y.sum()[None],
}
TARGETS: dict[str, Any] = {
    "a class": 0,
    "each its own": [0, 1],
    "none": None,
    "a function": lambda y: y.flatten(1).sum(1),
}
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": funcattr.gradient,
    "input_x_gradient": funcattr.input_x_gradient,
    "guided_backprop": funcattr.guided_backprop,
    "lrp": funcattr.lrp,
    "deep_lift": funcattr.deep_lift,
    "full_grad": lambda model, x, target: funcattr.full_grad(model, x[..., None], target),
    "integrated_gradients": funcattr.integrated_gradients,
    "noise_tunnel": lambda model, *given: funcattr.noise_tunnel(partial(funcattr.gradient, model), *given, samples=2),
    "occlusion": lambda *given: funcattr.occlusion(*given, window=(1,)),
    "conservation": funcattr.conservation,
    "layer": lambda *given: funcattr.gradient(*given, layer="0"),
}


class Net(nn.Module):
    """Three classes of four features. [N, 4] -> what `rows` makes of [N, 3]"""

    def __init__(self, rows: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.rows = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double(), rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(self.layers(x.flatten(1)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", OUTPUTS)
def test_another_number_of_rows_is_refused(rows: str, method: str) -> None:
    model, x = Net(OUTPUTS[rows]), torch.randn(2, 4).double()
    sites = model if method != "layer" else nn.Sequential(model)
    for target in TARGETS.values():
        with pytest.raises(ValueError, match=r"\(example_dims=0\): expected examples in dimension 0 .* the output has"):
            METHODS[method](sites, x, target)


def test_where_the_examples_lie_can_be_said() -> None:
    x = torch.randn(2, 4).double()
    plain = funcattr.gradient(Net(lambda y: y), x, 0)
    assert_equal(funcattr.gradient(Net(OUTPUTS["transposed"]), x, 0, example_dims={"x": 0, "output": 1}), plain)
    of_all = funcattr.gradient(Net(OUTPUTS["one number"]), x, example_dims=None)
    assert_equal(of_all, sum(funcattr.gradient(Net(lambda y: y), x, k) for k in range(3)))


def test_compiled_code_refuses_them_too() -> None:
    model = funcattr.functionalize(Net(OUTPUTS["twice as many"]))
    run = torch.compile(lambda x: funcattr.gradient(model, x, 0), backend="eager")
    with pytest.raises(ValueError, match="the output has shape"):
        run(torch.randn(2, 4).double())
