"""Attributions of a layer's value by its difference to a baseline's: paths, DeepLIFT and ablation, as in Captum."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import funcattr

from .ablation import FeaturePermutation
from .attribution import Given, LayerAttribution, PerturbationAttribution, as_rows, as_tuple, full_baseline
from .deep_lift import DeepLift, beside_rows, mean_of_copies, multiplied
from .layers import LayerGradientAttribution
from .located_layers import LocatedLayers, located
from .paths import RandomLines, path_options
from .perturbation import as_covers, as_masks, perturbed


def _flat(values: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor for value in values for tensor in as_tuple(value))


class LayerPathAttribution(LayerGradientAttribution):
    """The base of layer methods along a path between two values at the layer."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: Any, device_ids: Any = None, multiply_by_inputs: bool = True
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by the way between the values."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True


class LayerIntegratedGradients(LayerPathAttribution):
    """Integrated gradients between a layer's values at a baseline and at the input; of several layers together."""

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
        start = full_baseline(baselines, given.x)
        with located(self.forward_func, self.layer, attribute_to_layer_input) as layers:
            values, before = layers.read(*given.inputs), layers.read_again(*start, *given.args)
            found = funcattr.integrated_gradients(
                layers.from_values(values),
                _flat(values),
                given.target,
                args=given.inputs,
                baseline=_flat(before),
                times_difference=self.multiplies_by_inputs,
                **path_options(n_steps, method, internal_batch_size, given.examples),
            )
            result = layers.structured(values, [a.detach() for a in found])
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(found, start, given.x, given.target, given.args)


class LayerGradientShap(LayerPathAttribution):
    """Gradient SHAP of a layer: its gradient between random baselines and noisy inputs, times its own difference."""

    draws = True

    def attribute(
        self,
        inputs: Any,
        baselines: Any,
        n_samples: int = 5,
        stdevs: Any = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value, and how far each draw is off."""
        given = Given.of(inputs, target, additional_forward_args)
        lines = RandomLines.of(given, as_rows(baselines, given), n_samples, stdevs)
        copies = lines.given
        with located(self.forward_func, self.layer, attribute_to_layer_input) as layers:
            values = layers.read(*lines.end, *copies.args)
            end, start = _flat(values), _flat(layers.read_again(*lines.start, *copies.args))
            names = [name for parts in layers.parts(values) for name in parts]
            points = lines.points(
                lines.start, lines.end
            )  # between the inputs, as in Captum, and not between the values
            found = funcattr.gradient(layers.model, points, layer=names, **copies.every)
            each = tuple(found[name] for name in names)
            each = lines.contributions(each, start, end) if self.multiplies_by_inputs else each
            result = layers.structured(values, [a.detach() for a in lines.mean(each)])
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(each, lines.start, lines.end, copies.target, copies.args)


class LayerDeepLift(LayerAttribution, DeepLift):
    """DeepLIFT between a layer's values at a baseline and at the input."""

    def __init__(self, model: nn.Module, layer: nn.Module, multiply_by_inputs: bool = True) -> None:
        DeepLift.__init__(self, model, multiply_by_inputs)
        self.layer, self.device_ids = layer, None

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
        grad_kwargs: Any = None,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value, and how far their sum is off. [N]"""
        given = Given.of(inputs, target, additional_forward_args)
        start = full_baseline(baselines, given.x)
        with located(self.model, self.layer, attribute_to_layer_input) as layers:
            values, found = self._at_layer(layers, given, start, custom_attribution_func)
            result = layers.structured(values, [a.detach() for a in found])
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(found, start, given.x, given.target, given.args)

    def _at_layer(
        self, layers: LocatedLayers, given: Given, start: tuple[Tensor, ...], custom: Callable[..., Any] | None
    ) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
        """The values at the layer, and their attributions.

        The inputs go along where they are numbers to differ by: what goes around the layer is at its baseline too, and
        keeps its share. What token ids bring around the layer must be the same in both passes.
        """
        values, before = layers.read(*given.inputs), layers.read_again(*start, *given.args)
        end, begin = _flat(values), _flat(before)
        go_along = all(x.is_floating_point() for x in given.x)
        names = [name for parts in layers.parts(values) for name in parts]

        def between(times_difference: bool) -> tuple[Tensor, ...]:
            options: Any = {"times_difference": times_difference, **given.every}
            if not go_along:
                by_name = funcattr.deep_lift(layers.model, given.x, baseline=start, layer=names, **options)
                return tuple(by_name[name] for name in names)
            found: Any = funcattr.deep_lift(
                layers.from_values(values), (*end, *given.x), baseline=(*begin, *start), **options
            )
            return found[: len(end)]

        return values, multiplied(between, end, begin, custom, self.multiplies_by_inputs)


class LayerDeepLiftShap(LayerDeepLift):
    """DeepSHAP between a layer's values at the rows of a distribution of baselines and at the input."""

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value, and how far each row is off. [N * rows]"""
        given = Given.of(inputs, target, additional_forward_args)
        copies, start = beside_rows(given, as_rows(baselines, given))
        with located(self.model, self.layer, attribute_to_layer_input) as layers:
            values, each = self._at_layer(layers, copies, start, custom_attribution_func)
            result = layers.structured(values, [a.detach() for a in mean_of_copies(each, given.examples)])
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(each, start, copies.x, copies.target, copies.args)


class LayerFeatureAblation(LayerAttribution, PerturbationAttribution):
    """Feature ablation of a layer's value."""

    def attribute(
        self,
        inputs: Any,
        layer_baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        attribute_to_layer_input: bool = False,
        perturbations_per_eval: int = 1,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value."""
        given = Given.of(inputs, target, additional_forward_args)
        with located(self.forward_func, self.layer, attribute_to_layer_input) as layers:
            values = layers.read(*given.inputs)
            at_layer, covers = as_covers(layer_baselines, given._replace(x=_flat(values), args=given.inputs))
            found = perturbed(
                funcattr.feature_ablation,
                layers.from_values(values),
                at_layer._replace(is_tuple=True),
                outputs_in_rows=True,
                as_output=True,
                feature_mask=as_masks(layer_mask),
                baseline=covers,
                chunk_size=perturbations_per_eval,
            )
            return layers.structured(values, found)


class LayerFeaturePermutation(LayerAttribution, PerturbationAttribution):
    """Permutation importance of a layer's value."""

    draws = True

    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        perturbations_per_eval: int = 1,
    ) -> Any:
        """The attributions, structured and shaped as the layer's value."""
        given = Given.of(inputs, target, additional_forward_args)
        with located(self.forward_func, self.layer) as layers:
            values = layers.read(*given.inputs)
            permutation = FeaturePermutation(layers.from_values(values))
            found = permutation.attribute(_flat(values), target, given.inputs, layer_mask, perturbations_per_eval)
            return layers.structured(values, found)
