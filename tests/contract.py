"""The table of all methods: what each is checked against, and what it conserves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import FunctionalModel

from . import references

Reference = Callable[[nn.Module, Tensor, Any, str], Tensor]


class Row(NamedTuple):
    """A method with its layer bound by name where it has one."""

    name: str
    method: Callable[..., Tensor]
    reference: Reference
    at_layer: bool = False  # takes layer=, and its result has the layer's spatial size
    conserves: bool = False  # sums to the target's output on a positively homogeneous net

    def __call__(
        self, model: nn.Module | FunctionalModel | Any, x: Any, target: Any, layer: str, **options: Any
    ) -> Tensor:
        return self.method(model, x, target, **({"layer": layer} if self.at_layer else {}), **options)

    def __repr__(self) -> str:
        return self.name


def _at_input(rule: str) -> Reference:
    return lambda model, x, target, layer: references.pseudo_gradient(rule, model, x, target)[1]


def _at_layer(rule: str) -> Reference:
    return lambda model, x, target, layer: references.pseudo_gradient(rule, model, x, target, layer)[1]


def _product(at_layer: bool) -> Reference:
    def product(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        root, g = references.pseudo_gradient("gradient", model, x, target, layer if at_layer else None)
        return root * g

    return product


def _map(formula: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    return lambda model, x, target, layer: formula(*references.pseudo_gradient("gradient", model, x, target, layer))


def _guided_grad_cam(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    cam = _map(references.grad_cam)(model, x, target, layer)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    return _at_input("guided_backprop")(model, x, target, layer) * F.interpolate(cam, x.shape[2:], mode=mode)


ROWS = (
    Row("gradient", funcattr.gradient, _at_input("gradient")),
    Row("gradient_at_layer", funcattr.gradient, _at_layer("gradient"), at_layer=True),
    Row("input_x_gradient", funcattr.input_x_gradient, _product(False), conserves=True),
    Row("input_x_gradient_at_layer", funcattr.input_x_gradient, _product(True), at_layer=True, conserves=True),
    Row("guided_backprop", funcattr.guided_backprop, _at_input("guided_backprop")),
    Row("guided_backprop_at_layer", funcattr.guided_backprop, _at_layer("guided_backprop"), at_layer=True),
    Row("deconvnet", funcattr.deconvnet, _at_input("deconvnet")),
    Row("deconvnet_at_layer", funcattr.deconvnet, _at_layer("deconvnet"), at_layer=True),
    Row("guided_grad_cam", funcattr.guided_grad_cam, _guided_grad_cam, at_layer=True),
    Row("grad_cam", funcattr.grad_cam, _map(references.grad_cam), at_layer=True),
    Row("linear_approx", funcattr.linear_approx, _map(references.linear_approx), at_layer=True, conserves=True),
)


DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


def row(name: str) -> Row:
    """The row of that name."""
    return next(r for r in ROWS if r.name == name)


def assert_equal(actual: Tensor, expected: Tensor, *, tolerance: float = 1e-9) -> None:
    """Same shape and dtype, and values equal to `tolerance` of the largest expected one; NaN equals NaN.

    The scale is at least 1e-3: nets here compute with numbers about 1, whose rounding is what an exact zero shows.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    scale = max(1e-3, expected.detach().nan_to_num().abs().max().item())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance, equal_nan=True)


def loop(function: Callable[..., Tensor], *batches: Any) -> Tensor:
    """What `vmap(function)` should give: a Python loop over the first dimension of tensors (or of dicts of them)."""

    def at(batch: Any, i: int) -> Any:
        return {k: v[i] for k, v in batch.items()} if isinstance(batch, dict) else batch[i]

    first = batches[0]
    count = len(next(iter(first.values()))) if isinstance(first, dict) else len(first)
    return torch.stack([function(*(at(b, i) for b in batches)) for i in range(count)])
