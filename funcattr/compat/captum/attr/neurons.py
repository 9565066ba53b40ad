"""Attributions of a neuron of a layer to the inputs, as in Captum: the neuron is the model's only output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import funcattr

from .ablation import FeatureAblation
from .attribution import (
    Given,
    GradientAttribution,
    NeuronAttribution,
    PerturbationAttribution,
    apart,
    as_baseline,
    as_tuple,
    full_baseline,
)
from .deep_lift import DeepLift, DeepLiftShap
from .gradients import Deconvolution, GuidedBackprop, Saliency
from .located_layers import located, values_at
from .paths import GradientShap, IntegratedGradients, path_options


class NeuronOutput(nn.Module):
    """A model that gives one neuron of a layer.

    Attributes:
        run: The model as a function.
        name: The site of the layer.
        word: What errors call it.
        selector: Of the neuron: an index into the value at the layer, or a function of the value.
    """

    def __init__(self, run: Callable[..., Any], name: str, word: str, selector: Any) -> None:
        super().__init__()
        self.run, self.name, self.word, self.selector = run, name, word, selector

    def forward(self, *inputs: Any) -> Tensor:
        """The neuron's value for each example. [N]"""
        values = values_at(self.run, (self.name,), (self.word,), inputs)
        return selected(values[self.name], self.selector)


def selected(value: Any, selector: Any) -> Any:
    """The neurons that a selector chooses of a layer's value. [N]

    Args:
        value: A tensor, or a tuple of them.
        selector: An index into the trailing dimensions, whose slices are summed over, or a function of the value.
    """
    parts: tuple[Tensor, ...] = tuple(value) if isinstance(value, tuple | list) else (value,)
    if callable(selector):
        return selector(parts if len(parts) > 1 else next(iter(parts)))
    if len(parts) != 1:
        raise funcattr.FuncattrError(
            f"attribute(neuron_selector={selector!r}): the layer gives {len(parts)} tensors. Give a function of them."
        )
    if len(as_tuple(selector)) >= parts[0].ndim:
        raise funcattr.FuncattrError(
            f"attribute(neuron_selector={selector!r}): expected an index into an example's value at the layer, got a "
            f"value of shape {list(parts[0].shape)}."
        )
    chosen = parts[0][(slice(None), *as_tuple(selector))]
    has_slice = any(isinstance(index, slice) for index in as_tuple(selector))
    return chosen.reshape(len(chosen), -1).sum(1) if has_slice else chosen


class NeuronMethod(NeuronAttribution, GradientAttribution):
    """The base of neuron methods."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module,
        device_ids: Any = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    @contextmanager
    def _neuron(
        self, neuron_selector: Any, of_input: bool, inputs: Any, additional_forward_args: Any
    ) -> Iterator[NeuronOutput]:
        with located(self.forward_func, self.layer, of_input) as layers:
            layers.require_one_call(*Given.of(inputs, None, additional_forward_args).inputs)
            yield NeuronOutput(layers.model, layers.names[0], layers.words[0], neuron_selector)


class NeuronGradient(NeuronMethod):
    """The gradient of a neuron."""

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            return Saliency(neuron).attribute(inputs, None, False, additional_forward_args)


class NeuronSlopes(NeuronMethod):
    """The base of neuron methods that may be multiplied by the inputs."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by the difference to the baseline."""
        return self._multiply_by_inputs


class NeuronIntegratedGradients(NeuronSlopes):
    """Integrated gradients of a neuron."""

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            options = (n_steps, method, internal_batch_size)
            given = Given.of(inputs, None, additional_forward_args)
            if callable(neuron_selector) and _is_one_number(neuron, given):
                # A number for the batch, which goes its way as one example.
                found = funcattr.integrated_gradients(
                    lambda *x: neuron(*x, *given.args),
                    given.x,
                    baseline=full_baseline(baselines, given.x),
                    times_difference=self.multiplies_by_inputs,
                    example_dims={"x": None, "output": None},
                    **path_options(*options, given.examples),
                )
                return given.result(found)
            return IntegratedGradients(neuron, self.multiplies_by_inputs).attribute(
                inputs, baselines, None, additional_forward_args, *options
            )


def _is_one_number(neuron: nn.Module, given: Given) -> bool:
    with torch.no_grad():
        return neuron(*apart(given.inputs)).ndim == 0


class NeuronConductance(NeuronSlopes):
    """How much of the output's rise from a baseline flows from each input through a neuron."""

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        grad_kwargs: Any = None,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        given = Given.of(inputs, target, additional_forward_args)
        count = len(given.x)
        with located(self.forward_func, self.layer, attribute_to_neuron_input) as layers:
            values = layers.read(*given.inputs)
            part, neuron = _place(neuron_selector, as_tuple(values[0]))
            site = layers.parts(values)[0][part]

            def flow(*tensors: Any) -> Tensor:
                # The neuron, weighted by the output's slope there, which is a constant of the derivative by the inputs.
                *every, aim = tensors
                slopes = funcattr.gradient(
                    layers.model, tuple(v.detach() for v in every[:count]), aim, layer=site, args=tuple(every[count:])
                )
                value = funcattr.read(layers.model, site)(*every)[1][site]
                return selected(value, neuron) * selected(slopes, neuron).detach()

            found = funcattr.integrated_gradients(
                flow,
                given.x,
                args=(*given.args, _aim(given)),
                baseline=as_baseline(baselines, given.x),
                times_difference=self.multiplies_by_inputs,
                **path_options(n_steps, method, internal_batch_size, given.examples),
            )
            return given.result(found)


def _place(selector: Any, values: tuple[Tensor, ...]) -> tuple[int, Any]:
    """The tensor of a layer's value that a neuron is in, and its index there.

    A function is asked on random numbers of both signs for the neuron that it picks, whose own share of the output's
    gradient is taken. What makes another number of neurons has no such share.
    """
    if not callable(selector):
        selected(values if len(values) > 1 else next(iter(values)), selector)  # which tells of an index that is none
        return 0, selector
    generator = torch.Generator().manual_seed(0)
    draws = tuple(torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in values)
    negative = tuple(-v for v in draws)
    places = {place for point in (draws, negative) for place in _picked(selector, point)}
    (place,) = places if len(places) == 1 else (None,)
    if place is None:
        raise funcattr.FuncattrError(
            "NeuronConductance.attribute(neuron_selector=<function>): expected a function that picks one neuron of "
            "each example, such as lambda h: h[:, 3], whose own share of the output's gradient is taken."
        )
    return place


def _picked(selector: Any, values: tuple[Tensor, ...]) -> list[tuple[int, tuple[int, ...]] | None]:
    """For each example the tensor and the index of the one number that a function picks; None if it makes another."""
    answer: Any = torch.func.vjp(lambda *parts: selected(parts, selector), *values)
    found, pull = answer
    examples = len(values[0])
    if found.ndim == 0 or found.numel() != examples:
        return [None]
    slopes: tuple[Tensor, ...] = pull(torch.ones_like(found))
    places = []
    for i, number in enumerate(found.reshape(examples)):
        moved = [(k, tuple(at)) for k, slope in enumerate(slopes) for at in slope[i].nonzero().tolist()]
        k, at = moved[0] if len(moved) == 1 else (0, None)
        is_it = at is not None and bool(slopes[k][i][at] == 1) and bool(values[k][i][at] == number)
        places.append((k, at) if is_it else None)
    return places


def _aim(given: Given) -> Any:
    """The target as an input of a model, of which each row goes with its example."""
    target = given.target
    if isinstance(target, list):
        return torch.tensor(target, device=given.x[0].device)
    return target


class NeuronDeepLift(NeuronSlopes):
    """DeepLIFT of a neuron."""

    def __init__(self, model: nn.Module, layer: nn.Module, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer, None, multiply_by_inputs)

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            return DeepLift(neuron, self.multiplies_by_inputs).attribute(
                inputs, baselines, None, additional_forward_args, False, custom_attribution_func
            )


class NeuronDeepLiftShap(NeuronSlopes):
    """DeepSHAP of a neuron."""

    def __init__(self, model: nn.Module, layer: nn.Module, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer, None, multiply_by_inputs)

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            return DeepLiftShap(neuron, self.multiplies_by_inputs).attribute(
                inputs, baselines, None, additional_forward_args, False, custom_attribution_func
            )


class NeuronGradientShap(NeuronSlopes):
    """Gradient SHAP of a neuron."""

    draws = True

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any,
        n_samples: int = 5,
        stdevs: Any = 0.0,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            return GradientShap(neuron, self.multiplies_by_inputs).attribute(
                inputs, baselines, n_samples, stdevs, None, additional_forward_args
            )


class NeuronGuidedBackprop(NeuronMethod):
    """Guided backpropagation from a neuron."""

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: Any = None) -> None:
        super().__init__(model, layer, device_ids)

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            return GuidedBackprop(neuron).attribute(inputs, None, additional_forward_args)


class NeuronDeconvolution(NeuronMethod):
    """Deconvolution from a neuron."""

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: Any = None) -> None:
        super().__init__(model, layer, device_ids)

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with self._neuron(neuron_selector, attribute_to_neuron_input, inputs, additional_forward_args) as neuron:
            return Deconvolution(neuron).attribute(inputs, None, additional_forward_args)


class NeuronFeatureAblation(NeuronAttribution, PerturbationAttribution):
    """Feature ablation of the inputs, scored by a neuron."""

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        attribute_to_neuron_input: bool = False,
        perturbations_per_eval: int = 1,
    ) -> Any:
        """The attributions, structured and shaped as the inputs."""
        with located(self.forward_func, self.layer, attribute_to_neuron_input) as layers:
            layers.require_one_call(*Given.of(inputs, None, additional_forward_args).inputs)
            neuron = NeuronOutput(layers.model, layers.names[0], layers.words[0], neuron_selector)
            return FeatureAblation(neuron).attribute(
                inputs, baselines, None, additional_forward_args, feature_mask, perturbations_per_eval
            )
