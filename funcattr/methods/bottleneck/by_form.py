"""Torch functions run for the forms of their results alone: on tensors without values, of which nothing is computed."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._torch import (
    is_plain,
    memory_of,
    outside_transforms,
    pytree,
    unwrapped,
    without_memory,
    without_torch_function,
)
from ...calls.operations import OF_FORM, known, writes
from ...tape.tracked import ByIdentity


class ValuesNeededError(BaseException):
    """What a form does not tell is asked for. No Exception, which a model may catch."""


class Form(Tensor):
    """A tensor of which there is the form. What asks for more raises, and is noted by its `runner`.

    Attributes:
        runner: Who has made it.
        meta: The same on the device "meta", by which torch tells the forms of results.
    """

    runner: "ByForm"
    meta: Tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        runner = next(leaf.runner for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Form))
        return runner.dispatched(func, args, kwargs or {})


class ByForm:
    """Runs torch functions for the forms of their results, and gives Python nothing that depends on values.

    Real tensors that a function is given are taken by their forms. What asks for more than a form raises, and so does
    what a form may not tell: a dtype under autocast, a write into a real tensor, a layout that is not strided.

    Args:
        device: That of the tensors.

    Attributes:
        is_enough: Whether nothing has asked for values. If something has, what real tensors alone go into runs as ever:
            an exception there would end what a model keeps between its calls, such as a generator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.is_enough = device, True
        self._forms = ByIdentity[Form]()
        self._kept: list[Any] = []
        self._thread: int | None = None

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The result of a function, without values, and its arguments as it was given them."""
        told = known(func)
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = writes(told, args, kwargs)
        if not any(form_of(t) is not None for t in tensors):
            self.is_enough = self.is_enough and not written
            if not tensors or told.is_query or not self.is_enough:
                return func(*args, **kwargs), (args, kwargs)
        unclear = torch.is_autocast_enabled(self._device.type) or any(form_of(t) is None for t in written)
        if unclear or not self.is_enough:
            raise self.values_needed()
        args, kwargs = given = pytree.tree_map_only(Tensor, self._in_place_of, (args, kwargs))
        self._thread = threading.get_ident()
        try:
            result = func(*args, **kwargs)
        except BaseException:  # which the model may catch
            self.is_enough = False
            raise
        finally:
            self._thread = None
        leaves = pytree.tree_leaves(result)
        if told.name not in OF_FORM and not all(isinstance(leaf, Tensor | None) for leaf in leaves):
            raise self.values_needed()
        return result, given

    def dispatched(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operator on forms."""
        if self._thread != threading.get_ident():
            raise self.values_needed()
        with without_torch_function():
            args, kwargs = pytree.tree_map_only(Tensor, lambda t: self._in_place_of(t).meta, (args, kwargs))
            return pytree.tree_map_only(Tensor, self._of_meta, func(*args, **kwargs))

    def require_values(self, tree: Any) -> None:
        """Raise if a tensor has no values."""
        if any(isinstance(leaf, Tensor) and form_of(leaf) is not None for leaf in pytree.tree_leaves(tree)):
            raise self.values_needed()

    def values_needed(self) -> ValuesNeededError:
        """The error to raise; it is noted, for it may be lost on its way."""
        self.is_enough = False
        return ValuesNeededError()

    def _in_place_of(self, tensor: Tensor) -> Any:
        """A tensor without values, or one for a real tensor."""
        if form_of(tensor) is not None:
            return tensor
        form = self._forms.get(tensor)
        if form is not None:
            return form
        with without_torch_function():
            plain = [tensor, *unwrapped(tensor)][-1]  # a derivative around wraps each of them
            is_tracked = tensor.requires_grad or plain.requires_grad or plain.shape != tensor.shape
            if is_tracked or not is_plain(plain) or plain.is_conj() or plain.is_neg():
                raise self.values_needed()
            with outside_transforms():
                meta = torch.empty_strided(plain.shape, plain.stride(), dtype=plain.dtype, device="meta")
                form = self._of_meta(meta)
        self._kept.append((tensor, form))  # or another tensor might get its identity
        self._forms[tensor] = form
        return form

    def _of_meta(self, meta: Tensor) -> Form:
        """The form by its tensor on the device "meta"; one for each of these."""
        before: Form | None = getattr(meta, "form", lambda: None)()
        if before is not None:
            if before.shape != meta.shape or before.stride() != meta.stride():  # reshaped in place
                raise self.values_needed()
            return before
        form: Form = without_memory(Form, meta.shape, meta.stride(), meta.dtype, self._device)
        form.runner, form.meta = self, meta
        meta.form = weakref.ref(form)  # pyright: ignore[reportAttributeAccessIssue]
        return form


def form_of(tensor: Tensor) -> Form | None:
    """The form that stands for a tensor's values, in whatever transforms wrap it; None for a tensor with values."""
    plain = [tensor, *unwrapped(tensor)][-1]
    return plain if isinstance(plain, Form) else None


def memory_of_form(form: Form) -> int:
    """A number for the memory that the tensor would have."""
    return memory_of(form.meta) or 0
