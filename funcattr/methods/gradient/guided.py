"""Guided backpropagation, deconvolution, and guided Grad-CAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..._torch import pytree
from ...attribution.attribute import pulled
from ...attribution.each_layer import at_layers, for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions
from ...attribution.question import Inputs, Layer, Model, ask, ask_at_layers
from ...attribution.targets import Target
from ...maps import resize
from ...rules.composites import rulebook_of
from .grad_cam import cam_of


@at_layers
def guided_backprop(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """The gradient, with negative cotangents blocked at every relu.

    At y = max(x, 0):  p_x = p_y 1[x > 0] 1[p_y > 0]

    Every spelling of relu is seen (modules, functions, methods, in-place, `clamp(min=0)`, relu6, hardtanh from 0).
    Other nonlinearities keep their derivative; a model without any relu gets a warning.

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`.

    Returns:
        Attributions, structured and shaped as `x` (as the site's value with `layer`). Nothing is conserved.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`.
        UnsupportedOperationError: If a relu is hidden in a fused operation, or the model cannot be seen through.

    Example:
        >>> import torch, funcattr
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> funcattr.guided_backprop(lambda x: torch.relu(x) @ torch.tensor([[3.0], [-1.0]]), x, target=0)
        tensor([[3., 0.]])

    References:
        Springenberg et al., 2015, arXiv:1412.6806, section 3.4.
    """
    question = ask_at_layers(
        "guided_backprop",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    return question.as_given(pulled(question, PassOptions(rulebook_of("guided_backprop", "guided"))).cotangent)


@at_layers
def deconvnet(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """The gradient, with every relu's derivative replaced by a relu of the cotangent.

    At y = max(x, 0):  p_x = max(p_y, 0)

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`.

    Returns:
        Attributions, structured and shaped as `x` (as the site's value with `layer`). Nothing is conserved.

    Raises:
        ValueError, TypeError, UntrackedPathError, UnsupportedOperationError: As in `guided_backprop`.

    Example:
        >>> import torch, funcattr
        >>> x = torch.tensor([[-1.0, 2.0]])
        >>> funcattr.deconvnet(lambda x: torch.relu(x) @ torch.tensor([[3.0], [-1.0]]), x, target=0)
        tensor([[3., 0.]])

    References:
        Zeiler and Fergus, 2014, arXiv:1311.2901, section 2.1.
    """
    question = ask_at_layers(
        "deconvnet", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(pulled(question, PassOptions(rulebook_of("deconvnet", "deconvnet"))).cotangent)


@for_each_layer
def guided_grad_cam(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer,
    channel_dim: int | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
    mode: str = "bilinear",
) -> Inputs:
    """Guided backpropagation at the input, masked by the Grad-CAM map of a layer.

    A = guided(x) * resize(grad_cam(layer))

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`. Each input is [N, C, *spatial] once its
            examples are in front.
        layer: Site of the Grad-CAM map, usually the last convolution.
        channel_dim: Dimension of the channels at the layer, as in `grad_cam`.
        mode: Interpolation of the map to the input's size, as in `maps.resize`.

    Returns:
        Attributions, structured and shaped as `x`. Nothing is conserved.

    Raises:
        ValueError, TypeError, UntrackedPathError, UnsupportedOperationError: As in `guided_backprop` and `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.guided_grad_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="0").shape
        torch.Size([5, 1, 4, 4])

    References:
        Selvaraju et al., 2017, arXiv:1610.02391, section 3.2.
    """
    question = ask(
        "guided_grad_cam",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    cam = cam_of(question, channel_dim)
    of_input = question._replace(layer=None)
    details = pulled(of_input, PassOptions(rulebook_of("guided_grad_cam", "guided"))).cotangent

    def masked(guided: Tensor) -> Tensor:
        if guided.ndim != cam.ndim:
            raise ValueError(
                f"guided_grad_cam(layer={question.layer!r}): the map has {cam.ndim - 2} spatial dimensions, the input "
                f"{guided.ndim - 2} (shape {list(guided.shape)}). Name a layer with the input's dimensions."
            )
        return guided * resize(cam, guided.shape[2:], mode=mode)

    return of_input.as_given(pytree.tree_map(masked, details))
