"""Operations that no torch function mode sees: scripted functions, C++ extensions.

They still reach PyTorch's dispatcher. While the model runs eagerly, a dispatch mode looks there for tracked tensors
that arrive from outside of any recorded call.
"""

from collections.abc import Container
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """Notes the first operation on a tracked tensor that comes past the recorder; recorded calls switch it off."""

    def __init__(self, tracked: Container[Tensor]) -> None:
        super().__init__()
        self._tracked = tracked
        self.unseen: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        tensors = (t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        if self.unseen is None and any(t in self._tracked for t in tensors):
            # An exception would not survive TorchScript's interpreter, so the recorder asks and raises.
            self.unseen = f"{func} called from outside of Python, as in a scripted function or a C++ extension"
        with torch._C.DisableTorchFunction():  # the recorder has not seen this call, and shall not see it from here
            return func(*args, **(kwargs or {}))

    def start(self) -> None:
        # Pushed by hand: entering a mode by `with` also sets flags that other threads would see.
        torch._C._push_on_torch_dispatch_stack(self)

    def pause(self) -> None:
        torch._C._pop_torch_dispatch_stack(None)
