"""The information bottleneck attribution of single examples: how many bits of each feature the decision needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Required, TypedDict, Unpack, get_args, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from ..engine.adam import Adam, adam
from ..engine.draws import Generator, normal, seed_from
from ..engine.errors import UntrackedPathError
from ..engine.examples import batch_of, merged, repeated_target
from ..engine.levels import derivative_is_final, is_differentiated, is_plain_eager
from ..engine.loops import apart, chunk_of, loop, positive
from ..engine.parts import split
from ..engine.passes import call_arguments, check_inputs, warn_if_training
from ..engine.scores import Model, as_functional, example_size
from ..engine.targets import Target, pick_output
from ..engine.targets import seed as seed_of
from .bottleneck import Flow, Prior, behind, flow_of, information, layer_of, prior_of, spatial_axes, to_saliency_map
from .feature_statistics import FeatureStatistics, check_value
from .losses import Loss, loss_of

CALL = "iba"
Mode = Literal["saliency", "capacity"]


class InformationBottleneck(NamedTuple):
    """What an example's bottleneck lets through, and how its optimisation went.

    Attributes:
        attributions: Bits, as `iba` returns them.
        alpha: Of the bottleneck that they are of, for `restrict_flow`. [N, ...]
        loss: The model's loss behind the bottleneck at each step, a mean over noise samples. [N, T]
        information: Mean capacity of the elements at each step, in nats. [N, T]
        gradient_norm: Of what is minimised, by alpha, at each step. [N, T]
    """

    attributions: Tensor
    alpha: Tensor
    loss: Tensor
    information: Tensor
    gradient_norm: Tensor


class BottleneckOptions(TypedDict, total=False):
    """The options of `iba`, for type checkers."""

    statistics: Required[FeatureStatistics]
    layer: str | None
    beta: float
    steps: int
    lr: float
    samples: int
    sigma: float | None
    spatial: Sequence[int] | None
    min_std: float
    initial_alpha: float
    loss: Loss | None
    mode: Mode
    noise: Tensor | None
    generator: Generator
    chunk_size: int | None
    progress: bool
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None


@overload
def iba(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    return_history: Literal[False] = False,
    **options: Unpack[BottleneckOptions],
) -> Tensor: ...
@overload
def iba(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    return_history: Literal[True],
    **options: Unpack[BottleneckOptions],
) -> InformationBottleneck: ...
def iba(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    statistics: FeatureStatistics,
    layer: str | None = None,
    beta: float = 10.0,
    steps: int = 10,
    lr: float = 1.0,
    samples: int = 10,
    sigma: float | None = 1.0,
    spatial: Sequence[int] | None = None,
    min_std: float = 0.01,
    initial_alpha: float = 5.0,
    loss: Loss | None = None,
    mode: Mode = "saliency",
    noise: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    return_history: bool = False,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Information bottleneck attribution (IBA): how many bits of each feature a model needs for its answer.

    min_alpha  mean_s loss(f(z_s)) + beta mean(capacity)
    z_s = lambda R + (1 - lambda) (mean + std e_s),  e_s ~ N(0, 1),  lambda = smoothed sigmoid(alpha)

    by Adam, for every example on its own: each of a batch has its own alpha and optimum, and gets what it would get
    alone. The part of the model before the layer runs once; steps run what comes after it, for all noise samples at
    once. The map is of the last step's bottleneck, before Adam's last move.

    Args:
        model: A module, a `FunctionalModel` or a callable; called as `model(x, *args, **kwargs)`. Not modified.
        x: Input, [N, ...]; a tuple or dict of inputs.
        target: Class, or class per example; a function of the output, which is to be kept large; or what `loss` takes.
        statistics: R's mean and spread over a data set, from `feature_statistics`. With the "relu" estimator negative
            z become 0, as in the paper's code.
        layer: The site of the bottleneck, R; by default that of the statistics. "features.17", or
            "features.17@input" for what goes into the module.
        beta: Weight of the information.
        steps: T, steps of Adam.
        lr: Its learning rate.
        samples: S, noise samples of each step.
        sigma: Standard deviation of the smoothing over space, in elements of the layer; None for none.
        spatial: Spatial dimensions of the layer's value; by default those from 2 on of values with four or more.
            Tokens [N, T, D] and vectors [N, D] have none, and are not smoothed.
        min_std: Smallest standard deviation of an element that is divided by.
        initial_alpha: Where alpha starts: 5 lets nearly all through.
        loss: `(output) -> [copies]`, or `(output, target) -> [copies]` if a target is given (repeated for the copies);
            a function of torch.nn.functional with reduction="none", say. Rows of a tensor and items of a list are
            repeated. By default the cross-entropy of the class,
            -log softmax(output)_c, averaged over space.
        mode: "saliency" for a map of the input's spatial size, or "capacity" for each element of the layer.
        noise: The e_s themselves, [T, S, N or 1, ...].
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Noise samples that run at once (a divisor of S is taken); by default so many that 16 copies do.
        return_history: Return an `InformationBottleneck`, which has the attributions and how the optimisation went.
        progress: Whether to show a progress bar.
        output, args, kwargs: As in `gradient`.

    Returns:
        Bits. "saliency": [N, 1, H, W] at the spatial size of x, [N, T] for tokens, [N, D] for vectors; sums to the
        "capacity": [N, ...] of the layer, in bits too, without noise at least 0. See `to_saliency_map`, `capacity`.

    Raises:
        ValueError: If the statistics are of another layer or shape or not finite, a number is out of its range, or the
            loss is not one number for each copy.
        TypeError: If an argument is of the wrong kind.
        UnknownSiteError: If there is no such layer.
        UntrackedPathError: If the loss does not depend on the layer.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> statistics = funcattr.feature_statistics(model, torch.randn(1000, 3), layer="0")
        >>> funcattr.iba(model, torch.ones(1, 3), 0, statistics=statistics).shape
        torch.Size([1, 4])

    References:
        Schulz et al., 2020, arXiv:2001.00396, equations 1 to 7.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"{CALL}(mode={mode!r}): expected 'saliency' or 'capacity'.")
    site = layer_of(CALL, layer, statistics)
    x, target, noise, args, kwargs = apart((x, target, noise, args, kwargs))
    fm, examples = as_functional(model), batch_of(CALL, x)
    check_inputs(CALL, fm, pytree.tree_leaves(x))
    warn_if_training(CALL, fm, stacklevel=2)
    _check(beta=beta, lr=lr, initial_alpha=initial_alpha)
    count, drawn = positive(CALL, "steps", steps), positive(CALL, "samples", samples)
    chunk = _divisor(drawn, chunk_of(CALL, chunk_size, drawn, example_size(x), examples))
    inputs = call_arguments(x, args, dict(kwargs or {}))
    value, tail = split(f"{CALL}(layer={site!r})", fm, site, inputs, examples, chunk)
    check_value(CALL, site, value, examples)
    prior = prior_of(CALL, statistics, value, min_std)
    spatial_axes(CALL, value, spatial)
    _check_noise(noise, (count, drawn), value)

    copies: Any = repeated_target(CALL, target, examples, chunk) if loss is None else _each_copy(target, chunk)
    shapes: list[torch.Size] = []

    def model_loss(z: Tensor) -> Tensor:
        found = pick_output(CALL, tail(merged(z.to(value.dtype))), output)
        if not torch.compiler.is_dynamo_compiling():
            shapes[:] = [found.shape[1:]]
        return loss_of(CALL, loss, found, copies, examples * chunk).to(z.dtype).unflatten(0, (examples, chunk))

    problem = _Problem(value.to(prior.mean.dtype), prior, model_loss, beta, lr, sigma, spatial)
    seed = seed_from(CALL, generator)

    def body(carry: tuple[Tensor, ...], t: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        *state, _ = carry
        parts = [
            _noise(noise, t, torch.arange(i, i + chunk, device=t.device), drawn, problem.value, seed)
            for i in range(0, drawn, chunk)
        ]
        after, history = _step(problem, Adam(*state), parts, t[0] + 1)
        return (*after, state[0].clone()), tuple(number[None].clone() for number in history)

    alpha = torch.full_like(problem.value, initial_alpha)
    start = (alpha, torch.zeros_like(alpha), torch.zeros_like(alpha), alpha.clone())
    carry, history = loop(CALL, body, start, count, 1, device=value.device, progress=progress)
    if loss is None and isinstance(target, Tensor) and is_plain_eager():
        seed_of(CALL, value.new_zeros(examples, *shapes[0]), target)  # classes out of range have made NaN
    last = carry[3]
    nats = information(problem.value, flow_of(CALL, last, sigma, spatial), prior).to(value.dtype)
    bits = _map(nats, x, spatial) if mode == "saliency" else nats / math.log(2)
    if not return_history:
        return bits
    return InformationBottleneck(bits, last, *(numbers.movedim(0, -1).to(value.dtype) for numbers in history))


class _Problem(NamedTuple):
    """What is minimised, and how; as in `iba`. `model_loss` is of z [N, c, ...], for each copy [N, c]."""

    value: Tensor
    prior: Prior
    model_loss: Callable[[Tensor], Tensor]
    beta: float
    lr: float
    sigma: float | None
    spatial: Sequence[int] | None


def _step(problem: _Problem, state: Adam, parts: list[Tensor], t: Tensor) -> tuple[Adam, tuple[Tensor, Tensor, Tensor]]:
    """One step of Adam, over the noise in parts [c, N or 1, ...]; and its loss, information and gradient norm [N]."""

    def of_model(alpha: Tensor, noise: Tensor) -> Tensor:
        flow = flow_of(CALL, alpha, problem.sigma, problem.spatial)
        value, keep, drop = (tensor.unsqueeze(1) for tensor in (problem.value, *flow))
        z = behind(value, Flow(keep, drop), noise.transpose(0, 1), problem.prior)
        losses = problem.model_loss(z.expand(len(alpha), len(noise), *alpha.shape[1:]))
        # Dynamo cannot follow the question.
        if not torch.compiler.is_dynamo_compiling() and not is_differentiated(losses):
            raise UntrackedPathError(
                f"{CALL}: the loss does not depend on the layer's value by any path that can be differentiated. "
                "Look for detach(), comparisons or integer results in the model or the loss after the layer."
            )
        return losses.mean(1)

    def of_information(alpha: Tensor) -> Tensor:
        flow = flow_of(CALL, alpha, problem.sigma, problem.spatial)
        return information(problem.value, flow, problem.prior).flatten(1).mean(1)

    nats, gradient = _gradient(of_information, state.value, problem.beta)
    loss = torch.zeros_like(nats)
    for noise in parts:
        share, part = _gradient(lambda alpha, noise=noise: of_model(alpha, noise), state.value, 1 / len(parts))
        loss, gradient = loss + share / len(parts), gradient + part
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return adam(state, gradient, t, problem.lr), (loss, nats, norm)


def _gradient(function: Callable[[Tensor], Tensor], alpha: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """A function of alpha, one number for each example, and the gradient of `weight` times it."""
    # Not torch.func.grad, which keeps the graph of the gradient for one more derivative.
    found: Any = torch.func.vjp(function, alpha)
    values, pull = found
    final = derivative_is_final(values)
    return values, pull(torch.full_like(values, weight), retain_graph=False, create_graph=False if final else None)[0]


def _noise(given: Tensor | None, t: Tensor, index: Tensor, samples: int, value: Tensor, seed: int) -> Tensor:
    """Noise samples of the step t [1]. [c, N or 1, ...]"""
    if given is not None:
        return given[t][0][index].to(value.dtype)
    return normal(t * samples + index, value.shape[1:], value, seed).unsqueeze(1)


def _each_copy(target: Any, times: int) -> Any:
    """What goes to a loss of the user's: tensors with their rows repeated, and lists and tuples with their items."""
    if isinstance(target, list | tuple):
        return type(target)(item for item in target for _ in range(times))
    return target.repeat_interleave(times, 0) if isinstance(target, Tensor) and target.ndim else target


def _map(nats: Tensor, x: Any, spatial: Sequence[int] | None) -> Tensor:
    """The saliency map, at the spatial size of the input if that has one."""
    axes = spatial_axes(CALL, nats, spatial)
    if isinstance(x, Tensor) and axes and x.ndim == 2 + len(axes):
        # Channels lie in the input where they lie in the layer.
        return to_saliency_map(nats, [x.shape[axis] for axis in axes], spatial=spatial)
    return to_saliency_map(nats, spatial=spatial)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is no more than `most`."""
    return next(size for size in range(most, 0, -1) if count % size == 0)


def _check(**numbers: float) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{CALL}({name}=...): expected a number, got {type(number).__name__}.")
        if not math.isfinite(number) or (number < 0 and name != "initial_alpha"):
            raise ValueError(f"{CALL}({name}={number}): expected a finite number of at least 0.")


def _check_noise(noise: Tensor | None, counts: tuple[int, int], value: Tensor) -> None:
    if noise is None:
        return
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise TypeError(f"{CALL}(noise=...): expected a floating-point tensor.")
    fits = noise.ndim == value.ndim + 2 and noise.shape[2] in (1, len(value)) and noise.shape[3:] == value.shape[1:]
    if not fits or tuple(noise.shape[:2]) != counts:
        expected = [*counts, f"{len(value)} or 1", *value.shape[1:]]
        raise ValueError(f"{CALL}(noise=...): expected shape {expected}, got {list(noise.shape)}.")
