"""Edits: the values at some sites are replaced by functions of them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import is_offloading_hook, pytree, saved_hooks
from ..errors import RunAgainError
from .other_names import OtherNames
from .sharding import is_packing
from .sites import SiteMode, site_modes


class CallEdit:
    """An edit, `function(value, notes) -> value`, that leaves notes for later ones of the same call of the model."""

    def __init__(self, function: Callable[[Any, dict[str, Any]], Any]) -> None:
        self.function = function


def edited(edit: Any, value: Any, notes: dict[str, Any]) -> Any:
    """What an edit, a function or a `CallEdit`, makes of a value."""
    return edit.function(value, notes) if isinstance(edit, CallEdit) else edit(value)


class Editor(SiteMode):
    """Replaces the values at some sites by a function of them.

    Args:
        edits: The functions by site.
        held: Whether the model may hold tensors by which somebody differentiates.

    Attributes:
        notes: What the edits of this call have noted.
    """

    def __init__(self, edits: Mapping[str, Any], held: bool = True) -> None:
        super().__init__(edits)
        self.edits, self._held = edits, held
        self.notes: dict[str, Any] = {}
        # Dynamo cannot trace where memory lies.
        self._others = None if torch.compiler.is_dynamo_compiling() else OtherNames()
        self._saved_hooks = None if self._others is None else saved_hooks()

    def visit(self, value: Any, name: str) -> Any:
        new = edited(self.edits[name], value, self.notes)
        if self._others is not None:
            self._require_one_run(name, new)
        if self._others is not None and new is not value:
            self._others.replaced(value, new, name, self.left)
        return new

    def _require_one_run(self, name: str, new: Any) -> None:
        """Raise where autograd would run this part of the model again in its reverse pass, without the edit."""
        hooks = saved_hooks()
        if hooks is None or hooks == self._saved_hooks or is_packing(hooks[0]) or is_offloading_hook(hooks[0]):
            return
        has_graph = self._held or any(isinstance(t, Tensor) and t.requires_grad for t in pytree.tree_leaves(new))
        if torch.is_grad_enabled() and has_graph and not any(mode.saves for mode in site_modes()):
            raise RunAgainError(
                f"edit: {name!r} lies in a checkpointed part, which autograd would run again in its reverse pass, "
                "without the edit. Call the model under torch.no_grad(), take the derivative by funcattr.gradient or "
                "funcattr.vjp, or leave the checkpointing out."
            )

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if self._others is not None:
            self._others.refuse("edit", self.path, self._others.ran(func, args, kwargs, out, self.modules))
        return out

    def finished(self, output: Any) -> Any:
        return output if self._others is None else self._others.finished("edit", output)
