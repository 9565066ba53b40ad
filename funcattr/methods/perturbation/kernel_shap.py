"""Kernel SHAP: Shapley values as the solution of one weighted linear regression."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Model, ask
from ...attribution.targets import Target
from ...sampling.baselines import Baseline, distribution
from ...sampling.draws import Generator, permutations, seed_from, uniform
from ...sampling.loops import positive
from .coalitions import checked_coalitions, empty_scores, feature_groups, precise
from .own_features import Share, scores_of_shares, shares_of, together
from .regression import require_scikit_learn, solution_operator


def kernel_shap(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    samples: int = 2048,
    feature_mask: Any = None,
    baseline: Baseline | distribution = 0.0,
    features: int | None = None,
    coalitions: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Kernel SHAP: the Shapley values, or an estimate, by the regression of the score on who is present.

    A = argmin_a sum_z w(z) (f(z) - f(0) - z . a)^2  subject to  sum_j a_j = f(1) - f(0)
    w(z) = (F - 1) / (C(F, |z|) |z| (F - |z|))

    f(z) is the score with the features of the coalition z present and the others at the baseline. Sizes of coalitions
    are taken whole, from the smallest and largest inwards, as long as `samples` suffices for their share; the others
    are drawn by their weight, each with its complement. Examples with the same features get the same coalitions; F
    counts the features that the example has.

    Args:
        model, x, target, feature_mask, baseline, features, output, args, kwargs, example_dims: As in
            `feature_ablation`.
        samples: Number of coalitions, each a forward; at least F - 1, and better a few times as many. From 2^F - 2 on
            all run (2048 are for 11 features), and the result is exact.
        coalitions: The coalitions themselves, as drawn by their weight w: they count alike. Boolean or integer, [S, F]
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Coalitions that run at once; by default so many that 16 examples do. It changes no coalition.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of the score, structured and shaped as `x`; the values of a feature all get its number.
        Whatever the number of samples, the features' numbers sum to f(x) - f(baseline); with `features` given, those of
        numbers that no value has are among them.

    Raises:
        ValueError, TypeError: As in `feature_ablation`, or if `samples` or `coalitions` are not as documented above.
        ImportError: If scikit-learn, which solves the regression, is not installed.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
        >>> x = torch.ones(1, 4).double()
        >>> a = funcattr.kernel_shap(model, x, 1)
        >>> torch.allclose(a.sum(), (model(x) - model(0 * x))[0, 1])
        True

    References:
        Lundberg & Lee, 2017, arXiv:1705.07874, theorem 2; pairs: Covert & Lee, 2021, arXiv:2012.01536.
    """
    question = ask(
        "kernel_shap",
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
    seed, count = seed_from(call, generator), positive(call, "samples", samples)
    given = None if coalitions is None else checked_coalitions(call, coalitions, groups)
    shares = shares_of(groups, features)
    _check_enough(call, count if given is None else len(given), max(len(share.features) for share in shares))
    empty = empty_scores(question, groups, chunk_size)
    gained = precise(question.scores()).unsqueeze(1) - empty
    if all(len(share.features) == 1 for share in shares):
        return question.as_given(groups.spread(gained.expand(-1, groups.features)))
    require_scikit_learn(call)
    drawn = [_coalitions(share, given, count, seed) for share in shares]

    def solve(share: Share, present: Tensor, weights: Tensor, scored: Tensor) -> Tensor:
        rise, start = (gained, empty) if len(shares) == 1 else (gained[share.examples], empty[share.examples])
        if len(share.features) == 1:
            return rise
        # The last feature gets what the others leave of the sum, which frees the regression of its constraint.
        last = present[:, -1:].double()
        operator = solution_operator(call, present[:, :-1].double() - last, weights)
        others = (scored - start - rise * last.T.to(rise)) @ operator.to(rise)
        return torch.cat([others, rise - others.sum(1, keepdim=True)], 1)

    members = [present for present, _ in drawn]
    scored = scores_of_shares(question, groups, shares, members, chunk_size, progress)
    values = [solve(share, *own, scores) for share, own, scores in zip(shares, drawn, scored, strict=True)]
    return question.as_given(groups.spread(together(groups, shares, values)))


def _coalitions(share: Share, given: Tensor | None, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """The coalitions of a share's features, and their weights. [S, k], [S]"""
    device, count = share.features.device, len(share.features)
    if given is not None:
        own = given[:, share.features]
        return own, torch.ones(len(own), dtype=torch.float64, device=device)
    if count == 1:  # there is nothing to draw: it gets all that there is
        return torch.zeros(0, 1, dtype=torch.bool, device=device), torch.zeros(0, dtype=torch.float64, device=device)
    return kernel_coalitions(samples, count, seed, device)


def _check_enough(call: str, coalitions: int, features: int) -> None:
    if coalitions < features - 1:
        raise ValueError(
            f"{call}(samples={coalitions}): expected at least {features - 1} coalitions for {features} features, or "
            "the regression has many solutions. Group values by feature_mask=, or take more."
        )


def kernel_coalitions(samples: int, features: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Coalitions of some of the features, and the weight of each in the regression.

    Args:
        samples: How many, at most.
        features: F, at least 2.
        seed, device: Of the random ones.

    Returns:
        Who is present, [S, F], and weights that sum to those of all coalitions, [S]; S = min(samples, 2^F - 2).
    """
    count = min(samples, 2**features - 2)
    pairs = torch.arange(-(-count // 2), device=device)
    return _kernel_coalitions(pairs, count, features, seed)


@torch.library.custom_op("funcattr::kernel_coalitions", mutates_args=())
def _kernel_coalitions(pairs: Tensor, count: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    whole = _whole_sizes(count, features)
    present, weights = [], []
    for size in whole:
        members = torch.tensor(list(combinations(range(features), size)))
        present.append(torch.zeros(len(members), features, dtype=torch.bool).scatter(1, members, True).to(pairs.device))
        weights.append(torch.full((len(members),), _mass(features, size) / len(members), dtype=torch.float64))
    left = count - sum(map(len, present))
    if left:
        sizes = [size for size in range(1, features) if size not in whole]
        masses = torch.tensor([_mass(features, size) for size in sizes], dtype=torch.float64, device=pairs.device)
        pairs = pairs[: -(-left // 2)]
        place = uniform(pairs, (), masses, seed, 1) * masses.sum()
        size = sizes[0] + torch.searchsorted(masses.cumsum(0), place, right=True).clamp(max=len(sizes) - 1)
        drawn = permutations(pairs, features, seed=seed) < size.unsqueeze(1)
        present.append(torch.stack([drawn, ~drawn], 1).flatten(0, 1)[:left])
        weights.append(torch.full((left,), masses.sum().item() / left, dtype=torch.float64))
    return torch.cat(present), torch.cat(weights).to(pairs.device)


@_kernel_coalitions.register_fake
def _(pairs: Tensor, count: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    return pairs.new_empty(count, features, dtype=torch.bool), pairs.new_empty(count, dtype=torch.float64)


def _whole_sizes(count: int, features: int) -> list[int]:
    """The sizes whose coalitions are all among `count`: as many as their share by weight of what is left."""
    whole: list[int] = []
    left, rest = count, sum(_mass(features, size) for size in range(1, features))
    for smallest in range(1, features // 2 + 1):
        sizes = sorted({smallest, features - smallest})
        number, share = sum(math.comb(features, size) for size in sizes), sum(_mass(features, size) for size in sizes)
        # The last sizes' share is exactly what is left, but for rounding.
        if left * share / rest * (1 + 1e-9) < number:
            break
        whole, left, rest = whole + sizes, left - number, rest - share
    return whole


def _mass(features: int, size: int) -> float:
    """The weight of all coalitions of a size together."""
    return (features - 1) / (size * (features - size))
