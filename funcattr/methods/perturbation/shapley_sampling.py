"""Shapley values by sampling: the mean of what features add when they come in random orders."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Model, ask, own
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import parted
from ...sampling.baselines import Baseline, distribution
from ...sampling.draws import Generator, seed_from
from ...sampling.draws import permutations as drawn
from ...sampling.loops import chunk_for, loop, positive
from ...torch_state import is_plain_eager
from .coalitions import empty_scores, feature_groups, precise


def shapley_sampling(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    samples: int = 25,
    feature_mask: Any = None,
    baseline: Baseline | distribution = 0.0,
    features: int | None = None,
    permutations: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Shapley values by sampling: the mean of what each feature adds to those before it, over random orders.

    A_j = mean_o f(features before j in o, and j) - f(features before j in o)

    An order of F features takes F - 1 forwards; f(x) and f(baseline) are shared. All examples of a batch get the same
    orders.

    Args:
        model, x, target, feature_mask, baseline, features, output, args, kwargs, example_dims: As in
            `feature_ablation`.
        samples: Number of orders.
        permutations: The orders themselves, each a permutation of 0 .. F - 1, in place of `samples`. [S, F]
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Forwards of the batch that run at once; by default so many that 16 examples do. It changes no order.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of the score, structured and shaped as `x`; the values of a feature all get its number.
        Whatever the number of samples, the features' numbers sum to f(x) - f(baseline).

    Raises:
        ValueError, TypeError: As in `feature_ablation`, or if `samples` or `permutations` are not as documented above.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
        >>> x = torch.ones(1, 4).double()
        >>> a = funcattr.shapley_sampling(model, x, 1, samples=3)
        >>> torch.allclose(a.sum(), (model(x) - model(0 * x))[0, 1])
        True

    References:
        Castro et al., 2009, doi:10.1016/j.cor.2008.04.004; Strumbelj & Kononenko, 2010, JMLR 11.
    """
    question = ask(
        "shapley_sampling",
        model,
        x,
        target,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
        forward_only=True,
    )
    call = question.call
    groups = feature_groups(question, feature_mask, baseline, features)
    count = groups.features
    last, players = count - 1, torch.arange(count, device=groups.device)
    permutations = own(permutations)
    orders = positive(call, "samples", samples) if permutations is None else _checked(call, permutations, count)
    permutations = None if permutations is None else permutations.to(groups.device)
    seed = seed_from(call, generator)
    empty = empty_scores(question, groups, chunk_size)
    gained = precise(question.scores()).unsqueeze(1) - empty
    if last == 0:
        return question.as_given(groups.spread(gained))

    def order_of(number: Tensor) -> Tensor:
        return drawn(number, count, seed=seed) if permutations is None else permutations[number]

    def body(total: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        # One of the first 1 .. F - 1 features of an order: what they score beyond the baseline is credited to the last
        # of them and charged to the next, so that a coalition runs once. The whole order's score goes to its last.
        row, index = index % groups.passes, index // groups.passes
        order, size = order_of(index // last), (index % last + 1).unsqueeze(1)
        present = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, players < size)
        credited, charged = (players == order.gather(1, place) for place in (size - 1, size))
        scored = parted(precise(copies_of(question, groups.copies(present, row)).scores()), len(index)) - empty
        whole = (charged & (size == last)).sum(0)
        return total + scored @ (credited.to(scored) - charged.to(scored)) + gained * whole, ()

    passes = orders * last * groups.passes
    chunk = chunk_for(question, chunk_size, passes)
    total = gained.new_zeros(question.examples, count)
    total, _ = loop(call, body, total, passes, chunk, device=groups.device, progress=progress)
    return question.as_given(groups.spread(total / (orders * groups.passes)))


def _checked(call: str, permutations: Any, features: int) -> int:
    """The number of the orders given."""
    if not isinstance(permutations, Tensor) or permutations.dtype != torch.long:
        got = permutations.dtype if isinstance(permutations, Tensor) else type(permutations).__name__
        raise TypeError(f"{call}(permutations=...): expected a tensor of torch.int64, got {got}.")
    if permutations.ndim != 2 or permutations.shape[1] != features or len(permutations) == 0:
        raise ValueError(
            f"{call}(permutations=...): expected shape ['S', {features}], one order of the {features} features a row, "
            f"got {list(permutations.shape)}."
        )
    players = torch.arange(features, device=permutations.device)
    if is_plain_eager() and not bool((permutations.sort(1).values == players).all()):
        raise ValueError(f"{call}(permutations=...): expected each row to hold each of 0 to {features - 1} once.")
    return len(permutations)
