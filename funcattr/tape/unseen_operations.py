"""Operations that no torch function mode sees, of scripted functions and C++ extensions, found by a dispatch mode.

They still reach PyTorch's dispatcher. While the model runs eagerly, a dispatch mode looks there for tracked tensors
that arrive from outside of any recorded call.
"""

from collections.abc import Container
from typing import Any

from torch import Tensor

from .._torch import TorchDispatchMode, pop_dispatch_mode, push_dispatch_mode, pytree, without_torch_function


class UnseenOperations(TorchDispatchMode):
    """Notes the first operation on a tracked tensor that comes past the recorder; recorded calls switch it off.

    Attributes:
        only_looks: That it runs each operation as it is.
    """

    only_looks = True

    def __init__(self, tracked: Container[Tensor]) -> None:
        super().__init__()
        self._tracked = tracked
        self._inside = 0
        self.unseen: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        tensors = (t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        with without_torch_function():  # the recorder has not seen this call, and shall not see it from here
            if self.unseen is None and any(t in self._tracked for t in tensors):
                # An exception would not survive TorchScript's interpreter, so the recorder asks and raises.
                self.unseen = f"{func} called from outside of Python, as in a scripted function or a C++ extension"
            return func(*args, **(kwargs or {}))

    def start(self) -> None:
        """Look, from beneath the modes that the model itself has entered since."""
        if not self._inside:  # nearly always
            push_dispatch_mode(self)
            return
        inner = [pop_dispatch_mode() for _ in range(self._inside)]
        for mode in (self, *reversed(inner)):
            push_dispatch_mode(mode)

    def pause(self) -> None:
        """Do not look until `start`."""
        mode = pop_dispatch_mode()
        if mode is self:  # nearly always
            self._inside = 0
            return
        inner = [mode]
        while (mode := pop_dispatch_mode()) is not self:
            inner.append(mode)
        self._inside = len(inner)
        for mode in reversed(inner):
            push_dispatch_mode(mode)
