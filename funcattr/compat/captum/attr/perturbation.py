"""What Captum's perturbation methods have in common: masks of any numbers, and models of any output."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .attribution import Given, apart, as_baseline, as_tuple

Method = Callable[..., tuple[Tensor, ...]]


def perturbed(
    method: Method,
    forward_func: Callable[..., Any],
    given: Given,
    *,
    outputs_in_rows: bool = False,
    as_output: bool = False,
    **options: Any,
) -> Any:
    """A method's attributions, for every number that the model gives where no target chooses one.

    A row for each example; with K numbers for each example [N, K, ...]; where the model gives numbers for the batch as
    a whole, a row for each of them: the batch then is one example, and its rows are perturbed alike.

    Args:
        method: A function of the package: `(model, x, target, **options) -> attributions`.
        forward_func: The model; it may return Python numbers, integers or booleans.
        given: Inputs and target.
        outputs_in_rows: Whether K numbers for each example are rows, [N * K, ...], as in Captum's ablation.
        as_output: Whether attributions have the output's dtype where that is a number's, as in Captum's ablation; else
            those of integers and of Python numbers have the default dtype.
        options: More of the method's. Masks and baselines are tuples.
    """
    if any(value.numel() == 0 for value in given.x):
        return _beside_empty(
            method, forward_func, given, outputs_in_rows=outputs_in_rows, as_output=as_output, **options
        )

    def model(*inputs: Any) -> Tensor:
        return numbers(forward_func(*inputs))

    with torch.no_grad():
        returned = forward_func(*apart(given.inputs))
        output = numbers(returned)

        def result(attributions: Sequence[Tensor]) -> Any:
            return given.result(_of_its_kind(attributions, returned, output, as_output))

        has_rows = gives_rows(output, given)
        if has_rows and not _chooses_for_all(given.target):
            return result(method(model, given.x, **given.every, **options))
        chosen = _chosen(output, given.target)
        if has_rows and chosen[0].numel() == 1:
            return result(method(model, given.x, **given.every, **options))
        if has_rows:

            def column(k: Tensor) -> tuple[Tensor, ...]:
                return method(model, given.x, target=_column(given.target, k), args=given.args, **options)

            # The first column by itself, where it is looked at whether examples are separate. The others in one: inside
            # of vmap the model runs on what is not mapped, and so once for all of them.
            columns = torch.arange(chosen[0].numel(), device=output.device)
            first, others = column(columns[0]), torch.func.vmap(column, out_dims=1, randomness="same")(columns[1:])
            stacked = [torch.cat([a.unsqueeze(1), b], 1) for a, b in zip(first, others, strict=True)]
            if outputs_in_rows:
                return result([each.flatten(0, 1) for each in stacked])
            return result([each.unflatten(1, chosen.shape[1:]) for each in stacked])
        together = options.get("chunk_size") or 1
        if together > 1:
            raise ValueError(
                f"attribute(perturbations_per_eval={together}): expected an output with a row for each of "
                f"{given.examples} examples, got shape {list(output.shape)}. A model that gives numbers for the batch "
                "is called with one perturbation at a time: perturbations_per_eval=1."
            )
        whole = _for_the_batch(given, options)
        found = [
            method(_number_of_batch(model, given, k), given.x, None, **whole, example_dims={"x": None, "output": None})
            for k in range(chosen.numel())
        ]
        return result(tuple(torch.cat([part[:1] for part in parts]) for parts in zip(*found, strict=True)))


def gives_rows(output: Tensor, given: Given) -> bool:
    """Whether a model's output has a row for each example; there are examples where all inputs have as many rows."""
    rows = {len(x) if x.ndim else None for x in (*given.x, output)}
    return rows == {given.examples}


def _of_its_kind(attributions: Sequence[Tensor], returned: Any, output: Tensor, as_output: bool) -> Sequence[Tensor]:
    """Attributions in a dtype of the output's kind: bools, and what is no share of a whole number, have floats."""
    if as_output and output.dtype != torch.bool:
        return [a.to(output.dtype) for a in attributions]
    if isinstance(returned, Tensor) and output.is_floating_point():
        return attributions
    return [a.to(torch.get_default_dtype()) for a in attributions]


def _beside_empty(method: Method, forward_func: Callable[..., Any], given: Given, **options: Any) -> Any:
    """As `perturbed`, where some inputs are empty: they have nothing to perturb, and zeros for attributions."""
    players = [i for i, value in enumerate(given.x) if value.numel() > 0]
    found: tuple[Tensor, ...] = ()
    if players:

        def model(*inputs: Any) -> Any:
            full = list(given.x)
            for i, value in zip(players, inputs[: len(players)], strict=True):
                full[i] = value
            return forward_func(*full, *inputs[len(players) :])

        own: Any = {k: tuple(v[i] for i in players) if isinstance(v, tuple) else v for k, v in options.items()}
        found = perturbed(method, model, given._replace(x=tuple(given.x[i] for i in players), is_tuple=True), **own)
    rows, rest = len(found[0]) if found else 1, iter(found)
    return given.result([torch.zeros(rows, *x.shape[1:]) if x.numel() == 0 else next(rest) for x in given.x])


def numbers(output: Any) -> Tensor:
    """A model's output as a tensor, of doubles where it is a Python number with a point."""
    if isinstance(output, float):
        return torch.tensor(output, dtype=torch.float64)
    return output if isinstance(output, Tensor) else torch.as_tensor(output)


def _chooses_for_all(target: Any) -> bool:
    return target is None or isinstance(target, int | tuple)


def _chosen(output: Tensor, target: Any) -> Tensor:
    """What a target for all examples chooses of an output."""
    if target is None:
        return output
    if len(as_tuple(target)) >= output.ndim:
        raise ValueError(
            f"attribute(target={target!r}): expected an index into an example's output, got an output of shape "
            f"{list(output.shape)}."
        )
    return output[(slice(None), *as_tuple(target))]


def _column(target: Any, k: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: _chosen(output, target).flatten(1).index_select(1, k.reshape(1)).squeeze(1)


def _number_of_batch(model: Callable[..., Tensor], given: Given, k: int) -> Callable[..., Tensor]:
    return lambda *x: _chosen(model(*x, *given.args), given.target).reshape(-1)[k]


def _for_the_batch(given: Given, options: dict[str, Any]) -> dict[str, Any]:
    """Options for the batch as one example: a feature is the same values of all rows."""
    if "feature_mask" not in options:
        return options
    masks = options["feature_mask"] or each_value_its_own(given.x)
    return options | {"feature_mask": tuple(mask.expand(x.shape) for mask, x in zip(masks, given.x, strict=True))}


def each_value_its_own(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Masks of as many features as there are values in an example. Each [1, ...]"""
    found, start = [], 0
    for value in x:
        size = math.prod(value.shape[1:]) if value.numel() else 0
        numbers = torch.arange(start, start + size, device=value.device)
        found.append(numbers.reshape(1, *value.shape[1:]) if size else numbers)
        start += size
    return tuple(found)


def as_masks(feature_mask: Any) -> tuple[Tensor, ...] | None:
    """A mask for each input, or None. Whole numbers may be floats."""
    return None if feature_mask is None else tuple(_whole(mask) for mask in as_tuple(feature_mask))


def _whole(mask: Any) -> Any:
    is_float = isinstance(mask, Tensor) and mask.is_floating_point()
    return mask.long() if is_float and bool((mask == mask.round()).all()) else mask


def as_covers(baselines: Any, given: Given) -> tuple[Given, tuple[Any, ...]]:
    """The inputs, and what stands for their absent values: integers become floats where that is none."""
    covers = tuple(torch.tensor(b) if isinstance(b, bool) else b for b in as_baseline(baselines, given.x))
    x = tuple(_of_kind(value, cover) for value, cover in zip(given.x, covers, strict=True))
    return given._replace(x=x), covers


def _of_kind(value: Tensor, cover: Any) -> Tensor:
    is_whole = not (isinstance(cover, float) or (isinstance(cover, Tensor) and cover.is_floating_point()))
    return value if value.is_floating_point() or is_whole else value.to(torch.get_default_dtype())
