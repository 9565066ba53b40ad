"""The options of a tunnel's method: which of their tensors have a row for each example, and go with its copies."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..._torch import pytree
from ...attribution.example_dims import Layout
from ...attribution.inputs import as_dict
from ...attribution.targets import BuiltTarget, target_at
from ...batch import NO_DIM, Dim, Rows, back, moved

LIKE_INPUTS = frozenset({"against", "attributions", "baseline", "feature_mask", "sigma"})
"""Options of the package's methods that broadcast to x."""
NOISE = {"noise_tunnel": 1, "iba": 2, "iba_search": 2}
"""Methods with pre-drawn noise, and the dimension of it that holds examples."""
WITHOUT_EXAMPLES = frozenset({"coalitions", "conditions", "masks", "permutations"})
"""Options of the package's methods with tensors that have no row for an example."""
_OF_TUNNEL = ("noise", "sigma")


class Copies(NamedTuple):
    """Noisy copies of the examples, which are neighbours.

    Attributes:
        x: The inputs, with their examples in front. [N, ...]
        examples: N.
        rows: The copies: how many of each, or of those at some rows.
        layout: Where the user's tensors have their examples, if not in front.
    """

    x: Any
    examples: int
    rows: Rows
    layout: Layout | None

    @property
    def copied(self) -> int:
        """How many examples have copies."""
        return self.examples if self.rows.few is None else len(self.rows.few)

    def options(self, method: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
        """The options of a method for the copies.

        `args` and `kwargs` have a row for each example where they have as many rows. An option of the package's methods
        is what it is there; with others, each tensor of N rows is one for each example. What lies inside of an object
        is for all.

        Raises:
            ValueError: If an option of another method has the name of one of the package's, and could be either.
        """
        if self.rows.is_batch:
            return options
        at_site = options.get("noise_layer") is not None
        return {name: self._option(method, name, value, at_site) for name, value in options.items()}

    def _option(self, method: Callable[..., Any], name: str, value: Any, at_site: bool) -> Any:
        if name in ("args", "kwargs"):
            return self._inputs(name, value)
        if isinstance(value, BuiltTarget):
            return target_at("noise_tunnel", value, self.examples, self.rows)
        owner = _owner(method, name)
        if name == "noise" and owner in NOISE:
            return pytree.tree_map_only(Tensor, lambda e: self._along(e, NOISE[owner]), value)
        if name in LIKE_INPUTS and not (name == "sigma" and at_site):
            return self._like_inputs(name, value, owner is not None)
        is_known = name in WITHOUT_EXAMPLES or name in LIKE_INPUTS or name == "noise"
        if is_known and (owner is None or name == "sigma") and self.examples > 1:
            self._require_other_rows(name, value)
        if is_known or owner is not None:
            return value
        return pytree.tree_map_only(Tensor, lambda v: self._along(v, 0), value)

    def _inputs(self, name: str, value: Any) -> Any:
        if self.layout is None or not value:
            return self.rows.of(value, self.examples)
        dims = self.layout.args if name == "args" else self.layout.kwargs
        return self.layout.along_as_given(value, dims, self.examples, self.rows.at)

    def _like_inputs(self, name: str, value: Any, is_of_package: bool) -> Any:
        """An option that broadcasts to x: one for each example where its dimension beside that of x has N."""
        value = as_dict(value)
        dims = pytree.tree_map(lambda _: 0, self.x) if self.layout is None else self.layout.x
        if isinstance(value, Tensor):
            places = {_beside(value, *at) for at in zip(*map(pytree.tree_leaves, (self.x, dims)), strict=True)}
            if len(places) > 1:
                raise ValueError(
                    f"noise_tunnel({name}=...): expected it structured as x, whose inputs have different ranks, got "
                    f"one tensor of shape {list(value.shape)}."
                )
            return self._placed(name, value, places.pop(), is_of_package)
        if not isinstance(value, tuple | dict) or pytree.tree_structure(value) != pytree.tree_structure(self.x):
            return value  # a number, or what the method itself will refuse

        def leaf(part: Any, like: Tensor, dim: Dim) -> Any:
            return (
                self._placed(name, part, _beside(part, like, dim), is_of_package) if isinstance(part, Tensor) else part
            )

        return pytree.tree_map(leaf, value, self.x, dims)

    def _placed(self, name: str, value: Tensor, place: int, is_of_package: bool) -> Tensor:
        if place < 0:
            if not is_of_package and self.examples > 1:
                self._require_other_rows(name, value)
            return value
        return self._along(value, place)

    def _along(self, value: Tensor, dim: int) -> Tensor:
        """A tensor repeated with the examples that it has in a dimension, if it has as many there."""
        if value.ndim <= dim or value.shape[dim] != self.examples:
            return value
        return back(self.rows.of(moved(value, dim), self.examples), dim)

    def _require_other_rows(self, name: str, value: Any) -> None:
        if any(isinstance(v, Tensor) and v.shape[:1] == (self.examples,) for v in pytree.tree_leaves(value)):
            raise ValueError(
                f"noise_tunnel({name}=...): its {self.examples} rows may be one for each of {self.examples} examples, "
                f"or not. If not, hold it in the method: lambda x, target: method(x, target, {name}=...). If so, run "
                "each noisy copy of the batch by itself: chunk_size=1."
            )


def _beside(value: Tensor, like: Tensor, dim: Dim) -> int:
    """The dimension of a tensor that broadcasts to x which lies beside that of the examples; below 0 if none does."""
    return -1 if dim == NO_DIM else int(dim) % like.ndim - (like.ndim - value.ndim)


def _owner(method: Callable[..., Any], name: str) -> str | None:
    """The method of the package that an option is of, inside the tunnels around it; None for any other function."""
    function = method.func if isinstance(method, partial) else method
    function = getattr(function, "__wrapped__", function)
    where = getattr(function, "__module__", None) or ""
    if not where.startswith(("funcattr.methods.", "funcattr.metrics.")):
        return None
    called = function.__name__
    inner = next(iter(method.args), None) if isinstance(method, partial) else None
    return _owner(inner, name) if called == "noise_tunnel" and name not in _OF_TUNNEL and callable(inner) else called
