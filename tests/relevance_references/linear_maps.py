"""Linear maps in relevance space: their weight and bias, also after a batch norm has become part of them."""

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from .bookkeeping import CONVOLUTIONS, one_operand
from .linear_rules import LinearMap, Rule, stabilised
from .walk import Call, Walk, ancestors, direct_origin, rewired

_FOLDABLE = (*CONVOLUTIONS, "linear")


def linear(call: Call, rule: Rule, first: Rule | None) -> Tensor:
    """A linear map; with the weight and bias that it has after a batch norm whose output it takes."""
    x, affine = one_operand(call), _as_linear_map(call)
    if first is not None and not any(node.kind == "linear map" for node in ancestors(x)):
        rule = first
    before = direct_origin(x)
    while before is not None and "scale" in before.facts and call.name in _FOLDABLE and _has_channels(call, x):
        affine = _after_batch_norm(call, affine, before.facts["scale"], before.facts["shift"], x)
        x = before.operands[0]
        before = direct_origin(x)
    return _linear_node(call, call.value(), affine, x, rule)


def _linear_node(call: Call, value: Tensor, affine: LinearMap, x: Tensor, rule: Rule) -> Tensor:
    facts = {"call": call, "affine": affine, "rule": rule}
    return rewired("linear map", value, (x,), lambda r: (rule(affine, x.detach(), r),), **facts)


def _has_channels(call: Call, x: Tensor) -> bool:
    """Whether dimension 1, which batch norm scales, is the one that the map sums over or returns."""
    return call.name != "linear" or x.dim() == 2


def _as_linear_map(call: Call) -> LinearMap:
    (x,) = call.operands
    if call.name in ("matmul", "einsum"):
        return _product_with_a_constant(call, x)
    if call.name == "addmm":
        bias, mat1, mat2 = call.args
        assert x is mat1 and not call.kwargs, call
        return LinearMap(torch.matmul, mat2, bias)
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    assert x is call.argument(0, "input"), call
    if call.name == "linear":
        return LinearMap(call.func, weight, weight.new_zeros(()) if bias is None else bias)
    options = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
    bias = weight.new_zeros(1) if bias is None else bias
    return LinearMap(lambda t, w: call.func(t, w, None, *call.args[3:], **options), weight, _channels(bias, weight))


def _product_with_a_constant(call: Call, x: Tensor) -> LinearMap:
    flat = pytree.tree_leaves((call.args, call.kwargs))
    (weight,) = (each for each in flat if isinstance(each, Tensor) and each is not x)

    def apply(t: Tensor, w: Tensor) -> Tensor:
        return call.func(*(t if each is x else w if each is weight else each for each in flat))

    return LinearMap(apply, weight, x.new_zeros(()))


def _channels(t: Tensor, like: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (like.dim() - 2))


def batch_norm(walk: Walk, call: Call) -> Tensor:
    """Scale and shift of each channel: part of the linear map before it, or a map of its own."""
    x, before = one_operand(call), direct_origin(one_operand(call))
    scale, shift = _scale_and_shift(call)
    source = before.facts.get("call") if before else None
    if before and source and source.name in _FOLDABLE and _has_channels(source, x):
        before.folded = True
        old: LinearMap = before.facts["affine"]
        bias = old.bias * _channels(scale, x) + _channels(shift, x)
        folded = LinearMap(old.apply, _scaled_outputs(source, old.weight, scale), bias)
        return _linear_node(source, call.value(), folded, before.operands[0], before.facts["rule"])
    factor, y = _channels(scale, x), call.value()
    return rewired("batch_norm", y, (x,), lambda r: (x * factor * r / stabilised(y),), scale=scale, shift=shift)


def _scale_and_shift(call: Call) -> tuple[Tensor, Tensor]:
    assert not call.argument(5, "training", False), "a batch norm in training mode"
    mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    scale = (variance + call.argument(7, "eps", 1e-5)).rsqrt()
    scale = scale if weight is None else scale * weight
    return scale, -mean * scale if bias is None else bias - mean * scale


def _groups(call: Call) -> int:
    return call.argument(6, "groups", 1)


def _scaled_outputs(call: Call, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight of a map whose output channels are scaled."""
    if not call.name.startswith("conv_transpose"):
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    per_group = scale.reshape(_groups(call), 1, -1, *[1] * (weight.dim() - 2))
    return (weight.unflatten(0, (_groups(call), -1)) * per_group).flatten(0, 1)


def _scaled_inputs(call: Call, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight of a map whose input channels are scaled."""
    if call.name.startswith("conv_transpose"):
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    if call.name == "linear":
        return weight * scale
    per_group = scale.reshape(_groups(call), 1, -1, *[1] * (weight.dim() - 2))
    return (weight.unflatten(0, (_groups(call), -1)) * per_group).flatten(0, 1)


def _after_batch_norm(call: Call, affine: LinearMap, scale: Tensor, shift: Tensor, x: Tensor) -> LinearMap:
    """Of the batch norm's input; its shift gives a bias that differs where the padding cuts the map off."""
    constant = _channels(shift, x).expand_as(x)
    bias = affine.apply(constant, affine.weight) + affine.bias
    return LinearMap(affine.apply, _scaled_inputs(call, affine.weight, scale), bias)
