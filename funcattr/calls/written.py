"""The tensors whose memory a call writes, those too that its name does not tell of."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from .operations import UPDATES, bound, known, writes

_TABLES = frozenset(["embedding", "embedding_bag"])
"""Functions that shorten the rows of a table which they read, if they are given `max_norm`."""
_HANDING_OUT = frozenset(["numpy", "__array__", "__dlpack__"])
"""Functions that hand a tensor's memory to others, who may write it."""


@lru_cache(maxsize=4096)
def may_write(func: Callable[..., Any]) -> bool:
    """Whether some calls of a torch function write into a tensor that they are given."""
    told = known(func)
    name = told.operation.name
    by_name = name in UPDATES or name in _TABLES or told.name in _HANDING_OUT
    return told.is_write or bool(told.written) or by_name or "inplace" in told.operation.parameters


def written(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that a call writes into."""
    told = known(func)
    name = told.operation.name
    yield from writes(told, args, kwargs)
    if told.name in _HANDING_OUT:
        yield args[0]
    elif name in UPDATES and bound(told.operation, args, kwargs, *UPDATES[name]):
        statistics = (bound(told.operation, args, kwargs, name, None) for name in ("running_mean", "running_var"))
        yield from (t for t in statistics if t is not None)
    elif name in _TABLES and kwargs.get("max_norm", args[3] if len(args) > 3 else None) is not None:
        yield bound(told.operation, args, kwargs, "weight", args[1] if len(args) > 1 else None)
