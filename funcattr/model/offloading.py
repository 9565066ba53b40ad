"""Parameters that accelerate keeps off a module's device, in memory or on disk, and loads when the module runs."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from .._torch import outside_the_pass


def has_device_hooks(module: Any) -> bool:
    """Whether accelerate moves a module's inputs to where it computes."""
    return isinstance(module, nn.Module) and "_hf_hook" in vars(module)


def is_offloading(hook: Any) -> bool:
    """Whether a hook of accelerate's loads a module's parameters before its forward, and drops them after."""
    kind = getattr(sys.modules.get("accelerate.hooks"), "AlignDevicesHook", None)
    return kind is not None and isinstance(hook, kind) and bool(hook.offload)


def offloaded_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor, Callable[[], Tensor]]]:
    """The tensors that a module's hooks load: whose they are, their names there, what stands for them, and a loader."""
    outer: Any = vars(module).get("_hf_hook")
    for hook in getattr(outer, "hooks", (outer,)):
        if not is_offloading(hook):
            continue
        tables = module.named_parameters, *((module.named_buffers,) if hook.offload_buffers else ())
        for table in tables:
            for path, tensor in table(recurse=hook.place_submodules):
                if tensor.is_meta:
                    owner, _, name = path.rpartition(".")
                    yield module.get_submodule(owner), name, tensor, partial(_loaded, hook, path, tensor)


def _loaded(hook: Any, path: str, like: Tensor) -> Tensor:
    with outside_the_pass():
        return hook.weights_map[path].to(device=hook.execution_device, dtype=like.dtype, copy=True)
