"""Rules for the first linear map, where x is the input: z-box, w-square, flat. They do not need x to be positive."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..calls.call import Call
from ..calls.declarations import row_by_row
from ..calls.kinds import GROUPS
from ..calls.linear_map import LinearMap
from ..calls.proportional import multiplied
from .linear import absorbing, check_eps, check_options
from .parametric import linear_rule, number, rule
from .real_parts import RealParts
from .shares import Share, distribute, leaks_of, ones, total
from .stabilizer import stabilized


def _bounds(name: str, value: Any) -> float | tuple[float, ...]:
    if value is None:
        raise ValueError(
            f"z_box({name}=...): expected the lowest and the highest value that the (normalised) input can have, "
            "low= and high=, each a number or one per channel."
        )
    if isinstance(value, Tensor) and value.ndim:
        value = tuple(value.flatten())
    if isinstance(value, Sequence):
        return tuple([float(number("z_box", name, v)) for v in value])
    return float(number("z_box", name, value))


def _check_z_box(low: Any, high: Any, eps: float) -> dict[str, Any]:
    check_eps("z_box", eps)
    low, high = _bounds("low", low), _bounds("high", high)
    lows, highs = (v if isinstance(v, tuple) else (v,) for v in (low, high))
    if len(lows) > 1 and len(highs) > 1 and len(lows) != len(highs):
        raise ValueError(f"z_box(low=..., high=...): expected as many of each, got {len(lows)} and {len(highs)}.")
    count = max(len(lows), len(highs))
    pairs = zip(lows * (count // len(lows)), highs * (count // len(highs)), strict=True)
    if any(a > b for a, b in pairs):
        raise ValueError(f"z_box(low={low!r}, high={high!r}): expected low <= high.")
    return {"low": low, "high": high}


@linear_rule(_check_z_box)
def z_box(layer: LinearMap, *, low: Any = None, high: Any = None, eps: float = 1e-6) -> tuple[Share, ...]:
    """The z-box rule (z^B), for an input between known bounds, such as the pixels of an image.

    R_x = (x J_W^T - l J_{W+}^T - h J_{W-}^T)[R / s(z W - l W+ - h W-)]; a bias cancels.

    Args:
        low, high: Bounds of what the first linear map is given, which is the input after all that the model does with
            it before (a normalisation, another order of the channels): numbers, or one for each channel (the
            dimension that the map sums over).
        eps: Stabiliser, in units of z.

    References:
        Montavon et al., 2017, arXiv:1512.02479, section 4.2.
    """
    if low is None or high is None:
        _bounds("low" if low is None else "high", None)
    weight = layer.weight
    like = ones(layer)
    terms = (
        (layer.x, weight),
        (-like * _per_channel(low, layer), weight.clamp(min=0)),
        (-like * _per_channel(high, layer), weight.clamp(max=0)),
    )
    own = layer.z if layer.bias is None else layer.z - layer.field(layer.bias)
    return (Share(terms, own + total(layer, terms[1:]), owned=True),)


def _per_channel(bound: Any, layer: LinearMap) -> Any:
    if not isinstance(bound, tuple):
        return bound
    dim = layer.channel_dim
    if dim is None:
        raise ValueError(
            f"z_box: expected one bound for all values, got {len(bound)}: {layer.op!r}, on an input of shape "
            f"{list(layer.x.shape)}, does not sum over one dimension, which would be that of the channels."
        )
    channels = layer.x.shape[dim]
    if len(bound) != channels:
        raise ValueError(f"z_box: expected one bound, or one for each of {channels} channels, got {len(bound)}.")
    shape = [1] * layer.x.ndim
    shape[dim] = channels
    return torch.tensor(bound, dtype=layer.x.dtype, device=layer.x.device).reshape(shape)


@linear_rule(lambda eps, bias: check_options("w_square", eps, bias), needs_output=False)
@row_by_row
def w_square(layer: LinearMap, *, eps: float = 1e-6, bias: str = "absorb") -> tuple[Share, ...]:
    """The w-square rule: relevance by the squared weights, whatever the input.

    R_x = J_{W^2}^T[R / s(sum W^2 + b^2)]

    Args:
        eps: Stabiliser, in units of z.
        bias: "absorb": the sum contains b^2, whose share is lost; "ignore": the sum without it.

    References:
        Montavon et al., 2017, arXiv:1512.02479, the w^2-rule.
    """
    terms, own = ((None, layer.weight.square()),), absorbing(layer, bias)
    own = None if own is None else own.square()
    return (Share(terms, bias=own, sign=1),)


def _flat_split(layer: LinearMap) -> tuple[Share, ...]:
    terms = ((None, torch.ones_like(layer.weight)),)
    return (Share(terms, sign=1),)


def _flat_leaks(call: Call, relevance: Tensor, *, eps: float) -> dict[str, Any]:
    layer = LinearMap(call)
    if layer.x.is_complex():
        real = RealParts(call, layer)
        layer, relevance = real.layer, real.of(relevance)
    return leaks_of(layer, relevance, _flat_split(layer), eps)


@rule(lambda eps: check_eps("flat", eps), _flat_leaks)
def flat(call: Call, relevance: Tensor, *, eps: float = 1e-6) -> Tensor:
    """The flat rule: the same share for every input that a unit sees; w-square with W = 1 and no bias.

    R_x = J_1^T[R / s(J_1 1)]

    For average pooling J_1 is the operation itself, whose weights are all the same.

    Args:
        eps: Stabiliser, in units of z.

    References:
        Lapuschkin, 2019, doi:10.14279/depositonce-7942, section 2.4.
    """
    if call.op in GROUPS["average_pool"]:
        return call.vjp(relevance / stabilized(call(torch.ones_like(call.operands[0])), eps))[0]
    layer = LinearMap(call)
    if layer.x.is_complex():
        real = RealParts(call, layer)
        return real.together(multiplied(distribute(real.layer, real.of(relevance), _flat_split(real.layer), eps)))
    return multiplied(distribute(layer, relevance, _flat_split(layer), eps))
