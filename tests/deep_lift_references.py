"""Slow references of DeepLIFT, from the papers' formulas. They share no code with funcattr.

`deep_lift_reference` runs any drawn network on a batch that holds each example twice, at the reference and at the
input, with torch functions rewired (`relevance_references.walk`), so that the adjoint of an operation sees both; its
rules are written one number at a time where the package has closed forms. `stack_reference` is for a plain stack of
modules, one example at a time, in numpy, every linear layer a dense matrix and every sum written out; it knows
RevealCancel too. Both give the attributions (x - x') m.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .relevance_references import bookkeeping
from .relevance_references.walk import Call, Handler, Walk, pull, rewired, walk_back
from .sampling_references import from_layer

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2  # on [0, 1]


def deep_lift_reference(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor,
    target: Any,
    layer: str | None = None,
    *,
    baseline: float | Tensor = 0.0,
) -> Tensor:
    """DeepLIFT's attributions by the Rescale rule. Shaped as x, or as the layer's (first) value.

    Args:
        model: Deterministic, its examples independent of each other and first in every value.
        x: [N, ...]
        target: A class, or one for each example.
        layer: Name of a module (of an `nn.Module`); None for the input.
        baseline: x', a number or what broadcasts to x.
    """
    start = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand_as(x)
    root: Tensor = torch.cat([start, x])
    function: Callable[[Tensor], Tensor] = model
    if layer is not None:
        assert isinstance(model, nn.Module)
        root, function = from_layer(model, root, layer)
    classes = target if isinstance(target, int) else [int(t) for t in target] * 2
    at_reference, at_input = root.detach().chunk(2)
    return (at_input - at_reference) * walk_back(HANDLERS, function, root, classes).chunk(2)[1]


def halves(value: Tensor) -> tuple[Tensor, Tensor]:
    """What the pass at the input, and what that at the reference has."""
    at_reference, at_input = value.detach().chunk(2)
    return at_input, at_reference


def both(m: Tensor) -> Tensor:
    """The multiplier in both halves of the batch, for the operations whose adjoints are left to autograd."""
    return torch.cat([m, m])


# --- one operation each ----------------------------------------------------------------------------------------------


def elementwise(walk: Walk, call: Call) -> Tensor:
    """M dy / dx, or where dx is small the integral of the derivative between x' and x."""
    (operand,), value = call.operands, call.value()

    def backward(r: Tensor) -> tuple[Tensor]:
        (x, x0), (y, y0) = halves(operand), halves(value)
        integral = torch.zeros_like(x)
        for t, w in zip(NODES, WEIGHTS, strict=True):
            integral += w * pull(call, (x0 + float(t) * (x - x0),), torch.ones_like(x))[0]
        slopes = [
            (b - b0) / (a - a0) if abs(a - a0) > 1e-5 else mean
            for a, a0, b, b0, mean in zip(*(v.flatten().tolist() for v in (x, x0, y, y0, integral)), strict=True)
        ]
        return (both(halves(r)[0] * torch.tensor(slopes, dtype=x.dtype, device=x.device).reshape(x.shape)),)

    return rewired("elementwise", value, (operand,), backward)


def product(walk: Walk, call: Call) -> Tensor | None:
    """The part of each factor is that with the other at its mean; for a constant factor autograd's."""
    if len(call.operands) == 1:
        return call(*call.operands)

    def backward(r: Tensor) -> tuple[Tensor, ...]:
        means = tuple(torch.stack(halves(operand)).mean(0) for operand in call.operands)
        return tuple(both(m) for m in pull(call, means, halves(r)[0]))

    assert len(call.operands) == 2, call.name
    return rewired("product", call.value(), call.operands, backward)


def softmax(walk: Walk, call: Call) -> Tensor:
    """Exp of x less the log of the sum of exp, row by row.

    The slope of exp is the logarithmic mean L of p and p'; the log of the sum gains sum_i w_i dx_i, w = L / sum L.
    """
    (operand,), value, dim = call.operands, call.value(), call.argument(1, "dim")

    def backward(r: Tensor) -> tuple[Tensor]:
        rows = [v.movedim(dim, -1).numpy() for v in (halves(r)[0], *halves(operand))]
        out = np.zeros(rows[0].shape)
        for where in np.ndindex(*out.shape[:-1]):
            m, *scores = (row[where] for row in rows)
            logs = [z - z.max() - np.log(np.exp(z - z.max()).sum()) for z in scores]
            mean = np.array([_logarithmic_mean(a, b) for a, b in zip(*logs, strict=True)])
            for i in range(len(m)):
                out[where][i] = mean[i] * (m[i] - sum(mean[j] / sum(mean) * m[j] for j in range(len(m))))
        return (both(torch.from_numpy(out).to(operand).movedim(-1, dim)),)

    return rewired("softmax", value, (operand,), backward)


def _logarithmic_mean(log_p: float, log_p0: float) -> float:
    """(p - p') / log(p / p'); where that is small, the integral of p^t p'^(1 - t) over t in [0, 1]."""
    if abs(log_p - log_p0) > 1e-3:
        return float((np.exp(log_p) - np.exp(log_p0)) / (log_p - log_p0))
    return float(sum(w * np.exp(t * log_p + (1 - t) * log_p0) for t, w in zip(NODES, WEIGHTS, strict=True)))


_POOL_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def max_pool(walk: Walk, call: Call) -> Tensor:
    """Each window's gain is dealt to its winner at x and its winner at x', so that nothing of it is left."""
    (operand,) = call.operands
    names = ("output_size",) if call.name.startswith("adaptive") else _POOL_ARGUMENTS
    given = {n: call.argument(i + 1, n) for i, n in enumerate(names)}
    pool = getattr(F, call.name)
    value, indices = pool(operand.detach(), **{n: v for n, v in given.items() if v is not None}, return_indices=True)

    def backward(r: Tensor) -> tuple[Tensor]:
        m, x, x0, i_x, i_x0 = (v.flatten(2).numpy() for v in (halves(r)[0], *halves(operand), *halves(indices)))
        out = np.zeros(x.shape)
        for n, c, o in np.ndindex(*m.shape):
            (i, j), of, of0 = (i_x[n, c, o], i_x0[n, c, o]), x[n, c], x0[n, c]
            gain, by_i, by_j = of[i] - of0[j], of[i] - of0[i], of[j] - of0[j]
            part = (gain - by_j) / (by_i - by_j) if by_i != by_j else 0.5
            out[n, c, i] += part * m[n, c, o]
            out[n, c, j] += (1 - part) * m[n, c, o]
        return (both(torch.from_numpy(out).to(operand).reshape(halves(operand)[0].shape)),)

    return rewired("max_pool", value, (operand,), backward)


def norm(walk: Walk, call: Call) -> Tensor:
    """A layer, group or instance norm, written in sums, products and one reciprocal root."""
    (x,) = call.operands
    if call.name == "layer_norm":
        weight, bias, eps = (call.argument(i, k) for i, k in ((2, "weight"), (3, "bias"), (4, "eps")))
        dims = tuple(range(x.ndim - len(call.argument(1, "normalized_shape")), x.ndim))
    else:
        places = {"group_norm": (2, 3, 4), "instance_norm": (3, 4, 7)}[call.name]
        weight, bias, eps = (call.argument(i, k) for i, k in zip(places, ("weight", "bias", "eps"), strict=True))
        weight, bias = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (weight, bias))
        dims = (2,)
    with walk:
        groups = call.argument(1, "num_groups") if call.name == "group_norm" else x.shape[1]
        u = x if call.name == "layer_norm" else x.reshape(x.shape[0], groups, -1)
        u = u - u.mean(dims, keepdim=True)
        scale = ((u * u).mean(dims, keepdim=True) + (1e-5 if eps is None else eps)) ** -0.5
        y = u * scale
        y = y - y.mean(dims, keepdim=True)  # 0, but takes off early what cancels behind a large scale
        return y.reshape(x.shape) * weight + bias


def _only_eval(walk: Walk, call: Call) -> Tensor:
    assert not call.argument(5, "training", False), "a batch norm in training mode"
    return call(*call.operands)


_LINEAR = [
    name
    for name in (*bookkeeping.BOOKKEEPING, *bookkeeping.SUMS, *bookkeeping.CONVOLUTIONS, "linear")
    if name not in ("sort", "topk", "max", "min", "amax", "amin", "maximum", "minimum") and "max_pool" not in name
]
HANDLERS: dict[str, Handler | None] = {
    **dict.fromkeys(_LINEAR, None),
    **dict.fromkeys(bookkeeping.ELEMENTWISE, elementwise),
    **dict.fromkeys(("mul", "matmul"), product),
    **{f"{kind}max_pool{d}d": max_pool for kind in ("", "adaptive_") for d in (1, 2, 3)},
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), norm),
    **bookkeeping.decomposed(),
    "softmax": softmax,
    "batch_norm": _only_eval,
    "div": product,
}


# --- a stack of modules, one example at a time -----------------------------------------------------------------------


def stack_reference(
    modules: nn.Sequential, x: Tensor, target: int, *, baseline: float = 0.0, reveal_cancel: bool = False
) -> Tensor:
    """DeepLIFT's attributions of a plain stack: the multiplier goes back through the list of layers. Shaped as x

    Args:
        modules: Linear layers, convolutions, batch norms, average pools, flattens; activations; max-pools.
        x: [N, ...]
        reveal_cancel: Whether the RevealCancel rule holds where an activation comes after a linear layer or a
            convolution, or after one with batch norms in between.
    """
    return torch.cat([_of_one(modules, each[None], target, baseline, reveal_cancel) for each in x])


_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.GELU)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _of_one(modules: nn.Sequential, x: Tensor, target: int, baseline: float, reveal_cancel: bool) -> Tensor:
    values = [(x, torch.full_like(x, baseline))]
    with torch.no_grad():
        for module in modules:
            values.append((module(values[-1][0]), module(values[-1][1])))
    m = np.eye(values[-1][0].numel())[target]
    i = len(modules)
    while i:
        i -= 1
        module, (before, before0), after = modules[i], values[i], [_flat(v) for v in values[i + 1]]
        if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
            m = _through_windows(module, before, before0, m)
        elif not isinstance(module, _ACTIVATIONS):
            m = _matrix(module, before).T @ m
        else:
            first = _weighted_before(modules, i) if reveal_cancel else None
            if first is None:
                m = m * _slopes(module, _flat(before), _flat(before0), *after)
                continue
            matrix = np.eye(values[first][0].numel())
            for k in range(first, i):
                matrix = _matrix(modules[k], values[k][0]) @ matrix
            dx = _flat(values[first][0]) - _flat(values[first][1])
            m = _revealed(module, matrix, dx, _flat(before0), m)
            i = first
    return (x - baseline) * torch.from_numpy(m).reshape(x.shape)


def _flat(value: Tensor) -> np.ndarray:
    return value.detach().flatten().numpy()


def _weighted_before(modules: nn.Sequential, i: int) -> int | None:
    """The linear layer or convolution right before activation i, batch norms aside."""
    while i and isinstance(modules[i - 1], _NORMS):
        i -= 1
    return i - 1 if i and isinstance(modules[i - 1], _WEIGHTED) else None


def _matrix(module: nn.Module, x: Tensor) -> np.ndarray:
    """The matrix of an affine module at inputs shaped as x, column by column. [outputs, inputs]"""
    columns = []
    with torch.no_grad():
        offset = _flat(module(torch.zeros_like(x)))
        for unit in torch.eye(x.numel(), dtype=x.dtype):
            columns.append(_flat(module(unit.reshape(x.shape))) - offset)
    return np.stack(columns, axis=1)


def _slopes(module: nn.Module, x: np.ndarray, x0: np.ndarray, y: np.ndarray, y0: np.ndarray) -> np.ndarray:
    """Dy / dx; the derivative where dx = 0."""
    return np.array(
        [(b - b0) / (a - a0) if a != a0 else _derivative(module, a) for a, a0, b, b0 in zip(x, x0, y, y0, strict=True)]
    )


def _f(module: nn.Module, z: float) -> float:
    return module(torch.tensor([z], dtype=torch.float64)).item()


def _derivative(module: nn.Module, z: float) -> float:
    at = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(module(at).sum(), at)[0].item()


def _revealed(module: nn.Module, matrix: np.ndarray, dx: np.ndarray, z0: np.ndarray, m: np.ndarray) -> np.ndarray:
    """RevealCancel of an activation and the matrix before it: sums over j of the activation and i of the matrix."""
    out = np.zeros(len(dx))
    for j in range(len(m)):
        plus = sum(max(matrix[j, i] * dx[i], 0.0) for i in range(len(dx)))
        minus = sum(min(matrix[j, i] * dx[i], 0.0) for i in range(len(dx)))
        a, b, c, d = (_f(module, z) for z in (z0[j], z0[j] + plus, z0[j] + minus, z0[j] + plus + minus))
        rest = (_derivative(module, z0[j]) + _derivative(module, z0[j] + plus + minus)) / 2  # both parts are 0, or one
        of_plus = ((b - a) + (d - c)) / 2 / plus if plus else rest
        of_minus = ((c - a) + (d - b)) / 2 / minus if minus else rest
        for i in range(len(dx)):
            part = matrix[j, i] * dx[i]
            out[i] += (
                m[j] * matrix[j, i] * (of_plus if part > 0 else of_minus if part < 0 else (of_plus + of_minus) / 2)
            )
    return out


def _through_windows(module: nn.Module, x: Tensor, x0: Tensor, m: np.ndarray) -> np.ndarray:
    """Max-pooling: each output's multiplier to its winners at x and at x'."""
    pool = F.max_pool1d if isinstance(module, nn.MaxPool1d) else F.max_pool2d
    places = [_places(pool, module, v) for v in (x, x0)]
    of, of0, out = _flat(x), _flat(x0), np.zeros(x.numel())
    for o, (i, j) in enumerate(zip(*places, strict=True)):
        gain, by_i, by_j = of[i] - of0[j], of[i] - of0[i], of[j] - of0[j]
        part = (gain - by_j) / (by_i - by_j) if by_i != by_j else 0.5
        out[i] += part * m[o]
        out[j] += (1 - part) * m[o]
    return out


def _places(pool: Callable[..., Any], module: Any, x: Tensor) -> np.ndarray:
    """Where in the flattened input each output of a max-pool comes from."""
    numbers = torch.arange(x.numel()).reshape(x.shape).flatten(2)
    indices = pool(x, module.kernel_size, module.stride, module.padding, return_indices=True)[1].flatten(2)
    return numbers.gather(2, indices).flatten().numpy()
