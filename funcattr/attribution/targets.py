"""Outputs and targets: the tensor of the output that is explained, and the cotangent of a target."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._torch import is_differentiated
from ..batch import Rows
from ..errors import UntrackedPathError
from ..torch_state import is_plain_eager

Target = (
    int
    | np.integer[Any]
    | list[int]
    | list[tuple[int, ...]]
    | tuple[int | Tensor, ...]
    | Tensor
    | np.ndarray[Any, Any]
    | Callable[[Tensor], Tensor]
    | None
)
"""int: a class. list of ints or integer tensor [N]: a class per example. tuple: an index into the trailing dimensions,
for all examples. list of tuples or integer tensor [N, k]: such an index per example. floating tensor of the output's
shape: a cotangent. callable: output -> one number per example. None: the output has one number per example. Classes and
positions below 0 count from the end."""

_KINDS = "an int, a list of ints, an index tuple, a list of them, or an integer tensor"


def read_target(call: str, target: Any) -> Target:
    """A target as people write it, in the forms that the rest of the package reads.

    NumPy's integers become ints, its integer arrays lists, a list of tensors their stack, an index per example a list
    of tuples of ints. What is read already stays as it is.

    Raises:
        TypeError: If it is, or has in it, a bool, a float or another thing that is no class.
        ValueError: If the indices of a list differ in length, or a tuple is only vectors.
    """
    if target is None or type(target) is int:
        return target
    if callable(target):
        function: Any = target
        return function
    if isinstance(target, Tensor):
        return _integers_or_cotangent(call, target)
    if isinstance(target, tuple):
        return _read_tuple(call, target)
    if isinstance(target, list):
        return _read_list(call, target)
    if _is_array(target) and np.asarray(target).ndim:
        return _read_array(call, np.asarray(target))
    return _read_int(call, target, target)


def _is_array(value: Any) -> bool:
    return not isinstance(value, int | Tensor | np.generic) and hasattr(value, "__array__")


def _read_int(call: str, value: Any, target: Any) -> int:
    if _is_array(value) and np.asarray(value).ndim == 0:
        value = np.asarray(value)[()]
    if isinstance(value, bool) or not isinstance(value, int | Integral):
        raise TypeError(f"{call}(target={target!r}): expected {_KINDS}, got {type(value).__name__}.")
    return int(value)


def _integers_or_cotangent(call: str, target: Tensor) -> Tensor:
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(f"{call}(target=...): expected integer classes, got {target.dtype}.")
    return target


def _read_array(call: str, target: np.ndarray[Any, Any]) -> Target:
    if target.dtype.kind == "f":
        return torch.from_numpy(np.array(target))
    if target.dtype.kind not in "iu":
        raise TypeError(f"{call}(target=...): expected integer classes, got an array of {target.dtype}.")
    if target.ndim > 2:
        raise ValueError(
            f"{call}(target=...): expected integers of shape [N], a class per example, or [N, k], an index per "
            f"example, got an array of shape {list(target.shape)}."
        )
    return target.tolist() if target.ndim == 1 else [tuple(row) for row in target.tolist()]


def _read_tuple(call: str, target: tuple[Any, ...]) -> tuple[int | Tensor, ...]:
    found: list[int | Tensor] = []
    for value in target:
        if _is_array(value) and np.asarray(value).ndim:
            value = torch.as_tensor(_read_array(call, np.asarray(value)))
        if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim > 1):
            raise TypeError(
                f"{call}(target={target!r}): a tuple is one index, for all examples, of a number for each trailing "
                f"dimension; got {type(value).__name__} in it. One index per example is a list of tuples, or an "
                "integer tensor [N, k]."
            )
        if isinstance(value, Tensor):
            if value.is_floating_point():
                raise TypeError(f"{call}(target=...): expected integers in an index, got {value.dtype}.")
            found.append(_integers_or_cotangent(call, value))
        else:
            found.append(_read_int(call, value, target))
    if len(found) > 1 and all(isinstance(value, Tensor) and value.ndim == 1 for value in found):
        raise ValueError(
            f"{call}(target=...): a tuple of {len(found)} vectors could mean an index per example or a number per "
            "dimension. One index per example is an integer tensor [N, k]: torch.stack(target, 1) if each vector has "
            "a number per example."
        )
    return tuple(found)


def _read_list(call: str, target: list[Any]) -> Target:
    if target and all(isinstance(value, Tensor) for value in target):
        if len({value.shape for value in target}) > 1:
            shapes = [list(value.shape) for value in target]
            raise ValueError(f"{call}(target=[...]): expected tensors of one shape, got shapes {shapes}.")
        return _integers_or_cotangent(call, torch.stack(target))
    if not any(isinstance(value, tuple | list) or (_is_array(value) and np.ndim(value)) for value in target):
        return [_read_int(call, value, target) for value in target]
    rows: list[tuple[int, ...]] = []
    for row in target:
        if not (isinstance(row, tuple | list) or _is_array(row)):
            raise TypeError(f"{call}(target={target!r}): expected ints, or index tuples, got a list of both.")
        rows.append(tuple(_read_int(call, value, target) for value in row))
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{call}(target={target!r}): expected index tuples of one length.")
    return rows


def pick_output(call: str, value: Any, output: str | int | None, forward_only: bool = False) -> Tensor:
    """The tensor of a model's output that is explained: `output` names it, `logits` is the default where present.

    Integers and booleans are numbers where nothing is differentiated (`forward_only`).

    Raises:
        TypeError: If it is no floating-point tensor, or `output` no name.
        ValueError: If there is no such part, or several and no `output`.
    """
    if output is not None:
        value = _named(call, value, output)
    elif not isinstance(value, Tensor):
        value = _default(call, value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{call}: expected the model to return a tensor, got {type(value).__name__}.")
    if value.is_floating_point():
        return value
    if not forward_only or value.is_complex():
        raise TypeError(f"{call}: expected a floating-point output, got {value.dtype}: it has no derivative.")
    return value.to(torch.float64)  # single precision has no integers beyond 2^24


def _named(call: str, value: Any, output: str | int) -> Any:
    if isinstance(output, bool | np.bool_ | float):  # which equal the numbers that they are not
        raise TypeError(f"{call}(output={output!r}): expected a key, an index or an attribute's name.")
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
        call: First words of errors.
        output: What the model returned. [N, K, ...], or [N] with `target=None`.
        target: As `read_target` returns it.

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
    if output.ndim < 2:
        raise ValueError(
            f"{call}(target=...): the output has shape {list(output.shape)}, one number per example. Use target=None."
        )
    if not is_index(target):
        return _one_hot(call, output, target, dim=1).expand_as(output)
    cotangent = torch.ones_like(output)
    for dim, index in enumerate(_numbers(call, output, target), start=1):
        cotangent = cotangent * _one_hot(call, output, index, dim)
    return cotangent


def score(call: str, output: Tensor, target: Target) -> Tensor:
    """The number that `target` stands for, whose gradient by the output is `cotangent_of`. [N]"""
    if callable(target):
        return _values(call, output, target)
    weights = cotangent_of(call, output, target)
    # An output that is infinite elsewhere does not count.
    return torch.where(weights == 0, 0.0, output * weights).flatten(1).sum(1) if output.ndim > 1 else output * weights


def _values(call: str, output: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
    values: Any = target.score(call, output) if isinstance(target, BuiltTarget) else target(output)
    if not isinstance(values, Tensor) or values.shape != output.shape[:1]:
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{call}(target=<function>): expected one number per example, shape [{output.shape[0]}], got {got}."
        )
    if not values.is_floating_point():
        raise TypeError(f"{call}(target=<function>): expected floating-point numbers, got {values.dtype}.")
    return values


def _of_function(call: str, output: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
    if isinstance(target, BuiltTarget):
        target.check(call, output)

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
    if is_plain_eager() and not bool(target.isfinite().all()):
        raise ValueError(f"{call}(target=...): expected a cotangent of finite numbers, got infinity or NaN in it.")
    return target.to(output.dtype)


def is_class(target: Any) -> bool:
    """Whether a target, as `read_target` returns it, is a class, or a class per example."""
    integers = isinstance(target, Tensor) and not target.is_floating_point()
    return (integers or isinstance(target, int | list)) and not is_index(target)


def is_index(target: Any) -> bool:
    """Whether a target, as `read_target` returns it, has a number for each trailing dimension, and is no class."""
    if isinstance(target, Tensor):
        return target.ndim > 1 and not target.is_floating_point()
    return isinstance(target, tuple) or (isinstance(target, list) and bool(target) and isinstance(target[0], tuple))


def _numbers(call: str, output: Tensor, target: Any) -> list[Any]:
    """For each trailing dimension the position: an int or a tensor [] for all examples, a list or tensor [N]."""
    rank = output.ndim - 1
    if isinstance(target, tuple):
        given, columns = len(target), list(target)
    elif isinstance(target, Tensor):
        if target.ndim > 2:
            raise ValueError(
                f"{call}(target=...): expected integers of shape [N], a class per example, or [N, {rank}], an index "
                f"per example, got shape {list(target.shape)}."
            )
        _check_count(call, list(target.shape[:1]), output.shape[0])
        given, columns = target.shape[1], target.unbind(1)
    else:
        given, columns = len(target[0]), [[row[i] for row in target] for i in range(len(target[0]))]
    if given != rank:
        told = f"target={target!r}" if isinstance(target, tuple) else "target=..."
        raise ValueError(
            f"{call}({told}): expected an index into the trailing dimensions of the output, which has shape "
            f"{list(output.shape)}: {rank} numbers, got {given}. One class per example is a list of ints or an integer "
            "tensor [N]; a one-hot target is a cotangent, and floating point."
        )
    return list(columns)


def _one_hot(call: str, output: Tensor, index: Any, dim: int) -> Tensor:
    """One where the position along `dim` is `index` (one for all, or one per example). [N or 1, ..., size, ...]"""
    index = _checked_index(call, output, index, dim)
    size, trailing = output.shape[dim], [1] * (output.ndim - dim - 1)
    positions = torch.arange(size, device=output.device)
    hot = (positions == torch.where(index < 0, index + size, index).reshape(-1, 1)).to(output.dtype)
    valid = (index >= -size) & (index < size)
    hot = torch.where(valid.reshape(-1, 1), hot, float("nan"))
    return hot.reshape(-1, *[1] * (dim - 1), size, *trailing)


def _checked_index(call: str, output: Tensor, index: int | list[int] | Tensor, dim: int) -> Tensor:
    """The positions along a dimension, as a tensor [] or [N] of int64: smaller integers cannot count to any size."""
    count, size = output.shape[0], output.shape[dim]
    if not isinstance(index, Tensor):
        numbers = index if isinstance(index, list) else [index]
        if not all(-size <= i < size for i in numbers):
            raise ValueError(f"{call}(target={index!r}): class out of range; the output has {size} in dimension {dim}.")
        shape = [len(numbers)] if isinstance(index, list) else []
        index = torch.tensor(numbers, dtype=torch.long, device=output.device).reshape(shape)
    if index.ndim:
        _check_count(call, list(index.shape), count)
    _same_device(call, output, index)
    index = index.long()
    if is_plain_eager() and not bool(((index >= -size) & (index < size)).all()):
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


class BuiltTarget:
    """A function of the output that is made of data, so that it is repeated with the examples and enters compiled code.

    A subclass says in `parts` what it is made of, and computes `score`. Tensors and lists among the parts have an entry
    for each example where targets have one, as `target_at` reads them.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)

    def score(self, call: str, output: Tensor) -> Tensor:
        """The number that is explained, for each example. [N]"""
        raise NotImplementedError

    def check(self, call: str, output: Tensor) -> None:
        """Raise if the target does not fit the output, where values can be looked at."""

    def with_parts(self, change: Callable[[Any], Any]) -> "BuiltTarget":
        """The same target, made of other parts."""
        new = object.__new__(type(self))
        BuiltTarget.__init__(new, {name: change(part) for name, part in self.parts.items()})
        return new

    def at(self, call: str, examples: int, rows: Rows) -> "BuiltTarget":
        """The target of a batch of copies of the examples."""
        return self.with_parts(lambda part: target_at(call, part, examples, rows))

    def __call__(self, output: Tensor) -> Tensor:
        return self.score(type(self).__name__, output)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={part!r}" for name, part in self.parts.items())
        return f"{type(self).__name__}({given})"


class pointing(BuiltTarget):  # noqa: N801  (a target reads as a word: target=pointing(7))
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

    def __init__(self, target: int | np.integer[Any] | list[int] | Tensor | np.ndarray[Any, Any]) -> None:
        read: Any = read_target("pointing", target)
        if not is_class(read):
            raise TypeError(f"pointing({target!r}): expected a class, or one class per example.")
        super().__init__({"target": read})

    def score(self, call: str, output: Tensor) -> Tensor:
        """Of the class, pooled over space. [N, K, *spatial] -> [N]"""
        hot = _one_hot("pointing", output, self.parts["target"], dim=1)
        scores = torch.where(hot == 0, torch.zeros_like(output), output * hot).sum(1)
        return scores.flatten(1).logsumexp(1) if scores.ndim > 1 else scores

    def __repr__(self) -> str:
        return f"pointing({self.parts['target']!r})"


def repeated_target(call: str, target: Target, examples: int, times: int) -> Target:
    """The target of a batch in which each example is repeated; as `target_at`."""
    return target_at(call, target, examples, Rows(times))


def target_at(call: str, target: Target, examples: int, rows: Rows) -> Target:
    """The target of a batch of copies of the examples; a function of the output stays as it is.

    Args:
        call: First words of errors.
        target: As `read_target` returns it.
        examples: N, the number of examples.
        rows: Of which examples there are copies, and how many.

    Raises:
        ValueError: If it has not one class or index for each example.
    """
    if isinstance(target, BuiltTarget):
        return target.at(call, examples, rows)
    if isinstance(target, tuple):
        indices: Any = tuple(target_at(call, index, examples, rows) for index in target)
        return indices
    if isinstance(target, list):
        _check_count(call, [len(target)], examples)
        each: Any = rows.among(target)
        return each
    if not isinstance(target, Tensor):
        return target
    if target.ndim and not target.is_floating_point():
        _check_count(call, list(target.shape[:1]), examples)
    return rows.of(target, examples)


def _check_count(call: str, shape: list[int], examples: int) -> None:
    if shape != [examples]:
        raise ValueError(
            f"{call}(target=...): expected one class or index per example, {examples} of them, got {shape[0]}. "
            "An int gives all examples the same class, a tuple the same index."
        )
