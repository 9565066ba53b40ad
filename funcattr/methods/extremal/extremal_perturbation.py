"""Extremal perturbation: the part of an image, of a given area, that alone makes an output largest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ... import maps
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Model, Question, ask
from ...attribution.separate_copies import check_separate
from ...attribution.separate_rows import of_separate_rows
from ...attribution.targets import Target
from ...sampling.loops import loop, positive
from ...torch_state import is_plain_eager
from .area_loss import check_area
from .mask_search import Search, State, Variant, ended, initial_state, search_step, visible
from .perturbation_pyramid import Perturbation, pyramid_of, with_slopes
from .rewards import Reward
from .smooth_mask import On, check_kernel, mask_grid


class ExtremalPerturbation(NamedTuple):
    """Masks, and the history of the search for them.

    Attributes:
        masks: [N, A, H, W]
        reward: The number that is made large, at each step. [N, A, T]
        penalty: The number that is taken off for a wrong area, at each step; at least 0. [N, A, T]
    """

    masks: Tensor
    reward: Tensor
    penalty: Tensor


def extremal_perturbation(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    areas: float | Sequence[float] = (0.1,),
    variant: Variant = "preserve",
    perturbation: Perturbation = "blur",
    reward: Reward = "simple",
    on: On = "image",
    steps: int = 800,
    lr: float = 0.01,
    momentum: float = 0.9,
    dampening: float = 0.9,
    penalty: float = 300.0,
    growth: float = 1.0035,
    spacing: int = 7,
    radius: float = 21.0,
    levels: int = 8,
    max_blur: float = 20.0,
    jitter: bool = True,
    smooth: float = 0.0,
    least_rise: float | None = None,
    patience: int = 20,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """Smooth masks of given areas that make a model's output largest when the input is kept only where they are 1.

    m_a = argmax_m R(x perturbed where m < 1) - lambda L_a(m);  m = smooth_mask(p), p in [0, 1]

    by gradient ascent on p, with momentum and a lambda that grows. All N x A masks are searched for at once, each as if
    it were alone.

    Args:
        model, target, output, args, kwargs, example_dims: As in `gradient`. A class of a spatial output [N, K, H, W]
            means its average over space here, as published.
        x: Images, [N, C, H, W] once their examples are in front.
        areas: Share of the pixels that each mask is to cover, between 0 and 1. [A]
        variant: "preserve" the output with what is shown, "delete" it by what is hidden, or "dual": both.
        perturbation: What becomes of the input where a mask is 0: "blur", "fade" to black, or a function of x
            with its examples in front, called once, that returns a pyramid [N, L, C, H, W] from the most perturbed
            level to x (as `masks.perturbation_pyramid`).
        reward: What is made large: "simple" the target y_c, "contrastive" y_c - max_{c' != c} y_c', or a function
            `(output [K, ...], target) -> [K]` of K perturbed copies and the target repeated for them.
        on: Where the area is measured: on the "image", or as published on the "canvas" around it, which makes the
            masks of small images too large.
        steps: T, steps of the search.
        lr, momentum, dampening: Of the ascent: v = momentum v + (1 - dampening) g, p = p + lr v.
        penalty: lambda at the first step.
        growth: Factor of lambda from step to step.
        spacing, radius: Pixels between parameters and radius of the kernel, as in `masks.smooth_mask`.
        levels, max_blur: Of the pyramid, as in `masks.perturbation_pyramid`.
        jitter: Mirror the input horizontally at every other step (from the first).
        smooth: Standard deviation of a last Gaussian smoothing, as a share of min(H, W).
        least_rise: Rise of the objective R - lambda L from which on it counts as one; None runs all steps.
        patience: Steps without a rise after which the search for a mask ends, given a least rise.
        progress: Show a progress bar.

    Returns:
        Masks in [0, 1], those of the last forward pass; about a share `area` of the pixels is near 1. [N, A, H, W]
        With `example_dims` the examples are where x has them: [A, H, W] for one. `masks.extremal_search` gives the
        history of the search too.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; or if x is not [N, C, H, W], an area is not between
            0 and 1, an option is out of its range, or a function returns another shape.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: 100 * x[:, :, 8:24, 12:28].mean((1, 2, 3))  # looks at one square, a sixth of the image
        >>> x = torch.ones(1, 3, 40, 40)
        >>> masks = funcattr.extremal_perturbation(model, x, areas=0.2, radius=7, perturbation="fade", steps=60)
        >>> masks.shape, masks[0, 0, 8:24, 12:28].mean() > 0.8, masks.mean() < 0.3
        (torch.Size([1, 1, 40, 40]), tensor(True), tensor(True))

    References:
        Fong et al., 2019, arXiv:1910.08485, equations 1 to 3.
    """
    question = ask(
        "extremal_perturbation", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    ascent = (steps, lr, momentum, dampening, penalty, growth)
    shown = (spacing, radius, levels, max_blur, jitter, smooth)
    return _found(
        question, areas, variant, perturbation, reward, on, *ascent, *shown, least_rise, patience, progress
    ).masks


def extremal_search(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    areas: float | Sequence[float] = (0.1,),
    variant: Variant = "preserve",
    perturbation: Perturbation = "blur",
    reward: Reward = "simple",
    on: On = "image",
    steps: int = 800,
    lr: float = 0.01,
    momentum: float = 0.9,
    dampening: float = 0.9,
    penalty: float = 300.0,
    growth: float = 1.0035,
    spacing: int = 7,
    radius: float = 21.0,
    levels: int = 8,
    max_blur: float = 20.0,
    jitter: bool = True,
    smooth: float = 0.0,
    least_rise: float | None = None,
    patience: int = 20,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> ExtremalPerturbation:
    """The masks of `extremal_perturbation`, and the history of the search for them.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`; the other arguments are those of
            `extremal_perturbation`.

    Returns:
        An `ExtremalPerturbation`: masks [N, A, H, W], and the reward and the penalty at each step, [N, A, T] each.
        Where a search ended early, its last numbers go on. With `example_dims` the masks have the examples where x has
        them, the histories in front.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `extremal_perturbation`.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: x.mean((1, 2, 3))
        >>> x = torch.ones(1, 3, 16, 16)
        >>> found = funcattr.masks.extremal_search(model, x, radius=3, perturbation="fade", steps=5)
        >>> found.masks.shape, found.reward.shape
        (torch.Size([1, 1, 16, 16]), torch.Size([1, 1, 5]))

    References:
        Fong et al., 2019, arXiv:1910.08485, equations 1 to 3.
    """
    question = ask(
        "extremal_search", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    ascent = (steps, lr, momentum, dampening, penalty, growth)
    shown = (spacing, radius, levels, max_blur, jitter, smooth)
    given = (areas, variant, perturbation, reward, on)
    return _found(question, *given, *ascent, *shown, least_rise, patience, progress)


def _found(
    question: Question,
    areas: float | Sequence[float],
    variant: Variant,
    perturbation: Perturbation,
    reward: Reward,
    on: On,
    steps: int,
    lr: float,
    momentum: float,
    dampening: float,
    penalty: float,
    growth: float,
    spacing: int,
    radius: float,
    levels: int,
    max_blur: float,
    jitter: bool,
    smooth: float,
    least_rise: float | None,
    patience: int,
    progress: bool,
) -> ExtremalPerturbation:
    """The search, for options as in `extremal_perturbation`."""
    call, x = question.call, question.x
    _check_image(call, x)
    areas = _checked_areas(call, areas)
    check_kernel(call, spacing, radius)
    _check_words(call, variant, on)
    numbers = {"lr": lr, "momentum": momentum, "dampening": dampening, "penalty": penalty}
    _check_numbers(call, {**numbers, "smooth": smooth, "least_rise": least_rise or 0.0}, growth)
    size = (x.shape[2], x.shape[3])
    if 0 < smooth * min(size) < maps.LEAST_SIGMA:
        raise ValueError(
            f"{call}(smooth={smooth}): expected a share of the image's {min(size)} pixels that is at least "
            f"{maps.LEAST_SIGMA} of one, for less smooths nothing; or 0."
        )
    if len(areas) > 1 or variant == "dual":  # copies of each example
        check_separate(question)
    if callable(reward):
        reward = of_separate_rows(call, "reward", reward, together=2 if variant == "dual" else 1)
    grid = mask_grid(x, size, spacing, radius, on)
    ascent = (lr, momentum, dampening, penalty, growth)
    ending = (least_rise, positive(call, "patience", patience))
    search = Search(size, grid, areas, variant, reward, on, *ascent, spacing, radius, jitter, *ending)
    pyramid = with_slopes(_pyramid(call, x, perturbation, levels, max_blur))

    # A scan carries plain tuples only.
    def body(carry: tuple[Tensor, ...], t: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        state = State(*carry)
        # Where values can be looked at, nothing is computed for masks that stay as they are.
        if least_rise is None or not is_plain_eager() or not bool(ended(search, state).all()):
            state = search_step(search, question, pyramid, state, t)
        return (*state,), (state.reward[None].clone(), state.penalty[None].clone())

    count = positive(call, "steps", steps)
    begin = (*initial_state(search, len(x)),)
    carry, history = loop(call, body, begin, count, 1, device=x.device, progress=progress)
    found = maps.smooth(visible(search, State(*carry).mask).to(x.dtype), smooth * min(size), padding="constant")
    return ExtremalPerturbation(question.as_given(found), *(values.movedim(0, -1).to(x.dtype) for values in history))


def _pyramid(call: str, x: Tensor, perturbation: Perturbation, levels: int, max_blur: float) -> Tensor:
    if not callable(perturbation):
        return pyramid_of(call, x, perturbation, levels, max_blur)
    pyramid: Any = perturbation(x)
    if not isinstance(pyramid, Tensor):
        raise TypeError(f"{call}(perturbation=<function>): expected a tensor, got {type(pyramid).__name__}.")
    if pyramid.ndim != 5 or pyramid.shape[1] < 2 or pyramid[:, 0].shape != x.shape:
        n, *rest = x.shape
        raise ValueError(
            f"{call}(perturbation=<function>): expected a pyramid of 2 levels or more, shape {[n, 'L', *rest]}, "
            f"got {list(pyramid.shape)}."
        )
    return pyramid.to(x.dtype)


def _check_image(call: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{call}(x=...): expected one tensor of images, got {type(x).__name__}.")
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"{call}(x=...): expected images [N, C, H, W], got shape {list(x.shape)}.")
    if not x.is_floating_point():
        raise TypeError(f"{call}(x=...): expected a floating-point input, got {x.dtype}.")


def _checked_areas(call: str, areas: float | Sequence[float]) -> tuple[float, ...]:
    found = tuple(areas) if isinstance(areas, Sequence) else (areas,)
    if not found:
        raise ValueError(f"{call}(areas={areas!r}): expected one area or more, such as (0.1,).")
    for area in found:
        check_area(call, "areas", area)
    return found


def _check_words(call: str, variant: str, on: str) -> None:
    if variant not in ("preserve", "delete", "dual"):
        raise ValueError(f"{call}(variant={variant!r}): expected 'preserve', 'delete' or 'dual'.")
    if on not in ("image", "canvas"):
        raise ValueError(f"{call}(on={on!r}): expected 'image' or 'canvas'.")


def _check_numbers(call: str, values: Mapping[str, float], growth: float) -> None:
    for name, value in {**values, "growth": growth}.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{call}({name}=...): expected a number, got {type(value).__name__}.")
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{call}({name}={value}): expected a number of at least 0.")
    if not 0 < growth < math.inf:
        raise ValueError(f"{call}(growth={growth}): expected a factor above 0.")
