"""Information bottleneck attribution of single examples: the bits of each feature that the decision needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..._torch import is_differentiated
from ...attribution.example_dims import ExampleDims
from ...attribution.func_pullback import func_pullback
from ...attribution.question import Layer, Model, Question, ask, own
from ...attribution.separate_copies import check_separate
from ...attribution.separate_rows import of_separate_rows
from ...attribution.targets import Target, cotangent_of, repeated_target
from ...batch import merged, repeated
from ...errors import UntrackedPathError
from ...sampling.draws import Generator, normal, seed_from
from ...sampling.loops import chunk_for, loop, positive
from ...sampling.noise import check_noise
from ...torch_state import derivative_is_final, is_plain_eager
from .adam import Adam, adam
from .each_statistics import for_each_statistics
from .feature_statistics import FeatureStatistics, check_value
from .flow import Gate, Prior, behind, gate_of, in_bits, information, layer_of, prior_of, spatial_axes, to_saliency_map
from .head_and_tail import split
from .losses import Loss, loss_of

Per = Literal["position", "element"]
"""Whether bits are of a position of the input, or of an element of the layer."""


class InformationBottleneck(NamedTuple):
    """The bits that an example's bottleneck lets through, and the history of its optimisation.

    Attributes:
        attributions: Bits, as `iba` returns them.
        alpha: Of the bottleneck that lets these bits through, for `restrict_flow`. [N, ...]
        loss: The model's loss behind the bottleneck at each step, a mean over noise samples. [N, T]
        information: Mean capacity of the elements at each step, in bits. [N, T]
        gradient_norm: Of the minimised number, by alpha, at each step. [N, T]
    """

    attributions: Tensor
    alpha: Tensor
    loss: Tensor
    information: Tensor
    gradient_norm: Tensor


@for_each_statistics
def iba(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    statistics: FeatureStatistics,
    layer: Layer | None = None,
    beta: float = 10.0,
    steps: int = 10,
    lr: float = 1.0,
    samples: int = 10,
    sigma: float | None = 1.0,
    spatial: Sequence[int] | None = None,
    min_std: float = 0.01,
    relu: bool = False,
    initial_alpha: float = 5.0,
    loss: Loss | None = None,
    per: Per = "position",
    noise: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """Information bottleneck attribution (IBA): how many bits of each feature a model needs for its answer.

    min_alpha  mean_s loss(f(z_s)) + beta mean(capacity in nats)
    z_s = lambda R + (1 - lambda) (mean + std e_s),  e_s ~ N(0, 1),  lambda = smoothed sigmoid(alpha)

    by Adam, for every example on its own: each of a batch has its own alpha and optimum, and gets what it would get
    alone. Steps run the part of the model behind the layer, for all noise samples at once; the part before it runs for
    the batch and in the first step. The map is of the last step's bottleneck, before Adam's last move.

    Args:
        model: A module, a `FunctionalModel` or a callable; called as `model(x, *args, **kwargs)`. Not modified.
        x: Input, [N, ...]; a tuple or mapping of inputs.
        target: Class, or class per example; a function of the output, to be kept large; or the target of `loss`.
        statistics: R's mean and spread over a data set, from `bottleneck.feature_statistics`; or a dict of them by
            site, for a bottleneck at each.
        layer: The site of the bottleneck, R; by default that of the statistics. "features.17", or
            "features.17@input" for the input of the module.
        beta: Weight of the information, which the loss counts in nats, as in the paper.
        steps: T, steps of Adam.
        lr: Its learning rate.
        samples: S, noise samples of each step.
        sigma: Standard deviation of the smoothing over space, in elements of the layer; None for none.
        spatial: Spatial dimensions of the layer's value with its examples in front; by default those from 2 on of
            values with four or more. Tokens [N, T, D] and vectors [N, D] have none, and are not smoothed.
        min_std: Smallest standard deviation of an element that is divided by.
        relu: Whether negative z become 0, as fits a layer behind a relu. With the "relu" estimator they always do.
        initial_alpha: Where alpha starts: 5 lets nearly all through.
        loss: `(output) -> [copies]`, or `(output, target) -> [copies]` if a target is given (repeated for the copies);
            a function of torch.nn.functional with reduction="none", say. Rows of a tensor and items of a list are
            repeated. By default the cross-entropy of the class,
            -log softmax(output)_c, averaged over space.
        per: "position" for a map of the input's spatial size, or "element" for the bits of each element of the layer.
        noise: The e_s themselves, [T, S, N or 1, ...].
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Noise samples that run at once (a divisor of S is taken); by default so many that 16 copies do.
        progress: Whether to show a progress bar.
        output, args, kwargs, example_dims: As in `gradient`; the dimension of "layer" is that of R.

    Returns:
        Bits, at least 0. Per position: [N, 1, H, W] at the spatial size of x, [N, T] for tokens, [N, D] for vectors; it
        sums to the bits per element, [N, ...] of the layer. With `example_dims` the examples are where the layer has
        them: [1, H, W] for one. For statistics by site, a dict of bits by site. `bottleneck.iba_search` gives the
        history too.

    Raises:
        ValueError: If the statistics are of another layer or shape or not finite, a number is out of its range, or the
            loss is not one number for each copy.
        TypeError: If an argument is of the wrong kind.
        UnknownSiteError: If there is no such layer.
        UntrackedPathError: If the loss does not depend on the layer.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> statistics = funcattr.bottleneck.feature_statistics(model, torch.randn(1000, 3), layer="0")
        >>> funcattr.iba(model, torch.ones(1, 3), 0, statistics=statistics).shape
        torch.Size([1, 4])

    References:
        Schulz et al., 2020, arXiv:2001.00396, equations 1 to 7.
    """
    question = ask("iba", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    given = (statistics, layer, beta, steps, lr, samples, sigma, spatial, min_std, relu, initial_alpha, loss)
    return _found(question, *given, per, noise, generator, chunk_size, progress).attributions


@for_each_statistics
def iba_search(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    statistics: FeatureStatistics,
    layer: Layer | None = None,
    beta: float = 10.0,
    steps: int = 10,
    lr: float = 1.0,
    samples: int = 10,
    sigma: float | None = 1.0,
    spatial: Sequence[int] | None = None,
    min_std: float = 0.01,
    relu: bool = False,
    initial_alpha: float = 5.0,
    loss: Loss | None = None,
    per: Per = "position",
    noise: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> InformationBottleneck:
    """The bits of `iba`, and the history of the search for them.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `iba`, like all other arguments.

    Returns:
        An `InformationBottleneck`: the bits, alpha [N, ...] of the bottleneck for `restrict_flow`, and the loss, the
        information in bits and the gradient's norm at each step, [N, T] each. With `example_dims`, alpha has its
        examples where the layer has them, the histories in front.

    Raises:
        ValueError, TypeError, UnknownSiteError, UntrackedPathError: As in `iba`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> statistics = funcattr.bottleneck.feature_statistics(model, torch.randn(1000, 3), layer="0")
        >>> found = funcattr.bottleneck.iba_search(model, torch.ones(1, 3), 0, statistics=statistics)
        >>> found.attributions.shape, found.loss.shape
        (torch.Size([1, 4]), torch.Size([1, 10]))

    References:
        Schulz et al., 2020, arXiv:2001.00396, equations 1 to 7.
    """
    question = ask("iba_search", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    given = (statistics, layer, beta, steps, lr, samples, sigma, spatial, min_std, relu, initial_alpha, loss)
    return _found(question, *given, per, noise, generator, chunk_size, progress)


def _found(
    question: Question,
    statistics: FeatureStatistics,
    layer: Layer | None,
    beta: float,
    steps: int,
    lr: float,
    samples: int,
    sigma: float | None,
    spatial: Sequence[int] | None,
    min_std: float,
    relu: bool,
    initial_alpha: float,
    loss: Loss | None,
    per: Per,
    noise: Tensor | None,
    generator: Generator,
    chunk_size: int | None,
    progress: bool,
) -> InformationBottleneck:
    """The search, for options as in `iba`."""
    call, target, examples = question.call, question.target, question.examples
    if per not in get_args(Per):
        raise ValueError(f"{call}(per={per!r}): expected 'position' or 'element'.")
    site = layer_of(call, question.model, layer, statistics)
    _check_numbers(call, beta=beta, lr=lr, initial_alpha=initial_alpha)
    count, drawn = positive(call, "steps", steps), positive(call, "samples", samples)
    chunk = _divisor(drawn, chunk_for(question, chunk_size, drawn))
    question = question._replace(layer=site)
    if chunk > 1:
        check_separate(question)
    copied_inputs = question._replace(target=None).of_copies(repeated(question.x, examples, chunk)).arguments
    at_site, tail = split(f"{call}(layer={site!r})", question.model, site, question.arguments, copied_inputs)
    value = question.at_layer(at_site) if isinstance(at_site, Tensor) else at_site
    check_value(call, site, value, examples)
    prior = prior_of(call, statistics, value, min_std, relu)
    spatial_axes(call, value, spatial)
    if noise is not None:
        noise = own(noise)
        check_noise(call, noise, value, (count, drawn))

    if callable(loss):
        loss = of_separate_rows(call, "loss", loss)
    copies: Any = repeated_target(call, target, examples, chunk) if loss is None else _each_copy(target, chunk)
    shapes: list[torch.Size] = []

    def model_loss(z: Tensor) -> Tensor:
        output = tail(question.layer_as_given(merged(z.to(value.dtype))))
        found = question.output_in_front(question.picked(output))
        if not torch.compiler.is_dynamo_compiling():
            shapes[:] = [found.shape[1:]]
        return loss_of(call, loss, found, copies, examples * chunk).to(z.dtype).unflatten(0, (examples, chunk))

    problem = _Problem(call, value.to(prior.mean.dtype), prior, model_loss, beta, lr, sigma, spatial)
    seed = seed_from(call, generator)

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
    carry, history = loop(call, body, start, count, 1, device=value.device, progress=progress)
    if loss is None and isinstance(target, Tensor) and is_plain_eager():
        cotangent_of(call, value.new_zeros(examples, *shapes[0]), target)  # classes out of range have made NaN
    last = carry[3]
    bits = in_bits(information(problem.value, gate_of(call, last, sigma, spatial), prior)).to(value.dtype)
    losses, nats, norms = (numbers.movedim(0, -1).to(value.dtype) for numbers in history)
    attributions = _map(call, bits, question.x, spatial) if per == "position" else bits
    attributions, last = question.layer_as_given(attributions), question.layer_as_given(last)
    return InformationBottleneck(attributions, last, losses, in_bits(nats), norms)


class _Problem(NamedTuple):
    """The minimised number, with the options of `iba`; `model_loss` is of z [N, c, ...], for each copy [N, c]."""

    call: str
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
        gate = gate_of(problem.call, alpha, problem.sigma, problem.spatial)
        value, keep, drop = (tensor.unsqueeze(1) for tensor in (problem.value, *gate))
        z = behind(value, Gate(keep, drop), noise.transpose(0, 1), problem.prior)
        losses = problem.model_loss(z.expand(len(alpha), len(noise), *alpha.shape[1:]))
        # Dynamo cannot follow the question.
        if not torch.compiler.is_dynamo_compiling() and not is_differentiated(losses):
            raise UntrackedPathError(
                f"{problem.call}: the loss does not depend on the layer's value by any path that can be "
                "differentiated. Look for detach(), comparisons or integer results in the model or the loss after the "
                "layer."
            )
        return losses.mean(1)

    def of_information(alpha: Tensor) -> Tensor:
        gate = gate_of(problem.call, alpha, problem.sigma, problem.spatial)
        return information(problem.value, gate, problem.prior).flatten(1).mean(1)

    nats, gradient = _gradient(problem.call, of_information, state.value, problem.beta)
    loss = torch.zeros_like(nats)
    for noise in parts:
        share, part = _gradient(
            problem.call, lambda alpha, noise=noise: of_model(alpha, noise), state.value, 1 / len(parts)
        )
        loss, gradient = loss + share / len(parts), gradient + part
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return adam(state, gradient, t, problem.lr), (loss, nats, norm)


def _gradient(call: str, function: Callable[[Tensor], Tensor], alpha: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """A function of alpha, one number for each example, and the gradient of `weight` times it."""
    values, pull = func_pullback(call, function, alpha)
    final = derivative_is_final(values)
    return values, pull(torch.full_like(values, weight), retain_graph=False, create_graph=False if final else None)[0]


def _noise(given: Tensor | None, t: Tensor, index: Tensor, samples: int, value: Tensor, seed: int) -> Tensor:
    """Noise samples of the step t [1]. [c, N or 1, ...]"""
    if given is not None:
        return given[t.to(given.device)][0][index.to(given.device)].to(value)
    return normal(t * samples + index, value.shape[1:], value, seed).unsqueeze(1)


def _each_copy(target: Any, times: int) -> Any:
    """A target for a loss of the user's: tensors with their rows repeated, and lists and tuples with their items."""
    if isinstance(target, list | tuple):
        return type(target)(item for item in target for _ in range(times))
    return target.repeat_interleave(times, 0) if isinstance(target, Tensor) and target.ndim else target


def _map(call: str, bits: Tensor, x: Any, spatial: Sequence[int] | None) -> Tensor:
    """The saliency map, at the spatial size of the input if that has one."""
    axes = spatial_axes(call, bits, spatial)
    if isinstance(x, Tensor) and axes and x.ndim == 2 + len(axes):
        # Channels lie in the input where they lie in the layer.
        return to_saliency_map(bits, [x.shape[axis] for axis in axes], spatial=spatial)
    return to_saliency_map(bits, spatial=spatial)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is no more than `most`."""
    return next(size for size in range(most, 0, -1) if count % size == 0)


def _check_numbers(call: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{call}({name}=...): expected a number, got {type(number).__name__}.")
        if not math.isfinite(number) or (number < 0 and name != "initial_alpha"):
            raise ValueError(f"{call}({name}={number}): expected a finite number of at least 0.")
