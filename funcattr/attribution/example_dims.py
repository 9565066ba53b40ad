"""Which dimension of each input and of the output holds the examples, for models that have it elsewhere than in front.

Methods work on batches [N, ...]. Where a user's model has its examples in another dimension, or in none, the inputs are
moved for the method, and moved back for each call of the model.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import pytree
from ..batch import NO_DIM, Dim, along, back, has_dim, moved
from ..errors import LOOK
from .targets import BuiltTarget

ExampleDims = int | None | Mapping[str, Any]
"""As `vmap`'s `in_dims`: a dimension of x; None for none of any tensor; or a dict of dimensions with the keys "x",
"args", "kwargs", "output" and "layer", some of them."""

BY_ROWS = "rows"
"""Stands for dimension 0 of the tensors that have a row for each example."""
_PARTS = ("x", "args", "kwargs", "output", "layer")


class RowsError(ValueError):
    """Examples that are not where they should be, or not computed each by itself.

    Args:
        call: First words of the error.
        what: What was found.
        way_out: Its last words.
    """

    def __init__(self, call: str, what: str, way_out: str = "") -> None:
        super().__init__(call, what, way_out)
        self.what = what

    def __str__(self) -> str:
        call, what, way_out = self.args
        return (
            f"{call}(example_dims=0): expected examples in dimension 0 of x, of the output, and of those other "
            f"inputs that have as many rows, computed each by itself; but {what}. Say where they are: example_dims=1, "
            'or example_dims={"x": 1, "args": (None,), "output": 0}; None where there are none, as for a graph or a '
            f"bag.{way_out} {LOOK}"
        )


class Layout(NamedTuple):
    """The dimensions that hold examples; NO_DIM where none does.

    Attributes:
        x: Structured as the inputs.
        args, kwargs: Structured as those, or BY_ROWS.
        output: Of the explained tensor.
        layer: Of the value at the layer.
    """

    x: Any
    args: Any
    kwargs: Any
    output: Dim
    layer: Dim

    @property
    def has_one_example(self) -> bool:
        """Whether the inputs are one example, so that copies of it run one by one."""
        return NO_DIM in pytree.tree_leaves(self.x)

    def with_constants(self, x: Any, constants: Mapping[str, Any], kwargs: dict[str, Any]) -> "Layout":
        """The layout where some of the inputs, a dict, go along as more keyword inputs; `x` are the others."""
        if not constants:
            return self
        name, first = next(iter(x.items()))
        examples = 1 if self.x[name] == NO_DIM else first.shape[self.x[name]]

        def by_rows(value: Any) -> Dim:
            is_batch = isinstance(value, Tensor) and value.ndim > 0 and len(value) == examples
            return 0 if is_batch else NO_DIM

        dims = pytree.tree_map(by_rows, kwargs) if self.kwargs == BY_ROWS else self.kwargs
        moved = {name: self.x[name] for name in constants}
        players = {name: dim for name, dim in self.x.items() if name not in constants}
        return self._replace(x=players, kwargs={**dims, **moved})

    def run(self, call: str, fn: Callable[..., Tensor], x: Any, args: Any, kwargs: Any) -> Tensor:
        """The explained output of inputs whose examples are in front; its own are too. [N, ...]

        Args:
            call: First words of errors.
            fn: `(x, args, kwargs) -> output`, of inputs as the user's model takes them.
            x, args, kwargs: With their examples in front.
        """
        if not self.has_one_example:
            return self._one_run(call, fn, x, args, kwargs)
        copies = range(len(pytree.tree_leaves(x)[0]))
        return torch.cat([self._one_run(call, fn, *(_row(v, i) for v in self._told(x, args, kwargs))) for i in copies])

    def _told(self, x: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        return (x, self.x, False), (args, self.args, True), (kwargs, self.kwargs, True)

    def given(self, x: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """Inputs as the user's model takes them."""
        return pytree.tree_map(back, x, self.x), _inputs_back(args, self.args), _inputs_back(kwargs, self.kwargs)

    def _one_run(self, call: str, fn: Callable[..., Tensor], x: Any, args: Any, kwargs: Any) -> Tensor:
        output = fn(*self.given(x, args, kwargs))
        if not has_dim(output, self.output):
            raise ValueError(
                f"{call}(example_dims=...): the output has shape {list(output.shape)}, no dimension {self.output} that "
                'could hold examples. If it is one example\'s, give example_dims=None, or {"output": None}.'
            )
        return moved(output, self.output)

    def moved_target(self, target: Any) -> Any:
        """The target with its examples in front: a cotangent has them where the output has them, classes are so.

        What a target is built of is laid out alike: a cotangent, a reference.
        """
        if isinstance(target, BuiltTarget):
            return target.with_parts(self.moved_target)
        is_cotangent = isinstance(target, Tensor) and target.is_floating_point()
        return moved(target, self.output) if is_cotangent and has_dim(target, self.output) else target

    def target_as_given(self, target: Any) -> Any:
        """The inverse of `moved_target`."""
        if isinstance(target, BuiltTarget):
            return target.with_parts(self.target_as_given)
        is_cotangent = isinstance(target, Tensor) and target.is_floating_point()
        return back(target, self.output) if is_cotangent and has_dim(target, self.output) else target

    def moved_x(self, x: Any) -> Any:
        """Values structured as x, with their examples in front."""
        return pytree.tree_map(moved, x, self.x)

    def along(self, values: Any, dims: Any, examples: int, change: Callable[[Tensor], Tensor]) -> Any:
        """More inputs, with their examples in front, changed as the examples are."""
        if dims == BY_ROWS:
            return along(values, examples, change)
        return pytree.tree_map(lambda v, d: v if d == NO_DIM else change(v), values, dims)

    def along_as_given(self, values: Any, dims: Any, examples: int, change: Callable[[Tensor], Tensor]) -> Any:
        """More inputs as the user's model takes them, changed as the examples are."""
        return _inputs_back(self.along(moved_inputs(values, dims), dims, examples, change), dims)


def require_rows(call: str, output: Tensor, examples: int, layout: Layout | None) -> None:
    """Raise unless an output, with its examples in front, has a row for each of them.

    Raises:
        ValueError: If it has not.
    """
    if output.shape[:1] == (examples,):
        return
    what = f"the output has shape {list(output.shape)}, not a row for each of {examples} examples"
    if layout is None:
        raise RowsError(call, what)
    raise ValueError(
        f"{call}(example_dims=...): with its examples in front {what}. Say which of its dimensions holds them, as in "
        'example_dims={"x": 1, "output": 1}; None where it is one example\'s.'
    )


def _row(told: tuple[Any, Any, bool], i: int) -> Any:
    values, dims, has_constants = told
    if dims == BY_ROWS:
        return values
    return pytree.tree_map(lambda v, d: v if has_constants and d == NO_DIM else v[i : i + 1], values, dims)


def layout_of(call: str, given: Any, x: Any, args: Any, kwargs: Any) -> Layout | None:
    """The layout that `example_dims=` stands for; None for examples in front everywhere.

    Raises:
        TypeError, ValueError: If it is not as documented, or does not fit the inputs.
    """
    if type(given) is int and given == 0:
        return None
    parts = _parts(call, given)
    x_dims = _like(call, "x", parts.get("x", 0), x)
    one = NO_DIM in pytree.tree_leaves(x_dims)
    if one and set(pytree.tree_leaves(x_dims)) != {NO_DIM}:
        raise ValueError(
            f"{call}(example_dims=...): expected a dimension of every input in x, or None for all of them. "
            "A tensor that is the same for all examples is one of args or kwargs."
        )
    more = {
        name: _like(call, name, parts.get(name), value) if one or name in parts else BY_ROWS
        for name, value in (("args", args), ("kwargs", kwargs))
    }
    found = Layout(
        x_dims,
        more["args"],
        more["kwargs"],
        _dim(call, "output", parts.get("output", 0)),
        _dim(call, "layer", parts.get("layer", None if one else 0)),
    )
    if not found.has_one_example and found.output == NO_DIM:
        raise ValueError(
            f"{call}(example_dims=...): the output has no dimension of examples, but x has. An output that is one "
            "number for the whole batch explains x as one example: example_dims=None."
        )
    return found


def layer_dim_of(call: str, given: Any) -> Dim:
    """The dimension of the value at the layer that `example_dims=` stands for, where there are no inputs yet.

    Raises:
        TypeError, ValueError: If it is not as documented.
    """
    parts = _parts(call, given)
    of_x = pytree.tree_leaves(parts.get("x", 0), is_leaf=lambda dim: dim is None)
    return _dim(call, "layer", parts.get("layer", None if None in of_x else 0))


def _parts(call: str, given: Any) -> dict[str, Any]:
    """The option as a dict with some of the keys."""
    if given is None:
        return dict.fromkeys(_PARTS)
    parts = dict(given) if isinstance(given, Mapping) else {"x": given}
    if unknown := [key for key in parts if key not in _PARTS]:
        raise ValueError(f"{call}(example_dims=...): expected keys out of {', '.join(_PARTS)}, got {unknown}.")
    return parts


def _dim(call: str, name: str, dim: Any) -> Dim:
    if dim is None:
        return NO_DIM
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{call}(example_dims=...): expected an int or None for {name}, got {type(dim).__name__}.")
    return dim


def _like(call: str, name: str, dims: Any, value: Any) -> Any:
    """Dimensions for the tensors of a value: one for all, or structured as it is."""
    leaves, structure = pytree.tree_flatten(value)
    if dims is None or isinstance(dims, int):
        each = [dims] * len(leaves)
    else:
        each, given = pytree.tree_flatten(dims, is_leaf=lambda dim: dim is None)
        if given != structure:
            raise ValueError(
                f"{call}(example_dims=...): expected dimensions of {name} structured as it is, got {dims}."
            )
    checked = [_dim(call, name, dim) if isinstance(v, Tensor) else NO_DIM for dim, v in zip(each, leaves, strict=True)]
    for dim, v in zip(checked, leaves, strict=True):
        if not has_dim(v, dim):
            raise ValueError(
                f"{call}(example_dims=...): a tensor in {name} of shape {list(v.shape)} has no dimension {dim}."
            )
    return pytree.tree_unflatten(checked, structure)


def moved_inputs(values: Any, dims: Any) -> Any:
    """More inputs, with the examples of those that have some in front."""
    return values if dims == BY_ROWS else pytree.tree_map(lambda v, d: v if d == NO_DIM else moved(v, d), values, dims)


def _inputs_back(values: Any, dims: Any) -> Any:
    return values if dims == BY_ROWS else pytree.tree_map(lambda v, d: v if d == NO_DIM else back(v, d), values, dims)
