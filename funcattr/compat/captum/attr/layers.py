"""Attributions of a layer's value: activation, gradients, Grad-CAM, conductance and influence, as in Captum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import funcattr

from .attribution import Given, GradientAttribution, LayerAttribution, as_baseline
from .located_layers import LocatedLayers, located
from .paths import path_options


class LayerActivation(LayerAttribution):
    """The value at a layer, or at each of several."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Yes, in Captum's words: the value is no slope."""
        return True

    def attribute(
        self, inputs: Any, additional_forward_args: Any = None, attribute_to_layer_input: bool = False
    ) -> Any:
        """The values; a tuple where a layer gives one, a list where several layers were given."""
        given = Given.of(inputs, None, additional_forward_args)
        with located(self.forward_func, self.layer, attribute_to_layer_input) as layers, torch.no_grad():
            values = layers.read(*given.inputs)
            flat = [t for value in values for t in (value if isinstance(value, tuple) else (value,))]
            return layers.structured(values, [t.detach() for t in flat])


class LayerGradientAttribution(LayerAttribution, GradientAttribution):
    """The base of layer methods that take gradients."""

    def _each(
        self,
        given: Given,
        of_input: bool,
        method: Callable[[LocatedLayers, list[str]], dict[str, Tensor]],
        grad_kwargs: Any = None,
        without_slope: Callable[[Tensor], Tensor] = torch.zeros_like,
    ) -> Any:
        """A method's results for each tensor at the layers, structured as their values.

        Args:
            given: What the method is given.
            of_input: Whether what the layers are given is meant.
            method: `(layers, sites) -> results by site`.
            grad_kwargs: With `materialize_grads` values that the output does not depend on have slopes of zero.
            without_slope: The result for such a value.
        """
        with located(self.forward_func, self.layer, of_input) as layers:
            values = layers.read(*given.inputs)
            if not (grad_kwargs or {}).get("materialize_grads"):
                return layers.each(values, lambda names: method(layers, names))
            flat = [t for value in values for t in (value if isinstance(value, tuple) else (value,))]

            def one_by_one(names: list[str]) -> dict[str, Tensor]:
                found = dict[str, Tensor]()
                for name, value in zip(names, flat, strict=True):
                    try:
                        found |= method(layers, [name])
                    except funcattr.UntrackedPathError:
                        found[name] = without_slope(value)
                return found

            return layers.each(values, one_by_one)


class LayerGradientXActivation(LayerGradientAttribution):
    """The value at a layer times its gradient; with `multiply_by_inputs=False` the gradient."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | list[nn.Module],
        device_ids: Any = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs, self.memory_efficient = multiply_by_inputs, memory_efficient

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether gradients are multiplied by the value."""
        return self._multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Any = None,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value; a list for several layers."""
        given = Given.of(inputs, target, additional_forward_args)
        method = funcattr.input_x_gradient if self.multiplies_by_inputs else funcattr.gradient

        def at(layers: LocatedLayers, names: list[str]) -> Any:
            return method(layers.model, given.x, layer=names, **given.every)

        return self._each(given, attribute_to_layer_input, at, grad_kwargs)


class LayerGradCam(LayerGradientAttribution):
    """Grad-CAM, by default with both signs: a layer's channels, weighted by their mean gradient."""

    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Any = None,
    ) -> Any:
        """The map, [N, 1, *spatial] at the layer's size; without `attr_dim_summation` a map for each channel."""
        given = Given.of(inputs, target, additional_forward_args)

        def one(features: Tensor, g: Tensor) -> Tensor:
            maps = (g.mean(tuple(range(2, g.ndim)), keepdim=True) if g.ndim > 2 else g) * features
            maps = maps.sum(1, keepdim=True) if attr_dim_summation else maps
            return maps.clamp(min=0) if relu_attributions else maps

        def at(layers: LocatedLayers, names: list[str]) -> dict[str, Tensor]:
            found = funcattr.attribute(layers.model, given.x, layer=names, **given.every)
            return {name: one(found.root[name], found.cotangent[name]) for name in names}

        return self._each(given, attribute_to_layer_input, at, grad_kwargs, lambda h: one(h, torch.zeros_like(h)))


class LayerConductance(LayerGradientAttribution):
    """How much of the output's rise from a baseline flows through each unit of a layer."""

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Yes: attributions are contributions."""
        return True

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Any = None,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value, and how far their sum is off. [N]"""
        given = Given.of(inputs, target, additional_forward_args)
        # Captum sums over the layer's values by whatever rule. The derivative by a path, which the package takes at the
        # nodes of these two, is as far off as a step where the layer has a kink.
        sums = "riemann_trapezoid" if method in ("gausslegendre", "riemann_middle") else method
        options = path_options(n_steps, sums, internal_batch_size, given.examples)
        start: Any = as_baseline(baselines, given.x)

        def at(layers: LocatedLayers, names: list[str]) -> dict[str, Tensor]:
            return funcattr.layer_conductance(
                layers.model, given.x, layer=names, baseline=start, **given.every, **options
            )

        found = self._each(given, attribute_to_layer_input, at, grad_kwargs)
        if not return_convergence_delta:
            return found
        return found, self.compute_convergence_delta(found, start, given.x, given.target, given.args)


class InternalInfluence(LayerGradientAttribution):
    """The mean gradient at a layer, along the line from a baseline to the input."""

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Any = None,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value."""
        given = Given.of(inputs, target, additional_forward_args)
        options = path_options(n_steps, method, internal_batch_size, given.examples)
        start: Any = as_baseline(baselines, given.x)

        def at(layers: LocatedLayers, names: list[str]) -> dict[str, Tensor]:
            return funcattr.internal_influence(
                layers.model, given.x, layer=names, baseline=start, **given.every, **options
            )

        return self._each(given, attribute_to_layer_input, at, grad_kwargs)
