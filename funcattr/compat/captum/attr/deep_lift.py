"""DeepLIFT and DeepSHAP, as in Captum."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import funcattr

from .attribution import Given, as_rows, full_baseline, require_module
from .paths import PathAttribution


class DeepLift(PathAttribution):
    """DeepLIFT by the Rescale rule.

    Args:
        model: A module.
        multiply_by_inputs: Whether multipliers are multiplied by the difference to the baseline.
        eps: Of no use: where two values are equal, the multiplier is the derivative itself.
    """

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True, eps: float = 1e-10) -> None:
        require_module(self, model)
        super().__init__(model, multiply_by_inputs)
        self.model, self.eps = model, eps

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """The attributions, structured and shaped as the inputs, and how far their sum is off. [N]"""
        given = Given.of(inputs, target, additional_forward_args)
        start = full_baseline(baselines, given.x)
        found = self._between(given, start, custom_attribution_func)
        if not return_convergence_delta:
            return given.result(found)
        return given.result(found), self.compute_convergence_delta(found, start, given.x, target, given.args)

    def _between(
        self, given: Given, start: tuple[Tensor, ...], custom: Callable[..., Any] | None
    ) -> tuple[Tensor, ...]:
        """The attributions of inputs with a baseline each."""

        def between(times_difference: bool) -> tuple[Tensor, ...]:
            options: Any = {"baseline": start, "times_difference": times_difference}
            return funcattr.deep_lift(self.model, given.x, **given.every, **options)

        return multiplied(between, given.x, start, custom, self.multiplies_by_inputs)


def multiplied(
    method: Callable[[bool], tuple[Tensor, ...]],
    end: tuple[Tensor, ...],
    start: tuple[Tensor, ...],
    custom: Callable[..., Any] | None,
    multiply: bool,
) -> tuple[Tensor, ...]:
    """Attributions: multipliers, times the difference, or what a function of the user's makes of them."""
    return method(multiply) if custom is None else tuple(custom(method(False), end, start))


class DeepLiftShap(DeepLift):
    """DeepSHAP: DeepLIFT in the mean over the rows of a distribution of baselines."""

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, multiply_by_inputs)

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """The attributions, structured and shaped as the inputs, and how far each row is off. [N * rows]"""
        given = Given.of(inputs, target, additional_forward_args)
        copies, start = beside_rows(given, as_rows(baselines, given))
        each = self._between(copies, start, custom_attribution_func)
        result = given.result(mean_of_copies(each, given.examples))
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(each, start, copies.x, copies.target, copies.args)


def beside_rows(given: Given, rows: tuple[Tensor, ...]) -> tuple[Given, tuple[Tensor, ...]]:
    """Each example with each baseline: copies of the examples, and the baseline of each copy."""
    count = len(rows[0])
    copies = given.times(count)
    start = tuple(row.to(x).repeat(given.examples, *[1] * (row.ndim - 1)) for row, x in zip(rows, given.x, strict=True))
    return copies, start


def mean_of_copies(each: tuple[Tensor, ...], examples: int) -> tuple[Tensor, ...]:
    """The mean over the copies of each example. Each [N * B, ...] -> [N, ...]"""
    return tuple(a.unflatten(0, (examples, -1)).mean(1) for a in each)
