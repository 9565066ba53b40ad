"""Outputs and targets: the tensor of the output that is explained, and the cotangent of a target."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from .._torch import is_differentiated
from ..batch import repeated
from ..errors import UntrackedPathError
from ..torch_state import is_plain_eager

Target = int | list[int] | tuple[int | Tensor, ...] | Tensor | Callable[[Tensor], Tensor] | None
"""int: a class. list or integer tensor [N]: a class per example. tuple: an index into the trailing dimensions.
floating tensor of the output's shape: a cotangent. callable: output -> one number per example. None: the output
has one number per example."""


def pick_output(call: str, value: Any, output: str | int | None) -> Tensor:
    """The tensor of a model's output that is explained: `output` names it, `logits` is the default where present."""
    if output is not None:
        value = _named(call, value, output)
    elif not isinstance(value, Tensor):
        value = _default(call, value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{call}: expected the model to return a tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(f"{call}: expected a floating-point output, got {value.dtype}: it has no derivative.")
    return value


def _named(call: str, value: Any, output: str | int) -> Any:
    if isinstance(value, Mapping) and output in value:
        return value[output]
    if isinstance(output, int) and isinstance(value, tuple | list) and -len(value) <= output < len(value):
        return value[output]
    if isinstance(output, str) and not isinstance(value, Tensor | Mapping) and hasattr(value, output):
        return getattr(value, output)
    raise ValueError(f"{call}(output={output!r}): the model's output has no such part. It has {_parts(value)}.")


def _default(call: str, value: Any) -> Any:
    for part in (value.get("logits") if isinstance(value, Mapping) else None, getattr(value, "logits", None)):
        if isinstance(part, Tensor):
            return part
    if isinstance(value, Mapping | tuple | list) or is_dataclass(value):
        items = list(value.values()) if isinstance(value, Mapping) else [] if is_dataclass(value) else list(value)
        if len(items) == 1 and isinstance(items[0], Tensor):
            return items[0]
        raise ValueError(f"{call}: the model returns several things; say which with output=. It has {_parts(value)}.")
    return value


def _parts(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the keys {sorted(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"{len(value)} items, fields {getattr(value, '_fields', 'unnamed')}"
    if is_dataclass(value):
        return f"the fields {[field.name for field in fields(value)]}"
    return f"the type {type(value).__name__}"


def cotangent_of(call: str, output: Tensor, target: Target) -> Tensor:
    """The cotangent of the output that `target` stands for.

    A class is a one in dimension 1, at every trailing position (the sum over space). Under `vmap`, in compiled code and
    while tracing, the values of a class tensor cannot be looked at: out of range, they make the cotangent NaN.

    Args:
        output: What the model returned. [N, K, ...], or [N] with `target=None`.

    Returns:
        Cotangent of the output's shape and dtype.
    """
    if callable(target):
        return _of_function(call, output, target)
    if target is None:
        if output.ndim > 1 and output[0].numel() != 1:
            raise ValueError(
                f"{call}(target=None): expected an output with one number per example, got shape {list(output.shape)}. "
                "Give a class, one class per example, or a function of the output."
            )
        return torch.ones_like(output)
    if isinstance(target, Tensor) and target.is_floating_point():
        return _of_cotangent(call, output, target)
    if isinstance(target, tuple):
        return _of_index(call, output, target)
    if output.ndim < 2:
        raise ValueError(
            f"{call}(target=...): the output has shape {list(output.shape)}, one number per example. Use target=None."
        )
    return _one_hot(call, output, target, dim=1).expand_as(output)


def score(call: str, output: Tensor, target: Target) -> Tensor:
    """The number that `target` stands for, whose gradient by the output is `cotangent_of`. [N]"""
    if callable(target):
        return _values(call, output, target)
    weights = cotangent_of(call, output, target)
    # An output that is infinite elsewhere does not count.
    return torch.where(weights == 0, 0.0, output * weights).flatten(1).sum(1) if output.ndim > 1 else output * weights


def _values(call: str, output: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
    values: Any = target(output)
    if not isinstance(values, Tensor) or values.shape != output.shape[:1]:
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{call}(target=<function>): expected one number per example, shape [{output.shape[0]}], got {got}."
        )
    if not values.is_floating_point():
        raise TypeError(f"{call}(target=<function>): expected floating-point numbers, got {values.dtype}.")
    return values


def _of_function(call: str, output: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
    def scores(output: Tensor) -> Tensor:
        values = _values(call, output, target)
        # Dynamo cannot follow the question.
        if not torch.compiler.is_dynamo_compiling() and not is_differentiated(values):
            raise UntrackedPathError(
                f"{call}(target=<function>): its value does not depend on the output by any path that can be "
                "differentiated. Look for detach(), comparisons or integer results in it."
            )
        return values

    values, pull, *_ = torch.func.vjp(scores, output)
    return pull(torch.ones_like(values))[0]


def _of_cotangent(call: str, output: Tensor, target: Tensor) -> Tensor:
    if target.shape != output.shape:
        raise ValueError(
            f"{call}(target=...): a floating-point target is a cotangent: expected the output's shape "
            f"{list(output.shape)}, got shape {list(target.shape)}. Classes are integers."
        )
    _same_device(call, output, target)
    return target.to(output.dtype)


def _of_index(call: str, output: Tensor, target: tuple[int | Tensor, ...]) -> Tensor:
    if len(target) != output.ndim - 1:
        raise ValueError(
            f"{call}(target={target!r}): expected an index into the trailing dimensions of the output, which has shape "
            f"{list(output.shape)}: {output.ndim - 1} numbers, got {len(target)}. One class per example is a list."
        )
    cotangent = torch.ones_like(output)
    for dim, index in enumerate(target, start=1):
        cotangent = cotangent * _one_hot(call, output, index, dim)
    return cotangent


def _one_hot(call: str, output: Tensor, index: Any, dim: int) -> Tensor:
    """One where the position along `dim` is `index` (one for all, or one per example). [N or 1, ..., size, ...]"""
    index = _checked_index(call, output, index, dim)
    size, trailing = output.shape[dim], [1] * (output.ndim - dim - 1)
    positions = torch.arange(size, device=output.device)
    hot = (positions == index.reshape(-1, 1)).to(output.dtype)
    valid = (index >= 0) & (index < size)
    hot = torch.where(valid.reshape(-1, 1), hot, float("nan"))
    return hot.reshape(-1, *[1] * (dim - 1), size, *trailing)


def _checked_index(call: str, output: Tensor, index: Any, dim: int) -> Tensor:
    count, size = output.shape[0], output.shape[dim]
    if not isinstance(index, Tensor):
        numbers = list(index) if isinstance(index, list) else [index]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in numbers):
            raise TypeError(f"{call}(target={index!r}): expected an int, a list of ints or an integer tensor.")
        if not all(0 <= i < size for i in numbers):
            raise ValueError(f"{call}(target={index!r}): class out of range; the output has {size} in dimension {dim}.")
        shape = [len(numbers)] if isinstance(index, list) else []
        index = torch.tensor(numbers, dtype=torch.long, device=output.device).reshape(shape)
    if index.dtype == torch.bool or index.is_floating_point() or index.is_complex():
        raise TypeError(f"{call}(target=...): expected integer classes, got {index.dtype}.")
    if index.ndim:
        _check_count(call, list(index.shape), count)
    _same_device(call, output, index)
    if is_plain_eager() and not bool(((index >= 0) & (index < size)).all()):
        raise ValueError(
            f"{call}(target=...): class out of range in {index.tolist()}; the output has {size} in dimension {dim}."
        )
    return index


def _same_device(call: str, output: Tensor, target: Tensor) -> None:
    if target.device != output.device:
        raise ValueError(
            f"{call}(target=...): the target is on {target.device}, the output on {output.device}. "
            "Move it: target.to(output's device)."
        )


class pointing:  # noqa: N801  (a target reads as a word: target=pointing(7))
    """The pointing target: class scores pooled over space by log-sum-exp, whose gradient is a spatial softmax.

    t(y) = log sum_u exp y[:, c, u];  dt/dy[:, c, u] = softmax_u(y[:, c, u])

    For an output without spatial dimensions it is the class itself. Does not overflow at any logit.

    Args:
        target: A class, or one class per example (list or integer tensor [N]).

    Returns:
        A target for any method: `[N, K, *spatial] -> [N]`.

    Example:
        >>> import torch, funcattr
        >>> x = torch.tensor([[[[0.0, 100.0]]]])
        >>> funcattr.gradient(lambda x: 2 * x, x, funcattr.pointing(0))
        tensor([[[[0., 2.]]]])

    References:
        TorchRay's `get_pointing_gradient` (Fong et al., 2019, arXiv:1910.08485).
    """

    def __init__(self, target: int | list[int] | Tensor) -> None:
        self.target = target

    def __call__(self, output: Tensor) -> Tensor:
        hot = _one_hot("pointing", output, self.target, dim=1)
        scores = torch.where(hot == 0, torch.zeros_like(output), output * hot).sum(1)
        return scores.flatten(1).logsumexp(1) if scores.ndim > 1 else scores

    def __repr__(self) -> str:
        return f"pointing({self.target!r})"


def repeated_target(call: str, target: Target, examples: int, times: int) -> Target:
    """The target of a batch in which each example is repeated; a function of the output stays as it is.

    Raises:
        ValueError: If it has not one class for each example.
    """
    if isinstance(target, pointing):
        inner: Any = repeated_target(call, target.target, examples, times)
        return pointing(inner)
    if isinstance(target, tuple):
        indices: Any = tuple(repeated_target(call, index, examples, times) for index in target)
        return indices
    if isinstance(target, list):
        _check_count(call, [len(target)], examples)
        return [index for index in target for _ in range(times)]
    if not isinstance(target, Tensor):
        return target
    if target.ndim and not target.is_floating_point():
        _check_count(call, list(target.shape), examples)
    return repeated(target, examples, times)


def _check_count(call: str, shape: list[int], examples: int) -> None:
    if shape != [examples]:
        raise ValueError(
            f"{call}(target=...): expected one class per example, shape [{examples}], got shape {shape}. "
            "An int gives all examples the same class."
        )
