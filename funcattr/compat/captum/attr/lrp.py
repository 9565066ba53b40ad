"""Layer-wise relevance propagation to the inputs and to layers, as in Captum."""

from typing import Any

import torch
from torch import Tensor, nn

import funcattr

from .attribution import Given, GradientAttribution, LayerAttribution, apart, as_tuple, require_module
from .located_layers import located
from .lrp_rules import rulebook_for


class LRP(GradientAttribution):
    """LRP with the epsilon rule (1e-9), or the rule that a module has as its attribute `rule` (see `lrp_rules`)."""

    def __init__(self, model: nn.Module) -> None:
        require_module(self, model)
        super().__init__(model)
        self.model = model
        rulebook_for(model)  # which tells of a rule that is none

    @property
    def multiplies_by_inputs(self) -> bool:
        """Yes: relevance is a contribution."""
        return True

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Any:
        """The relevance, structured and shaped as the inputs, and what of the output is lost on the way. [N]"""
        given = Given.of(inputs, target, additional_forward_args)
        book = _book(self.model, verbose)
        result = given.result(funcattr.lrp(self.model, given.x, **given.every, rules=book))
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(result, self._output(given))

    def compute_convergence_delta(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, attributions: Any, output: Tensor
    ) -> Tensor:
        """The output that was explained, less the sum of each example's relevance. [N]"""
        sums = [part.flatten(1).sum(1) if part.ndim > 1 else part for part in as_tuple(attributions)]
        return output.flatten() - torch.stack(sums).sum(0)

    def _output(self, given: Given) -> Tensor:
        """The number that is explained, for each example. [N]"""
        with torch.no_grad():
            output = self.model(*apart(given.inputs))
            weights = funcattr.gradient(lambda output: output, output, given.target)
            return (output * weights).reshape(len(output), -1).sum(1)


class LayerLRP(LayerAttribution, LRP):
    """LRP to a layer's value, to those of a list of layers, or of all layers without parts of their own (None)."""

    def __init__(self, model: nn.Module, layer: Any) -> None:
        LRP.__init__(self, model)
        self.layer, self.device_ids = layer, None

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
    ) -> Any:
        """The relevance, structured and shaped as the layer's value, and what is lost; lists for several layers."""
        given = Given.of(inputs, target, additional_forward_args)
        book = _book(self.model, verbose)
        layer = self.layer or [m for m in self.model.modules() if not list(m.children())]
        with located(self.model, layer, attribute_to_layer_input) as layers:

            def at(names: list[str]) -> Any:
                return funcattr.lrp(layers.model, given.x, layer=names, **given.every, rules=book)

            result = layers.each(layers.read(*given.inputs), at)
        if not return_convergence_delta:
            return result
        output = self._output(given)
        if isinstance(result, list):
            return result, [self.compute_convergence_delta(relevance, output) for relevance in result]
        return result, self.compute_convergence_delta(result, output)


def _book(model: nn.Module, verbose: bool) -> funcattr.Rulebook:
    book = rulebook_for(model)
    if verbose:
        print(book)
    return book
