"""Tracked tensors while their pass runs: a function that reaches them past the recorder, in another thread, raises.

Torch function modes are a thread's own. The class of a tensor is seen by every thread, so tracked tensors have one of
their own until the pass ends.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from .._torch import without_subclass_function
from ..calls.operations import READS, known


class Followed(Tensor):
    """A tracked tensor of the thread `owner`.

    Attributes:
        refusals: For each running pass, the innermost last: makes the error for what it cannot see.
    """

    owner: int
    refusals: list[Callable[[str], Exception]]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if has_own_functions(types):
            return NotImplemented  # the other class has its own way
        with without_subclass_function():
            here = threading.get_ident() == cls.owner
            if not here and not known(func).is_query and cls.refusals:
                raise cls.refusals[-1](f"{known(func).name} of a value that depends on the root, in another thread")
            out = func(*args, **(kwargs or {}))
        if not here and cls.refusals and (isinstance(out, Tensor) or known(func).name in READS):
            raise cls.refusals[-1](f"{known(func).name} of a value that depends on the root, in another thread")
        return out


def has_own_functions(types: Iterable[type]) -> bool:
    """Whether one of some classes of tensors has functions of its own."""
    return any(kind not in (Tensor, nn.Parameter) and not issubclass(kind, Followed) for kind in types)


_THREAD = threading.local()


def followed() -> type[Followed]:
    """The class of the tensors that the passes of this thread follow."""
    kind: type[Followed] | None = getattr(_THREAD, "kind", None)
    if kind is None:
        attributes = {"owner": threading.get_ident(), "refusals": []}
        kind = _THREAD.kind = type("Followed", (Followed,), attributes)
    return kind
