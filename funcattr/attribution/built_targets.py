"""Targets that are made of others, of a span of the output, of a reference, and of all the outputs of a model."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import pytree
from ..batch import Rows
from ..torch_state import is_plain_eager
from .targets import BuiltTarget, Target, cotangent_of, pointing, read_target, score

Measure = Literal["logit", "log_prob"]
"""What counts of a token: the output itself, or the logarithm of its softmax."""


class contrast(BuiltTarget):  # noqa: N801  (a target reads as a word: target=contrast(3, 5))
    """The contrast: how much more the model says one thing than another. Why this class, and not that one?

    t(y) = t_target(y) - t_foil(y)

    For two tokens at one position it is the logarithm of their odds, whether logits or log-probabilities are meant.

    Args:
        target: What is explained; any target: a class, one for each example, an index, a span, a function.
        foil: What it is held against, likewise.

    Returns:
        A target for any method: `[N, ...] -> [N]`.

    Raises:
        TypeError, ValueError: As for targets.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Linear(3, 4, bias=False)
        >>> found = funcattr.gradient(model, torch.randn(2, 3), funcattr.contrast(1, [0, 2]))
        >>> torch.allclose(found, model.weight[1] - model.weight[[0, 2]])
        True

    References:
        Yin & Neubig, 2022, arXiv:2202.10419.
    """

    def __init__(self, target: Target, foil: Target) -> None:
        super().__init__({"target": read_target("contrast", target), "foil": read_target("contrast", foil)})

    def score(self, call: str, output: Tensor) -> Tensor:
        """[N, ...] -> [N]"""
        return score(call, output, self.parts["target"]) - score(call, output, self.parts["foil"])

    def check(self, call: str, output: Tensor) -> None:
        for part in self.parts.values():
            if isinstance(part, BuiltTarget):
                part.check(call, output)
            elif not callable(part):
                cotangent_of(call, output, part)

    def __repr__(self) -> str:
        return f"contrast({self.parts['target']!r}, {self.parts['foil']!r})"


class span(BuiltTarget):  # noqa: N801
    """A span of the output: the sum of its tokens' log-probabilities, or of their logits. One reverse pass for all.

    t(y) = sum_s log softmax(y[p_s])[v_s],  or  sum_s y[p_s, v_s]

    A language model says at position p which token stands at p + 1: the tokens at 5 and 6 are a span at 4 and 5.

    Args:
        tokens: The tokens v_s of the span, for all examples (a list of ints, a tensor [S]) or for each (a list of
            lists, of different lengths too, or a tensor [N, S]).
        positions: Their positions p_s in the output, likewise; or one number, the first of positions in a row. Below 0
            they count from the end.
        of: "log_prob" or "logit".

    Returns:
        A target for any method: `[N, T, V] -> [N]`.

    Raises:
        TypeError, ValueError: If tokens or positions are no integers, differ in number, or are not in the output.

    Example:
        >>> import torch, funcattr
        >>> logits = torch.randn(2, 5, 7)
        >>> torch.allclose(funcattr.span([3, 6], 2, of="logit")(logits), logits[:, 2, 3] + logits[:, 3, 6])
        True
    """

    def __init__(self, tokens: Any, positions: Any, *, of: Measure = "log_prob") -> None:
        if of not in ("logit", "log_prob"):
            raise ValueError(f"span(of={of!r}): expected 'logit' or 'log_prob'.")
        rows, kept = _rows("tokens", tokens)
        if isinstance(positions, int | np.integer) and not isinstance(positions, bool):
            positions = int(positions)
            where = positions + torch.arange(rows.shape[1]).expand_as(rows)
            if positions < 0 < positions + rows.shape[1]:
                raise ValueError(f"span(positions={positions}): the span would go on at the beginning of the output.")
        else:
            where, there = _rows("positions", positions)
            examples = max(len(rows), len(where))
            fits = where.shape[1] == rows.shape[1] and {len(rows), len(where)} <= {1, examples}
            if not fits or not bool((there == kept.to(there.device)).all()):
                raise ValueError(
                    f"span(positions=...): expected as many positions as tokens, {list(rows.shape)}, or the first, got "
                    f"{list(where.shape)}."
                )
            rows, kept, where = (v.expand(examples, -1) for v in (rows, kept, where))
        super().__init__({"tokens": rows, "positions": where.to(rows.device), "kept": kept, "of": of})

    def at(self, call: str, examples: int, rows: Rows) -> BuiltTarget:
        self._check_rows(call, examples)
        count = len(self.parts["tokens"])
        return self.with_parts(lambda p: rows.of(p, count) if isinstance(p, Tensor) and count > 1 else p)

    def score(self, call: str, output: Tensor) -> Tensor:
        """[N, T, V] -> [N]"""
        self._check_shape(call, output)
        count, length, size = output.shape
        tokens, positions, kept = (
            self.parts[name].to(output.device).expand(count, -1) for name in ("tokens", "positions", "kept")
        )
        place = torch.where(positions < 0, positions + length, positions)
        valid = ~kept | ((place >= 0) & (place < length) & (tokens >= 0) & (tokens < size))
        place, tokens = place.clamp(0, length - 1), tokens.clamp(0, size - 1)
        rows = output.gather(1, place.unsqueeze(2).expand(-1, -1, size))
        rows = rows.log_softmax(2) if self.parts["of"] == "log_prob" else rows
        each = rows.gather(2, tokens.unsqueeze(2)).squeeze(2)
        # Where values cannot be looked at, a wrong token makes the attribution NaN.
        each = each * torch.where(valid, 1.0, float("nan")).to(each.dtype)
        return torch.where(kept, each, torch.zeros_like(each)).sum(1)

    def check(self, call: str, output: Tensor) -> None:
        self._check_shape(call, output)
        if not is_plain_eager():
            return
        _, length, size = output.shape
        kept = self.parts["kept"]
        for name, low, high in (("positions", -length, length), ("tokens", 0, size)):
            values = self.parts[name][kept]
            if not bool(((values >= low) & (values < high)).all()):
                what = f"{length} positions" if name == "positions" else f"{size} tokens"
                raise ValueError(
                    f"{call}(target=span({name}=...)): out of range in {values.tolist()}; the output has {what}."
                )

    def _check_shape(self, call: str, output: Tensor) -> None:
        if output.ndim != 3:
            raise ValueError(
                f"{call}(target=span(...)): expected an output [N, T, V], scores of V tokens at T positions, got shape "
                f"{list(output.shape)}."
            )
        self._check_rows(call, output.shape[0])

    def _check_rows(self, call: str, examples: int) -> None:
        rows = len(self.parts["tokens"])
        if rows not in (1, examples):
            raise ValueError(f"{call}(target=span(...)): expected one span, or {examples}, one an example; got {rows}.")

    def __repr__(self) -> str:
        tokens, positions = self.parts["tokens"].tolist(), self.parts["positions"].tolist()
        return f"span({tokens}, {positions}, of={self.parts['of']!r})"


def _rows(name: str, values: Any) -> tuple[Tensor, Tensor]:
    """Integers for all examples or for each as a tensor [1 or N, S], and which of them are there. [1 or N, S]"""
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(values)
    if isinstance(values, Tensor):
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"span({name}=...): expected integers, got {values.dtype}.")
        if values.ndim not in (1, 2) or not values.shape[-1]:
            raise ValueError(f"span({name}=...): expected shape [S], or [N, S], got {list(values.shape)}.")
        values = torch.atleast_2d(values).long()
        return values, torch.ones(values.shape, dtype=torch.bool, device=values.device)
    if not isinstance(values, list | tuple) or not len(values):
        got = "none" if isinstance(values, list | tuple) else type(values).__name__
        raise TypeError(f"span({name}=...): expected a list of integers, one for each example, or a tensor; got {got}.")
    nested = [isinstance(v, list | tuple) or (isinstance(v, Tensor | np.ndarray) and v.ndim > 0) for v in values]
    if any(nested) and not all(nested):
        raise TypeError(f"span({name}=...): expected integers, or lists of them, got a list of both.")
    rows = [_integers(name, row) for row in (values if nested[0] else [values])]
    if not all(rows):
        raise ValueError(f"span({name}=...): expected at least one token for each example, got none.")
    longest = max(map(len, rows))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return padded, torch.tensor([[i < len(row) for i in range(longest)] for row in rows])


def _integers(name: str, row: Any) -> list[int]:
    found = []
    for value in row:
        whole = value.item() if isinstance(value, Tensor | np.generic) else value
        if isinstance(whole, bool) or not isinstance(whole, int):
            raise TypeError(f"span({name}=...): expected integers, got {type(value).__name__}.")
        found.append(whole)
    return found


class similarity(BuiltTarget):  # noqa: N801
    """The similarity of the output to a reference: which parts of this input make it like that other one?

    t(y) = <y, r> / (|y| |r|),  or  <y, r>

    Args:
        reference: r, the other input's output: a vector [D] for all examples, or one for each, of the output's shape
            (with 1 in place of N: for all), in the model's own form where `example_dims` says which that is.
        of: "cosine", or "dot".

    Returns:
        A target for any method: `[N, D] -> [N]`. Outputs of more dimensions are taken as vectors.

    Raises:
        TypeError, ValueError: If the reference is no floating-point tensor, or not of the output's shape.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Linear(3, 4)
        >>> x, other = torch.randn(2, 3), torch.randn(2, 3)
        >>> funcattr.input_x_gradient(model, x, funcattr.similarity(model(other))).shape
        torch.Size([2, 3])

    References:
        Eberle et al., 2020, arXiv:2003.05386, explain both inputs at once (BiLRP); here the other one is a constant.
    """

    def __init__(self, reference: Tensor, *, of: Literal["cosine", "dot"] = "cosine") -> None:
        if not isinstance(reference, Tensor) or not reference.is_floating_point():
            got = reference.dtype if isinstance(reference, Tensor) else type(reference).__name__
            raise TypeError(f"similarity(reference=...): expected a floating-point tensor, got {got}.")
        if of not in ("cosine", "dot"):
            raise ValueError(f"similarity(of={of!r}): expected 'cosine' or 'dot'.")
        if reference.ndim == 0:
            raise ValueError("similarity(reference=...): expected a vector [D], or one for each example, got shape [].")
        super().__init__({"reference": reference, "of": of})

    @property
    def _rows(self) -> Tensor:
        """The references, one or one for each example. [1 or N, ...]"""
        reference: Tensor = self.parts["reference"]
        return reference if reference.ndim > 1 else reference.unsqueeze(0)

    def at(self, call: str, examples: int, rows: Rows) -> BuiltTarget:
        self._check_rows(call, examples)
        count = len(self._rows)
        return self.with_parts(lambda p: rows.of(p, count) if isinstance(p, Tensor) and count > 1 else p)

    def score(self, call: str, output: Tensor) -> Tensor:
        """[N, ...] -> [N]"""
        self._check_shape(call, output)
        reference = self._rows.to(output)
        y, r = output.flatten(1), reference.flatten(1).expand(output.shape[0], -1)
        return (y * r).sum(1) if self.parts["of"] == "dot" else F.cosine_similarity(y, r)

    def check(self, call: str, output: Tensor) -> None:
        self._check_shape(call, output)
        reference = self._rows.flatten(1)
        if self.parts["of"] == "cosine" and is_plain_eager() and not bool(reference.norm(dim=1).gt(0).all()):
            raise ValueError(f"{call}(target=similarity(...)): a reference is zero, and has no cosine to anything.")

    def _check_shape(self, call: str, output: Tensor) -> None:
        shape = self._rows.shape
        if output.ndim < 2 or shape[1:] != output.shape[1:]:
            raise ValueError(
                f"{call}(target=similarity(...)): expected a reference of the output's shape {list(output.shape)}, or "
                f"one example's, got {list(shape)}."
            )
        self._check_rows(call, output.shape[0])

    def _check_rows(self, call: str, examples: int) -> None:
        if len(self._rows) not in (1, examples):
            raise ValueError(
                f"{call}(target=similarity(...)): expected one reference, or {examples}, one an example; got "
                f"{len(self._rows)}."
            )

    def __repr__(self) -> str:
        return f"similarity(<{list(self._rows.shape)}>, of={self.parts['of']!r})"


BUILT: dict[str, type[BuiltTarget]] = {kind.__name__: kind for kind in (pointing, contrast, span, similarity)}


def is_data(target: Any) -> bool:
    """Whether a target has no function of the user's in it, so that it can enter compiled code as data."""
    if isinstance(target, BuiltTarget):
        return type(target).__name__ in BUILT and all(map(is_data, target.parts.values()))
    return not callable(target)


def as_data(target: Any) -> Any:
    """A target as trees of tensors and numbers."""
    if isinstance(target, BuiltTarget):
        return {type(target).__name__: {name: as_data(part) for name, part in target.parts.items()}}
    return target


def of_data(data: Any) -> Any:
    """The inverse of `as_data`."""
    if not isinstance(data, dict):
        return data
    ((name, parts),) = data.items()
    new = object.__new__(BUILT[name])
    BuiltTarget.__init__(new, {part: of_data(value) for part, value in parts.items()})
    return new


def tensors_of(target: Any) -> list[Any]:
    """The leaves of a target: tensors and numbers; a function is a leaf of its own."""
    return pytree.tree_leaves(as_data(target))


class of_outputs(BuiltTarget):  # noqa: N801
    """A number of all that the model returns: a function that sees nested outputs, or several at once.

    t = f(model(x)), with the model's own output: a tuple, a dict, a `ModelOutput`, nested in any way

    The method takes the gradient of the function, as of any target that is a function: rules stop at the outputs.

    Args:
        function: `what the model returns -> one number per example`. It must compute each example's by itself.

    Returns:
        A target for any method. `output=` is not given beside it.

    Raises:
        TypeError: By the method, if the model returns something that is no tree of tensors, if `output=` is given, or
            in compiled code: there, write the function into the model.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: {"scores": 2 * x, "more": (x, x**2)}
        >>> target = funcattr.of_outputs(lambda y: y["scores"][:, 0] + y["more"][1][:, 1])
        >>> funcattr.gradient(model, torch.ones(1, 2), target)
        tensor([[2., 2.]])
    """

    def __init__(self, function: Callable[[Any], Tensor]) -> None:
        if not callable(function):
            raise TypeError(f"of_outputs(...): expected a function of the outputs, got {type(function).__name__}.")
        super().__init__({"function": function})
        self.structure: Any = None
        self.leaves: list[Any] = []

    def joined(self, call: str, value: Any) -> Tensor:
        """All floating-point outputs, side by side. Each [N, ...] -> [N, the sum of their sizes]"""
        leaves, self.structure = pytree.tree_flatten(value)
        floating = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if (
            len(leaves) == 1 and leaves[0] is value and isinstance(value, Mapping)
        ):  # of a class that the tree does not know
            leaves, self.structure = pytree.tree_flatten(dict(value))
        for leaf in leaves:
            if not isinstance(leaf, Tensor | bool | int | float | str | None):
                raise TypeError(
                    f"{call}(target=of_outputs(...)): expected tensors, in tuples, lists and dicts, got a "
                    f"{type(leaf).__name__} among the outputs. Leave it out (use_cache=False), or return a dict."
                )
        if not floating:
            raise TypeError(f"{call}(target=of_outputs(...)): the model returns no floating-point tensor.")
        if any(leaf.ndim == 0 or leaf.shape[0] != floating[0].shape[0] for leaf in floating):
            shapes = [list(leaf.shape) for leaf in floating]
            raise ValueError(
                f"{call}(target=of_outputs(...)): expected outputs with a row for each example, got shapes {shapes}."
            )
        self.leaves = [
            _Slot(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf for leaf in leaves
        ]
        return torch.cat([leaf.flatten(1) if leaf.ndim > 1 else leaf.unsqueeze(1) for leaf in floating], 1)

    def at(self, call: str, examples: int, rows: Rows) -> BuiltTarget:
        return self

    def score(self, call: str, output: Tensor) -> Tensor:
        """[N, the sum of the outputs' sizes] -> [N]"""
        sizes = [leaf.size for leaf in self.leaves if isinstance(leaf, _Slot)]
        parts = iter(output.split(sizes, 1))
        leaves = [leaf.filled(next(parts)) if isinstance(leaf, _Slot) else leaf for leaf in self.leaves]
        return self.parts["function"](pytree.tree_unflatten(leaves, self.structure))

    def fresh(self) -> "of_outputs":
        """The same target, for one question: what it notes of the outputs is of one call."""
        return of_outputs(self.parts["function"])


class _Slot:
    """The place of an output among those that are joined."""

    def __init__(self, value: Tensor) -> None:
        self.shape, self.dtype = value.shape[1:], value.dtype
        self.size = math.prod(self.shape)

    def filled(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape[0], *self.shape).to(self.dtype)
