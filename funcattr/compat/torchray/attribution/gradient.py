"""The gradient method, as `torchray.attribution.gradient`."""

from typing import Any

from .driver import saliency


def gradient(*args: Any, context_builder: Any = None, **kwargs: Any) -> Any:
    """The gradient method, by the arguments of `common.saliency`."""
    return saliency(*args, context_builder=context_builder, **kwargs)
