"""Hints: a keyword by another library's name is a TypeError that says the name that it has here."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

HERE: dict[str, tuple[str, ...]] = {
    "x": ("inputs", "input", "input_tensor", "x_value"),
    "model": ("forward_func", "net", "network"),
    "target": ("targets", "target_category", "target_class", "category_id", "class_idx", "class_index", "labels"),
    "layer": ("target_layers", "target_layer", "saliency_layer", "layer_name"),
    "baseline": ("baselines", "x_baseline", "background", "background_data", "reference"),
    "steps": ("n_steps", "x_steps", "num_steps", "n_iterations"),
    "samples": ("n_samples", "nsamples", "num_samples", "num_masks", "n_masks"),
    "sigma": ("stdev", "noise_level", "standard_deviation"),
    "window": ("sliding_window_shapes", "window_size", "patch_size"),
    "stride": ("strides",),
    "chunk_size": ("internal_batch_size", "perturbations_per_eval", "batch_size"),
    "args": ("additional_forward_args", "forward_args"),
    "kwargs": ("forward_kwargs",),
    "progress": ("show_progress", "verbose"),
    "generator": ("seed", "random_state", "random_seed"),
    "quadrature": ("method",),
    "rules": ("composite", "rule", "rulebook"),
    "relu": ("relu_attributions",),
    "feature_mask": ("feature_masks", "mask"),
    "mode": ("interpolate_mode", "interpolation"),
    "contrast_layer": ("contrast_layers",),
}
"""Words of this package -> names that other libraries have for them."""

OF_TUNNELS: dict[str, tuple[str, ...]] = {
    "samples": ("nt_samples",),
    "sigma": ("stdevs",),
    "kind": ("nt_type",),
    "chunk_size": ("nt_samples_batch_size",),
}
"""Names that only a noise tunnel has elsewhere; all other keywords of one may be meant for its method."""

ELSEWHERE = {
    "return_convergence_delta": "funcattr.metrics.completeness gives the error, after the call.",
    "attribute_to_layer_input": 'A site has a name for its input: layer="features.3@input".',
    "multiply_by_inputs": "integrated_gradients, expected_gradients and deep_lift take times_difference=False.",
    "abs": "Take the result's .abs(); attributions are signed here.",
    "resize": "Enlarge the result with funcattr.maps.resize.",
    "reshape_transform": "Say channel_dim=-1; funcattr.maps.from_tokens lays tokens out.",
    "aug_smooth": "There is no such option; noise_tunnel averages over noise.",
    "eigen_smooth": "There is no such option; eigen_grad_cam has the first component.",
    "use_cuda": "The call runs where the model and x are: move them, model.cuda().",
}
"""Names of what is no argument here, and where to find it."""


def hints_of(function: Callable[..., Any]) -> dict[str, str]:
    """The keywords that a function does not have, and what to write in their place."""
    parameters = inspect.signature(function).parameters
    hands_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    tables = (OF_TUNNELS,) if hands_on else (HERE, OF_TUNNELS)
    found = {} if hands_on else dict(ELSEWHERE)
    for word, names in (item for table in tables for item in table.items() if item[0] in parameters):
        found |= dict.fromkeys(names, f"Here it is {word}=.")
    return {name: hint for name, hint in found.items() if name not in parameters}


def hinting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a hint for a keyword of another library's. Its name here is that in the package itself."""
    hints = hints_of(function)

    @functools.wraps(function)
    def hinted(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name in hints:
                raise TypeError(f"{function.__name__}({name}=...): no such argument. {hints[name]}")
        return function(*args, **kwargs)

    hinted.__module__ = __name__.rpartition(".")[0]  # where pickle finds it
    return hinted


def hinting_methods(names: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Those of a namespace's functions that explain a model, each with its hints."""
    functions = {name: value for name, value in names.items() if inspect.isfunction(value)}
    return {name: hinting(value) for name, value in functions.items() if _explains(inspect.signature(value).parameters)}


def _explains(parameters: Iterable[str]) -> bool:
    return "target" in parameters
