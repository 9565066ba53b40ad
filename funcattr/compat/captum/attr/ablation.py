"""Feature ablation, occlusion and feature permutation, as in Captum."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import funcattr

from .attribution import Given, PerturbationAttribution, as_tuple
from .perturbation import as_covers, as_masks, each_value_its_own, perturbed


class FeatureAblation(PerturbationAttribution):
    """Feature ablation: what the output loses when a feature is at its baseline."""

    _as_output = True
    """Whether attributions of integers are integers."""

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
            as_output=self._as_output,
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
        windows = _windows(sliding_window_shapes, given.x)
        return perturbed(
            funcattr.occlusion,
            self.forward_func,
            given,
            outputs_in_rows=True,
            window=windows,
            stride=_strides(strides, given.x, windows),
            baseline=covers,
            chunk_size=perturbations_per_eval,
            progress=show_progress,
        )


def _windows(sizes: Any, x: tuple[Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    """A window for each input, with a size for each of its dimensions but the first."""
    is_nested = isinstance(sizes, tuple) and any(isinstance(size, tuple) for size in sizes)
    windows = sizes if is_nested else (sizes,)
    if len(windows) != len(x) or not all(_fits(window, value) for window, value in zip(windows, x, strict=True)):
        shapes = [list(value.shape) for value in x]
        raise ValueError(
            f"Occlusion.attribute(sliding_window_shapes={sizes}): expected for each input a size for each dimension "
            f"but the first, got inputs of shapes {shapes}. funcattr.occlusion takes windows of the last dimensions."
        )
    return windows


def _fits(sizes: Any, x: Tensor) -> bool:
    return isinstance(sizes, tuple) and len(sizes) == x.ndim - 1


def _strides(strides: Any, x: tuple[Tensor, ...], windows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """A step for each dimension of each window. Where a window covers a dimension, the step there does not count."""
    is_one = len(x) == 1 and not (isinstance(strides, tuple) and len(strides) == 1)
    steps = (1,) * len(x) if strides is None else (strides,) if is_one else strides
    if not isinstance(steps, tuple) or len(steps) != len(x):
        raise ValueError(f"Occlusion.attribute(strides={strides}): expected a step for each of {len(x)} inputs.")
    full = [
        step if isinstance(step, tuple) else (step,) * len(window) for step, window in zip(steps, windows, strict=True)
    ]
    if not all(_fits(step, value) for step, value in zip(full, x, strict=True)):
        raise ValueError(
            f"Occlusion.attribute(strides={strides}): expected for each input an int, or a tuple with a step for each "
            "dimension but the first."
        )
    return tuple(
        tuple(min(s, w) if w == size else s for s, w, size in zip(step, window, value.shape[1:], strict=True))
        for step, window, value in zip(full, windows, x, strict=True)
    )


def permuted_rows(x: Tensor, feature_mask: Tensor) -> Tensor:
    """The rows of a batch in another order, where the mask is true; the order is drawn from torch's generator."""
    count = len(x)
    if count < 2:
        raise ValueError(f"permuted_rows(x=...): expected two examples at least, got {count}.")
    order, same = torch.randperm(count), torch.arange(count)
    while bool((order == same).all()):
        order = torch.randperm(count)
    return torch.where(feature_mask, x[order.to(x.device)], x)


class FeaturePermutation(FeatureAblation):
    """Permutation importance: what the output loses when a feature has another example's value.

    Args:
        forward_func: The model, often a function that gives one number for the batch.
        perm_func: `(input, mask) -> input with other values where the mask is true`, called for each feature.
    """

    draws = True

    _min_examples_per_batch_grouped = 2
    """From how many examples on a feature is permuted."""

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
        x = tuple(value.detach() for value in as_tuple(inputs))
        masks = as_masks(feature_mask) or each_value_its_own(x)
        others = self._others(x, masks, perturbations_per_eval)
        return super().attribute(
            inputs, others, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress
        )

    def _others(self, x: tuple[Tensor, ...], masks: tuple[Tensor, ...], together: int) -> tuple[Tensor, ...]:
        """What stands for each value where its feature is absent: features are drawn one by one, in Captum's order.

        Features that run together, of which one has a single example at most, keep their values.
        """
        own = [mask.unique().tolist() for mask in masks]
        features = list(dict.fromkeys(feature for numbers in own for feature in numbers))
        others, kept = list(x), list[int]()
        for first in range(0, len(features), together):
            chunk = features[first : first + together]
            inputs = [i for i, numbers in enumerate(own) if not set(numbers).isdisjoint(chunk)]
            if any(len(x[i]) < self._min_examples_per_batch_grouped for i in inputs):
                kept += chunk
                continue
            for i in inputs:
                for feature in chunk:
                    mask = masks[i] == feature
                    others[i] = torch.where(mask, self.perm_func(x[i], mask), others[i])
        if kept:
            warnings.warn(
                f"FeaturePermutation: {len(kept)} features have no other example to take values from; their "
                "attributions are 0.",
                stacklevel=3,
            )
        return tuple(others)
