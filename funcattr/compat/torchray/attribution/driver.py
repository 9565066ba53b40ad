"""The driver of TorchRay's backpropagation methods, `common.saliency`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .... import attribute
from .contexts import NullContext, ReLUContext, RuledContext
from .probes import live_pass, with_gradient
from .seeds import get_backward_gradient, gradient_to_saliency, resize_saliency, smoothed


def saliency(
    model: nn.Module,
    input: Tensor,
    target: Any,
    saliency_layer: str | nn.Module = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: str = "bilinear",
    smooth: float = 0,
    context_builder: Any = NullContext,
    gradient_to_saliency: Any = gradient_to_saliency,
    get_backward_gradient: Any = get_backward_gradient,
    debug: bool = False,
) -> Any:
    """A map of a backpropagation method: pseudo-gradient at a layer, reduced, resized, smoothed.

    With one of TorchRay's contexts it is `funcattr.attribute` with the context's rulebook. A context of the user's own,
    and the probes of `debug`, take a pass of the live model, which then is as it was.

    Args:
        model: A module.
        input: [N, C, H, W]
        target: What `get_backward_gradient` takes: a class, one for each example, or a cotangent of the output.
        saliency_layer: Layer at whose output the map is made, by name or as the module; '' for the input.
        resize: True for the input's size, or (width, height).
        resize_mode: As in `resize_saliency`.
        smooth: Standard deviation of a Gaussian, as a share of the map's larger side; after the resize.
        context_builder: Class of a context that changes the backward pass; None for none.
        gradient_to_saliency: `activation with its gradient in .grad -> map`.
        get_backward_gradient: `(output, target) -> cotangent of the output`.
        debug: Whether probes of all modules are returned too.

    Returns:
        The map [N, 1, H, W]; with `debug` the map and the probes by the modules' names.

    Raises:
        FuncattrError: If there is no such layer, or the model cannot be seen through.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> saliency(model, torch.rand(2, 3, 8, 8), 1, resize=(5, 4)).shape
        torch.Size([2, 1, 4, 5])
    """
    context = context_builder or NullContext
    is_known = isinstance(context, type) and issubclass(context, RuledContext) and not issubclass(context, ReLUContext)
    activation, probes = None, None
    if debug or not is_known:
        activation, probes = live_pass(model, input, target, saliency_layer, context, get_backward_gradient, debug)
    if is_known:
        score = score_of(get_backward_gradient, target)
        found = attribute(model, input, score, rules=context.rulebook, layer=saliency_layer or None)
        activation = with_gradient(found.root, found.cotangent)
    assert activation is not None
    map = resize_saliency(input, gradient_to_saliency(activation), resize, resize_mode)
    if smooth:
        map = smoothed(map, smooth * max(map.shape[2:]), "replicate")
    return (map, probes) if debug else map


def score_of(get_backward_gradient: Any, target: Any) -> Callable[[Tensor], Tensor]:
    """The number of each example whose gradient at the output is the pseudo-gradient that a pass starts with."""
    return lambda output: (output * get_backward_gradient(output, target).detach()).flatten(1).sum(1)
