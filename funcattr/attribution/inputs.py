"""Inputs as people hand them over: a mapping of any kind becomes a dict, and its integer tensors constants."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .._torch import pytree


def read_inputs(x: Any) -> tuple[Any, dict[str, Tensor]]:
    """The inputs that are attributed to, and those that go along as constants.

    Token ids and masks in a mapping (transformers' `BatchEncoding`, say) have no derivative and no baseline: beside
    floating-point inputs they are constants. Where nothing is floating point, all are inputs, of a method with a site.

    Args:
        x: Inputs: a tensor, a tuple of tensors, or a mapping of them.

    Returns:
        The inputs, a mapping as a dict; and the constants by name.
    """
    if not isinstance(x, Mapping):
        return x, {}
    values = as_dict(x)
    constants = {name: value for name, value in values.items() if _is_whole(value)}
    players = {name: value for name, value in values.items() if name not in constants}
    has_derivative = any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(players))
    return (players, constants) if has_derivative else (values, {})


def as_dict(value: Any) -> Any:
    """A mapping of any kind as a dict, which `pytree` knows; all else as it is."""
    return dict(value) if isinstance(value, Mapping) else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
