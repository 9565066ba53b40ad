"""A leaf of autograd in place of a site's value, for gradients that nobody differentiates."""

from typing import Any

from torch import Tensor

from .._torch import pytree
from .._torch import version as tensor_version
from ..calls.adjoints import is_differentiable, leaf_of
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


class SiteLeaf(SiteMode):
    """Gives the model a leaf's copy for the value at a site.

    Attributes:
        value, leaf: The site's value, and the leaf with the same; set once the site is passed.
    """

    value: Tensor
    leaf: Tensor

    def __init__(self, site: str, call: str) -> None:
        super().__init__((site,))
        self._call = call
        self._watched: list[tuple[Tensor, int | None]] = []

    def visit(self, value: Any, name: str) -> Any:
        leaves, spec, place = only_tensor(value, self._call, name)
        self.value = leaves[place].detach()
        self.leaf = leaf_of(self.value)
        leaves[place] = self.leaf.clone()
        self._watched = [(t, None if t.is_inference() else tensor_version(t)) for t in (self.value, leaves[place])]
        return pytree.tree_unflatten(leaves, spec)

    def is_written(self) -> bool:
        """Whether the model has since written into the value or its copy, which the other one does not show."""
        return any(before is None or tensor_version(t) != before for t, before in self._watched)
