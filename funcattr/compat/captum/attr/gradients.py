"""Saliency, gradient times input, guided backpropagation, deconvolution and guided Grad-CAM, as in Captum."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import funcattr

from .attribution import Given, GradientAttribution, LayerAttribution, require_module
from .layers import LayerGradCam


class Saliency(GradientAttribution):
    """The gradient's absolute value; with `abs=False` the gradient."""

    def attribute(self, inputs: Any, target: Any = None, abs: bool = True, additional_forward_args: Any = None) -> Any:
        """The attributions, structured and shaped as the inputs."""
        given = Given.of(inputs, target, additional_forward_args)
        found = funcattr.gradient(self.forward_func, given.x, **given.every)
        return given.result(tuple(g.abs() for g in found) if abs else found)


class InputXGradient(GradientAttribution):
    """The input times the gradient."""

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """The attributions, structured and shaped as the inputs."""
        given = Given.of(inputs, target, additional_forward_args)
        return given.result(funcattr.input_x_gradient(self.forward_func, given.x, **given.every))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Yes: attributions are contributions."""
        return True


class ModifiedReluGradientAttribution(GradientAttribution):
    """The base of gradients with another rule at relus."""

    _method: Callable[..., Any]

    def __init__(self, model: nn.Module) -> None:
        require_module(self, model)
        super().__init__(model)
        self.model = model

    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """The attributions, structured and shaped as the inputs."""
        given = Given.of(inputs, target, additional_forward_args)
        return given.result(type(self)._method(self.model, given.x, **given.every))


class GuidedBackprop(ModifiedReluGradientAttribution):
    """Guided backpropagation."""

    _method = staticmethod(funcattr.guided_backprop)


class Deconvolution(ModifiedReluGradientAttribution):
    """Deconvolution."""

    _method = staticmethod(funcattr.deconvnet)


class GuidedGradCam(GradientAttribution):
    """Guided backpropagation, masked by the rectified Grad-CAM map of a layer."""

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: Any = None) -> None:
        super().__init__(model)
        self.model = model
        self.grad_cam, self.guided_backprop = LayerGradCam(model, layer, device_ids), GuidedBackprop(model)

    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs; an empty tensor for an input that no map fits."""
        given = Given.of(inputs, target, additional_forward_args)
        asked = {"target": target, "additional_forward_args": additional_forward_args}
        cam = self.grad_cam.attribute(
            given.x, **asked, attribute_to_layer_input=attribute_to_layer_input, relu_attributions=True
        )
        details = self.guided_backprop.attribute(given.x, **asked)
        found = []
        for detail in details:
            if cam.ndim != detail.ndim or cam.ndim < 3:
                warnings.warn(
                    f"GuidedGradCam: the layer's map of shape {list(cam.shape)} fits no input of shape "
                    f"{list(detail.shape)}; its attributions are an empty tensor.",
                    stacklevel=2,
                )
                found.append(torch.empty(0))
                continue
            found.append(detail * LayerAttribution.interpolate(cam, tuple(detail.shape[2:]), interpolate_mode))
        return given.result(tuple(found))
