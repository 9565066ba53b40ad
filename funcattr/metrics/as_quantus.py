"""Methods in the form in which Quantus calls them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..sampling.loops import wide


def as_quantus(method: Callable[..., Any], **options: Any) -> Callable[..., np.ndarray]:
    """A method as the `explain_func` of Quantus's measures: arrays in, arrays out.

    The model is that which Quantus hands on, randomised or not. It is not changed: no flag, no hook, no gradient. The
    inputs go to the device and the dtype of its parameters.

    Args:
        method: `(model, x, target, **options) -> attributions`, such as `gradient`, or a function that makes a map of
            them: `lambda model, x, target: maps.sum(gradient(model, x, target))`.
        options: More keywords of the method. Quantus's `explain_func_kwargs` come on top; of them `device` is left out,
            for the model is where it is.

    Returns:
        `explain_func(model, inputs, targets, **kwargs) -> attributions`, in single precision at least. It can be
        pickled if the method can.

    Raises:
        TypeError: Once called, if the model is not of PyTorch, or the method returns anything but one tensor.

    Example:
        >>> import numpy as np, torch, funcattr
        >>> explain = funcattr.metrics.as_quantus(funcattr.integrated_gradients, steps=20)
        >>> explain(model=torch.nn.Linear(3, 2), inputs=np.ones((4, 3)), targets=np.zeros(4, dtype=int)).shape
        (4, 3)

    References:
        Hedström et al., 2023, arXiv:2202.06861 (Quantus).
    """
    return partial(_explained, method, options)


def _explained(
    method: Callable[..., Any],
    options: dict[str, Any],
    model: Any,
    inputs: np.ndarray,
    targets: np.ndarray | None,
    **more: Any,
) -> np.ndarray:
    if not isinstance(model, nn.Module):
        raise TypeError(f"as_quantus(...)(model=...): expected a module of PyTorch, got {type(model).__name__}.")
    own = next((p for p in model.parameters() if p.is_floating_point()), None)
    x = torch.from_numpy(np.array(inputs))  # a copy: Quantus's own may be read-only views
    target = None if targets is None else torch.from_numpy(np.array(targets))
    if own is not None:
        x = x.to(own.device, own.dtype if x.is_floating_point() else x.dtype)
        target = None if target is None else target.to(own.device)
    given = {name: value for name, value in {**options, **more}.items() if name != "device"}
    found = method(model, x, target, **given)
    if not isinstance(found, Tensor):
        raise TypeError(f"as_quantus(method=...): expected one tensor of attributions, got {type(found).__name__}.")
    return found.detach().to("cpu", wide(found.dtype)).numpy()
