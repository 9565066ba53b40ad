"""Shapley values, their estimates, and LIME, as in Captum."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import funcattr

from .attribution import Given, PerturbationAttribution, apart
from .lime_parts import regression_of, width_of
from .perturbation import as_covers, as_masks, each_value_its_own, gives_rows, numbers, perturbed


class ShapleyValueSampling(PerturbationAttribution):
    """Shapley values by sampling: what features add when they come in random orders, from torch's generator."""

    draws = True

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """The attributions, shaped as the inputs: a row for each number that the model gives (see `perturbed`)."""
        given, covers = as_covers(baselines, Given.of(inputs, target, additional_forward_args))
        masks = as_masks(feature_mask)
        features = _count(each_value_its_own(given.x) if masks is None else masks)
        return perturbed(
            funcattr.shapley_sampling,
            self.forward_func,
            given,
            permutations=torch.stack([torch.randperm(features) for _ in range(n_samples)]),
            features=features,
            feature_mask=masks,
            baseline=covers,
            chunk_size=perturbations_per_eval,
            progress=show_progress,
        )


class ShapleyValues(ShapleyValueSampling):
    """Shapley values, exactly: every coalition of the features runs once."""

    draws = False

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """The attributions, shaped as the inputs: a row for each number that the model gives (see `perturbed`)."""
        given, covers = as_covers(baselines, Given.of(inputs, target, additional_forward_args))
        return perturbed(
            funcattr.shapley_values,
            self.forward_func,
            given,
            feature_mask=as_masks(feature_mask),
            baseline=covers,
            chunk_size=perturbations_per_eval,
            progress=show_progress,
        )


class LinearFit(PerturbationAttribution):
    """The base of methods that fit a linear model to the output."""

    draws = True

    @property
    def multiplies_by_inputs(self) -> bool:
        """No, in Captum's words."""
        return False

    _method: Callable[..., Any]
    _options: Mapping[str, Any] = MappingProxyType({})

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Any:
        """The coefficients, shaped as the inputs; with `return_input_shape=False` one for each feature. [N, F]"""
        given, covers = as_covers(baselines, Given.of(inputs, target, additional_forward_args))
        masks = as_masks(feature_mask) or each_value_its_own(given.x)
        features = _count(masks)

        def fit(of: Given, covers: tuple[Any, ...], masks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return perturbed(
                type(self)._method,
                self.forward_func,
                of._replace(is_tuple=True),
                feature_mask=masks,
                baseline=covers,
                chunk_size=perturbations_per_eval,
                progress=show_progress,
                **self._draws(n_samples, features),
                **self._options,
            )

        # A fit for each example, as in Captum, where a batch draws what its examples draw one after the other.
        each = [fit(*one) for one in _one_by_one(self.forward_func, given, covers, masks)]
        found = [torch.cat(parts) for parts in zip(*each, strict=True)]
        return given.result(found) if return_input_shape else _by_feature(tuple(found), masks)

    @staticmethod
    def _draws(samples: int, features: int) -> dict[str, Any]:
        """The options that say which coalitions run, for a fit."""
        raise NotImplementedError


class KernelShap(LinearFit):
    """Kernel SHAP: Shapley values by a weighted regression, whose coalitions come from torch's generator."""

    _method = staticmethod(funcattr.kernel_shap)

    @staticmethod
    def _draws(samples: int, features: int) -> dict[str, Any]:
        # A seed from torch's generator, so that `torch.manual_seed` decides, as in Captum.
        return {"samples": samples, "generator": int(torch.randint(2**62, ()))}


class Lime(LinearFit):
    """LIME, by default a Lasso fit with penalty 0.01, weighted by a kernel of width 1.

    Args:
        forward_func: The model.
        interpretable_model: `SkLearnLasso(alpha=...)`, `SkLearnRidge(alpha=...)` or `SkLearnLinearRegression()`, of
            this module or Captum's.
        similarity_func: `get_exp_kernel_similarity_function("cosine", width)`.
        perturb_func: Refused: `funcattr.lime` takes coalitions.
    """

    _method = staticmethod(funcattr.lime)

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Any = None,
        perturb_func: Any = None,
    ) -> None:
        if perturb_func is not None:
            raise funcattr.FuncattrError(
                "Lime(perturb_func=...): draws of your own are not served. Use funcattr.lime(coalitions=...)."
            )
        super().__init__(forward_func)
        self._options: Mapping[str, Any] = {
            "kernel_width": width_of(similarity_func),
            **regression_of(interpretable_model),
        }

    @staticmethod
    def _draws(samples: int, features: int) -> dict[str, Any]:
        half = torch.full((features,), 0.5)
        return {"coalitions": torch.stack([torch.bernoulli(half) for _ in range(samples)]).bool(), "features": features}


def _one_by_one(
    forward_func: Callable[..., Any], given: Given, covers: tuple[Any, ...], masks: tuple[Tensor, ...]
) -> Iterator[tuple[Given, tuple[Any, ...], tuple[Tensor, ...]]]:
    """Inputs, baselines and masks of each example; of the batch, where the model gives numbers for it as a whole."""
    with torch.no_grad():
        if given.examples < 2 or not gives_rows(numbers(forward_func(*apart(given.inputs))), given):
            yield given, covers, masks
            return
    for i in range(given.examples):

        def row(value: Any, i: int = i) -> Any:
            """A tensor's row of the example; what does not go by examples is for all of them."""
            by_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == given.examples
            return value[i : i + 1] if by_example else value

        x, args = (tuple(row(value) for value in values) for values in (given.x, given.args))
        by_example = isinstance(given.target, list) and len(given.target) == given.examples
        target = given.target[i : i + 1] if by_example else row(given.target)

        def own(values: tuple[Any, ...]) -> tuple[Any, ...]:
            """Of baselines or masks, which may have fewer dimensions than the inputs, and then none for examples."""
            of_rows = (isinstance(v, Tensor) and v.ndim == x.ndim for v, x in zip(values, given.x, strict=True))
            return tuple(row(v) if is_row else v for v, is_row in zip(values, of_rows, strict=True))

        yield given._replace(x=x, args=args, target=target), own(covers), own(masks)


def _count(masks: tuple[Tensor, ...]) -> int:
    """The number of features, of which the last has the highest number."""
    return 1 + max(int(mask.max()) for mask in masks if mask.numel())


def _by_feature(attributions: tuple[Tensor, ...], masks: tuple[Tensor, ...]) -> Tensor:
    """A number for each feature, from attributions whose values of a feature are all alike. [N, F]"""
    found = attributions[0].new_zeros(len(attributions[0]), _count(masks))
    for values, mask in zip(attributions, masks, strict=True):
        index = mask.expand(values.shape).flatten(1) if values.ndim > 1 else mask.expand(values.shape).reshape(-1, 1)
        found = found.scatter(1, index, values.reshape(index.shape))
    return found
