"""Feature ablation, occlusion and feature permutation, as in Captum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import funcattr

from .attribution import Given, PerturbationAttribution, as_tuple
from .perturbation import as_covers, as_masks, perturbed


class FeatureAblation(PerturbationAttribution):
    """Feature ablation: what the output loses when a feature is at its baseline."""

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The attributions, shaped as the inputs: a row for each number that the model gives (see `perturbed`)."""
        given, covers = as_covers(baselines, Given.of(inputs, target, additional_forward_args))
        return perturbed(
            funcattr.feature_ablation,
            self.forward_func,
            given,
            outputs_in_rows=True,
            feature_mask=as_masks(feature_mask),
            baseline=covers,
            chunk_size=perturbations_per_eval,
            progress=show_progress,
        )


class Occlusion(FeatureAblation):
    """Occlusion: what the output loses when a window of the input is covered."""

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """The attributions, shaped as the inputs: a row for each number that the model gives (see `perturbed`)."""
        given, covers = as_covers(baselines, Given.of(inputs, target, additional_forward_args))
        windows = _for_each(sliding_window_shapes)
        steps = (1,) * len(windows) if strides is None else _for_each(strides) if _is_nested(strides) else strides
        return perturbed(
            funcattr.occlusion,
            self.forward_func,
            given,
            outputs_in_rows=True,
            window=windows,
            stride=tuple(
                _of_one(step, window)
                for step, window in zip(steps if given.is_tuple else (strides or 1,), windows, strict=True)
            ),
            baseline=covers,
            chunk_size=perturbations_per_eval,
            progress=show_progress,
        )


def _is_nested(sizes: Any) -> bool:
    return isinstance(sizes, tuple) and any(isinstance(size, tuple) for size in sizes)


def _for_each(sizes: Any) -> tuple[Any, ...]:
    """Sizes for each input, given for one or for several."""
    return sizes if _is_nested(sizes) else (sizes,)


def _of_one(step: Any, window: tuple[int, ...]) -> tuple[int, ...]:
    return step if isinstance(step, tuple) else (step,) * len(window)


def permuted_rows(x: Tensor, feature_mask: Tensor) -> Tensor:
    """The rows of a batch in another order, where the mask is true; the order is drawn from torch's generator."""
    count = len(x)
    if count < 2:
        raise ValueError("FeaturePermutation.attribute(inputs=...): expected two examples at least, got one.")
    order, same = torch.randperm(count), torch.arange(count)
    while bool((order == same).all()):
        order = torch.randperm(count)
    return torch.where(feature_mask, x[order.to(x.device)], x)


class FeaturePermutation(FeatureAblation):
    """Permutation importance: what the output loses when a feature has another example's value.

    All features of an input get the values of the same other examples, which `perm_func` draws.

    Args:
        forward_func: The model, often a function that gives one number for the batch.
        perm_func: `(input, mask) -> input with other values where the mask is true`.
    """

    def __init__(
        self, forward_func: Callable[..., Any], perm_func: Callable[[Tensor, Tensor], Tensor] = permuted_rows
    ) -> None:
        super().__init__(forward_func)
        self.perm_func = perm_func

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The attributions, shaped as the inputs: a row for each number that the model gives (see `perturbed`)."""
        others = tuple(self.perm_func(x, torch.ones_like(x, dtype=torch.bool)) for x in as_tuple(inputs))
        return super().attribute(
            inputs, others, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress
        )
