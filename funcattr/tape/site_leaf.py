"""Leaves of autograd in place of the values at sites, for gradients that nobody differentiates."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .._torch import pytree
from .._torch import version as tensor_version
from ..calls.adjoints import is_differentiable, leaf_of
from ..model.other_names import OtherNames
from ..model.sites import SiteMode


def only_tensor(value: Any, call: str, name: str) -> tuple[list[Any], pytree.TreeSpec, int]:
    """The leaves of a site's value, their structure, and the place of the one floating-point tensor among them."""
    leaves, spec = pytree.tree_flatten(value)
    found = [i for i, leaf in enumerate(leaves) if is_differentiable(leaf)]
    if len(found) != 1:
        raise ValueError(
            f"{call}(layer={name!r}): expected a site with one floating-point tensor, got {len(found)}. "
            "Name a submodule whose output is one tensor."
        )
    return leaves, spec, found[0]


class SiteLeaves(SiteMode):
    """Gives the model copies of tensors of its own for the values at sites, so that derivatives end there.

    Attributes:
        values: Site to its value, once it is passed.
        ends: Site to the tensor with the same value whose derivative is asked for: a leaf, or behind another of the
            sites a node, through which that one's derivative goes on.
    """

    def __init__(self, sites: tuple[str, ...], call: str) -> None:
        super().__init__(sites)
        self.values: dict[str, Tensor] = {}
        self.ends: dict[str, Tensor] = {}
        self._call = call
        self._watched: list[tuple[Tensor, int | None]] = []
        self._others = OtherNames()
        self._is_bypassed = False

    def visit(self, value: Any, name: str) -> Any:
        leaves, spec, place = only_tensor(value, self._call, name)
        before = leaves[place]
        self.values[name] = before.detach()
        self.ends[name] = before.view_as(before) if before.requires_grad else leaf_of(self.values[name])
        leaves[place] = self.ends[name].clone()
        watched = (self.values[name], leaves[place])
        self._watched += [(t, None if t.is_inference() else tensor_version(t)) for t in watched]
        self._others.replaced(before, leaves[place], name, self.left)
        return pytree.tree_unflatten(leaves, spec)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if self._others.ran(func, args, kwargs, out, self.modules) is not None:
            self._is_bypassed = True
        return out

    def is_bypassed(self, output: Any) -> bool:
        """Whether the model wrote into a value or its copy, which the other one does not show, or read another name."""
        if self._is_bypassed or self._others.is_output(output):
            return True
        return any(before is None or tensor_version(t) != before for t, before in self._watched)
