"""Attention masks that are objects, as the dense masks that they stand for."""

from collections.abc import Mapping
from typing import Any

from .._torch import dense_mask, is_mask_object
from .operations import Operation, bound


def with_dense_mask(
    operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an attention call, with a mask that every function can read."""
    mask = bound(operation, args, kwargs, "attn_mask", None)
    if mask is None or not is_mask_object(mask):
        return args, dict(kwargs)
    dense = dense_mask(mask, bound(operation, args, kwargs, "query", None).device)
    return tuple(dense if v is mask else v for v in args), {k: dense if v is mask else v for k, v in kwargs.items()}
