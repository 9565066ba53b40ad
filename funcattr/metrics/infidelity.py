"""How badly attributions predict what the model loses when the input is perturbed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.activation import Activation, activated
from ..attribution.example_dims import ExampleDims
from ..attribution.question import Model, Question, ask, own
from ..attribution.separate_copies import copies_of
from ..attribution.targets import Target, score
from ..batch import merged, parted
from ..methods.perturbation.coalitions import precise
from ..sampling.baselines import Baseline, baseline_like
from ..sampling.draws import Generator, integers, normal, seed_from
from ..sampling.loops import chunk_for, loop, positive, wide
from .players import checked_attributions


def infidelity(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    sigma: float | None = None,
    window: int | Sequence[int] | None = None,
    baseline: Baseline = 0.0,
    samples: int = 100,
    scaled: bool = False,
    activation: Activation | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """How badly attributions predict the change of the output under perturbations I of the input: 0 is best.

    E_I (sum_i I_i A_i - (y(x) - y(x - I)))^2

    The attributions are in units of the gradient here. A map that shares out the output, such as that of integrated
    gradients or LRP, enters as A / (x - x').

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        attributions: Structured as x, each with its shape or with 1 in place of some dimensions.
        sigma: I is normal noise with this standard deviation, in units of x.
        window: In place of noise I is x - x' inside a window at a random place, and 0 outside: the window's size in
            the last dimensions of x, (8, 8) say; one int for the last dimension alone.
        baseline: x', for `window`.
        samples: How many perturbations. Each is drawn afresh, the same for all examples.
        scaled: Whether the attributions are multiplied by their best factor first, one for each example, so that their
            scale does not count: beta = E (I A)(y(x) - y(x - I)) / E (I A)^2
        activation: Of the output, as in `deletion`; by default the output itself.
        generator: A seed, or a `torch.Generator` from which one is drawn. The perturbations do not depend on
            `chunk_size`.
        chunk_size: Perturbations that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        The mean square of what is missed, in units of y^2. [N] Not a number where an attribution is.

    Raises:
        ValueError, TypeError: As in `gradient`; and if neither or both of `sigma` and `window` are given, or the
            attributions, the baseline or the window do not fit x.

    Example:
        >>> import torch, funcattr
        >>> model, x = torch.nn.Linear(4, 2).double(), torch.randn(3, 4).double()
        >>> g = funcattr.gradient(model, x, 1)
        >>> bool((funcattr.metrics.infidelity(model, x, 1, g, sigma=0.5) < 1e-24).all())
        True

    References:
        Yeh et al., 2019, arXiv:1901.09392.
    """
    question = ask("infidelity", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    call, x, count = question.call, question.x, positive(question.call, "samples", samples)
    given = own(checked_attributions(question, attributions))
    start = baseline_like(call, x, question.laid(baseline))
    if (sigma is None) == (window is None):
        raise ValueError(f"{call}(sigma={sigma}, window={window}): expected one of both, to say what the noise is.")
    if sigma is not None and not (isinstance(baseline, int | float) and baseline == 0):
        raise ValueError(f"{call}(baseline=...): it is for window=; noise goes to no baseline.")
    if sigma is not None and (isinstance(sigma, bool) or not isinstance(sigma, int | float)):
        raise TypeError(f"{call}(sigma=...): expected a number, got {type(sigma).__name__}.")
    if sigma is not None and not 0 < sigma < float("inf"):
        raise ValueError(f"{call}(sigma={sigma}): expected a standard deviation above 0.")
    sizes = () if window is None else _window(question, window)
    seed = seed_from(call, generator)
    begins = _begins(x, sizes, torch.arange(count, device=question.device), seed) if sizes else []

    def perturbations(index: Tensor) -> Any:
        """I, structured as x, each [c, N or 1, ...]"""
        if sigma is None:
            return ((x - start) * _inside(x, sizes, [begin[index] for begin in begins]).unsqueeze(1),)
        leaves = pytree.tree_leaves(x)
        return [sigma * normal(index, leaf.shape[1:], leaf, seed, k).unsqueeze(1) for k, leaf in enumerate(leaves)]

    whole = precise(score(call, activated(call, question.outputs(), activation), question.target)).unsqueeze(1)
    leaves, structure = pytree.tree_flatten(x)

    def body(done: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        moves = perturbations(index)
        copies = [merged((leaf - move).transpose(0, 1)) for leaf, move in zip(leaves, moves, strict=True)]
        asked = copies_of(question, pytree.tree_unflatten(copies, structure))
        found = parted(precise(score(call, activated(call, asked.outputs(), activation), asked.target)), len(index))
        parts = [move * a for move, a in zip(moves, pytree.tree_leaves(given), strict=True)]
        parts = [part.reshape(*part.shape[:2], -1) for part in parts]
        predicted = torch.stack([part.sum(2, dtype=wide(part.dtype)) for part in parts]).sum(0)  # [c, N]
        return done + len(index), (predicted.clone(), (whole - found).transpose(0, 1).clone())

    done = torch.zeros((), dtype=torch.long, device=question.device)
    chunk = chunk_for(question, chunk_size, count)
    _, (predicted, lost) = loop(call, body, done, count, chunk, device=question.device, progress=progress)
    if scaled:
        power = (predicted**2).mean(0)
        factor = (predicted * lost).mean(0) / torch.where(power > 0, power, 1)
        predicted = predicted * factor
    return ((predicted - lost) ** 2).mean(0)


def _window(question: Question, window: int | Sequence[int]) -> tuple[int, ...]:
    call, x = question.call, question.x
    if not isinstance(x, Tensor):
        raise TypeError(f"{call}(window=...): expected one tensor as the input, got {type(x).__name__}.")
    if not isinstance(window, int | Sequence) or isinstance(window, str):
        raise TypeError(f"{call}(window=...): expected an int, or several, got {type(window).__name__}.")
    sizes = (window,) if isinstance(window, int) else tuple(window)
    if not 0 < len(sizes) < x.ndim:
        raise ValueError(f"{call}(window={window}): expected 1 to {x.ndim - 1} sizes, for the last dimensions of x.")
    for size, length in zip(sizes, x.shape[-len(sizes) :], strict=True):
        if positive(call, "window", size) > length:
            raise ValueError(f"{call}(window={window}): expected no more than x has, {list(x.shape)}.")
    return sizes


def _begins(x: Tensor, window: tuple[int, ...], index: Tensor, seed: int) -> list[Tensor]:
    """Where the windows of some samples begin in each of the last dimensions. Each [c]"""
    axes = range(x.ndim - len(window), x.ndim)
    return [
        integers(index, x.shape[axis] - size + 1, seed=seed, stream=axis)
        for axis, size in zip(axes, window, strict=True)
    ]


def _inside(x: Tensor, window: tuple[int, ...], begins: list[Tensor]) -> Tensor:
    """Which values lie in windows that begin at some places. [c, 1, ..., 1, *lengths]"""
    inside = torch.ones(len(begins[0]), *[1] * (x.ndim - 1), dtype=torch.bool, device=x.device)
    for axis, (size, begin) in enumerate(zip(window, begins, strict=True), x.ndim - len(window)):
        first = begin.reshape(-1, *[1] * (x.ndim - 1))
        places = torch.arange(x.shape[axis], device=x.device).reshape(-1, *[1] * (x.ndim - 1 - axis))
        inside = inside & (places >= first) & (places < first + size)
    return inside
