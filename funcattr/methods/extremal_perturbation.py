"""Extremal perturbation: the part of an image, of a given area, that alone makes an output largest."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

from torch import Tensor

from .. import maps
from ..engine.levels import is_plain_eager
from ..engine.loops import apart, loop, positive
from ..engine.scores import Model, scores_of
from ..engine.targets import Target
from .area_loss import check_area
from .mask_search import Search, State, Variant, ended, start, visible
from .mask_search import step as search_step
from .perturbation_pyramid import pyramid_of, with_slopes
from .rewards import Reward
from .smooth_mask import On, check_kernel, mask_grid

CALL = "extremal_perturbation"

Perturbation = Literal["blur", "fade"] | Callable[[Tensor], Tensor]


class ExtremalPerturbation(NamedTuple):
    """Masks, and how the search for them went.

    Attributes:
        masks: [N, A, H, W]
        reward: What is made large, at each step. [N, A, T]
        penalty: What is taken off for a wrong area, at each step; at least 0. [N, A, T]
    """

    masks: Tensor
    reward: Tensor
    penalty: Tensor


class SearchOptions(TypedDict, total=False):
    """The options of `extremal_perturbation`, for type checkers."""

    areas: float | Sequence[float]
    variant: Variant
    perturbation: Perturbation
    reward: Reward
    area_on: On
    steps: int
    learning_rate: float
    momentum: float
    dampening: float
    penalty: float
    growth: float
    step: int
    sigma: float
    levels: int
    max_blur: float
    jitter: bool
    smooth: float
    tolerance: float | None
    patience: int
    progress: bool
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None


@overload
def extremal_perturbation(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    return_history: Literal[False] = False,
    **options: Unpack[SearchOptions],
) -> Tensor: ...


@overload
def extremal_perturbation(
    model: Model, x: Tensor, target: Target = None, *, return_history: Literal[True], **options: Unpack[SearchOptions]
) -> ExtremalPerturbation: ...


def extremal_perturbation(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    areas: float | Sequence[float] = (0.1,),
    variant: Variant = "preserve",
    perturbation: Perturbation = "blur",
    reward: Reward = "simple",
    area_on: On = "image",
    steps: int = 800,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    dampening: float = 0.9,
    penalty: float = 300.0,
    growth: float = 1.0035,
    step: int = 7,
    sigma: float = 21.0,
    levels: int = 8,
    max_blur: float = 20.0,
    jitter: bool = True,
    smooth: float = 0.0,
    tolerance: float | None = None,
    patience: int = 20,
    progress: bool = False,
    return_history: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor | ExtremalPerturbation:
    """Smooth masks of given areas that make a model's output largest when the input is kept only where they are 1.

    m_a = argmax_m R(x perturbed where m < 1) - lambda L_a(m);  m = smooth_mask(p), p in [0, 1]

    by gradient ascent on p, with momentum and a lambda that grows. All N x A masks are searched for at once, each as if
    it were alone.

    Args:
        model, target, output, args, kwargs: As in `gradient`. A class of a spatial output [N, K, H, W] means its
            average over space here, as published.
        x: Images. [N, C, H, W]
        areas: Share of the pixels that each mask is to cover, between 0 and 1. [A]
        variant: "preserve" the output with what is shown, "delete" it by what is hidden, or "dual": both.
        perturbation: What becomes of the input where a mask is 0: "blur", "fade" to black, or a function of x, called
            once, that returns a pyramid [N, L, C, H, W] from the most perturbed level to x (`perturbation_pyramid`).
        reward: What is made large: "simple" the target y_c, "contrastive" y_c - max_{c' != c} y_c', or a function
            `(output [K, ...], target) -> [K]` of K perturbed copies and the target repeated for them.
        area_on: Where the area is measured: on the "image", or as published on the "canvas" around it, which makes the
            masks of small images too large.
        steps: T, steps of the search.
        learning_rate, momentum, dampening: Of the ascent: v = momentum v + (1 - dampening) g, p = p + learning_rate v.
        penalty: lambda at the first step.
        growth: Factor of lambda from step to step.
        step, sigma: Pixels between parameters and radius of the kernel, as in `smooth_mask`.
        levels, max_blur: Of the pyramid, as in `perturbation_pyramid`.
        jitter: Mirror the input horizontally at every other step (from the first).
        smooth: Standard deviation of a last Gaussian smoothing, as a share of min(H, W).
        tolerance: Least rise of the objective R - lambda L that counts as one; None runs all steps.
        patience: Steps without a rise after which the search for a mask ends, given a tolerance.
        progress: Show a progress bar.
        return_history: Return an `ExtremalPerturbation`, which has the masks and how the search went.

    Returns:
        Masks in [0, 1], those of the last forward pass; about a share `area` of the pixels is near 1. [N, A, H, W]
        With `return_history` an `ExtremalPerturbation`; where a search ended early, its last numbers go on.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; or if x is not [N, C, H, W], an area is not between
            0 and 1, an option is out of its range, or a function returns another shape.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: 100 * x[:, :, 8:24, 12:28].mean((1, 2, 3))  # looks at one square, a sixth of the image
        >>> x = torch.ones(1, 3, 40, 40)
        >>> masks = funcattr.extremal_perturbation(model, x, areas=0.2, sigma=7, perturbation="fade", steps=60)
        >>> masks.shape, masks[0, 0, 8:24, 12:28].mean() > 0.8, masks.mean() < 0.3
        (torch.Size([1, 1, 40, 40]), tensor(True), tensor(True))

    References:
        Fong et al., 2019, arXiv:1910.08485, equations 1 to 3.
    """
    x, target, args, kwargs = apart((x, target, args, kwargs))
    scores = scores_of(CALL, model, x, target, output, args, kwargs)
    _check_image(x)
    areas = _checked_areas(areas)
    check_kernel(CALL, step, sigma)
    _check_words(variant, area_on)
    numbers = {"learning_rate": learning_rate, "momentum": momentum, "dampening": dampening, "penalty": penalty}
    _check_numbers({**numbers, "smooth": smooth, "tolerance": tolerance or 0.0}, growth)
    size = (x.shape[2], x.shape[3])
    grid = mask_grid(x, size, step, sigma, area_on)
    ascent = (learning_rate, momentum, dampening, penalty, growth)
    ending = (tolerance, positive(CALL, "patience", patience))
    search = Search(size, grid, areas, variant, reward, area_on, *ascent, step, sigma, jitter, *ending)
    pyramid = with_slopes(_pyramid(x, perturbation, levels, max_blur))

    # A scan carries plain tuples only.
    def body(carry: tuple[Tensor, ...], t: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        state = State(*carry)
        # Where values can be looked at, nothing is computed for masks that stay as they are.
        if tolerance is None or not is_plain_eager() or not bool(ended(search, state).all()):
            state = search_step(search, scores, pyramid, state, t)
        return (*state,), (state.reward[None].clone(), state.penalty[None].clone())

    count = positive(CALL, "steps", steps)
    carry, history = loop(CALL, body, (*start(search, len(x)),), count, 1, device=x.device, progress=progress)
    masks = maps.smooth(visible(search, State(*carry).mask).to(x.dtype), smooth * min(size), padding="constant")
    if not return_history:
        return masks
    rewards, penalties = (values.movedim(0, -1).to(x.dtype) for values in history)
    return ExtremalPerturbation(masks, rewards, penalties)


def _pyramid(x: Tensor, perturbation: Perturbation, levels: int, max_blur: float) -> Tensor:
    if not callable(perturbation):
        return pyramid_of(CALL, x, perturbation, levels, max_blur)
    pyramid: Any = perturbation(x)
    if not isinstance(pyramid, Tensor):
        raise TypeError(f"{CALL}(perturbation=<function>): expected a tensor, got {type(pyramid).__name__}.")
    if pyramid.ndim != 5 or pyramid.shape[1] < 2 or pyramid[:, 0].shape != x.shape:
        n, *rest = x.shape
        raise ValueError(
            f"{CALL}(perturbation=<function>): expected a pyramid of 2 levels or more, shape {[n, 'L', *rest]}, "
            f"got {list(pyramid.shape)}."
        )
    return pyramid.to(x.dtype)


def _check_image(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{CALL}(x=...): expected one tensor of images, got {type(x).__name__}.")
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"{CALL}(x=...): expected images [N, C, H, W], got shape {list(x.shape)}.")
    if not x.is_floating_point():
        raise TypeError(f"{CALL}(x=...): expected a floating-point input, got {x.dtype}.")


def _checked_areas(areas: float | Sequence[float]) -> tuple[float, ...]:
    found = tuple(areas) if isinstance(areas, Sequence) else (areas,)
    if not found:
        raise ValueError(f"{CALL}(areas={areas!r}): expected one area or more, such as (0.1,).")
    for area in found:
        check_area(CALL, "areas", area)
    return found


def _check_words(variant: str, area_on: str) -> None:
    if variant not in ("preserve", "delete", "dual"):
        raise ValueError(f"{CALL}(variant={variant!r}): expected 'preserve', 'delete' or 'dual'.")
    if area_on not in ("image", "canvas"):
        raise ValueError(f"{CALL}(area_on={area_on!r}): expected 'image' or 'canvas'.")


def _check_numbers(values: Mapping[str, float], growth: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{CALL}({name}={value}): expected a number of at least 0.")
    if not 0 < growth < math.inf:
        raise ValueError(f"{CALL}(growth={growth}): expected a factor above 0.")
