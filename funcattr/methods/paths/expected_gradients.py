"""Expected gradients, also known as GradientSHAP."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Layer, Model, ask
from ...attribution.targets import Target
from ...sampling.baselines import Baseline, distribution
from ...sampling.draws import Generator, seed_from, uniform
from ...sampling.ends import SampledEnds
from ...sampling.loops import chunk_for, loop, positive, wide
from ...sampling.noise import Sigma
from .lines import Points, each_copy, in_dtype_of, line_integral, most_precise, root_at


@for_each_layer
def expected_gradients(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    baseline: Baseline | distribution = 0.0,
    samples: int = 50,
    sigma: Sigma = 0.0,
    layer: Layer | None = None,
    times_difference: bool = True,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Integrated gradients in expectation, over random baselines and random points of the way from them to the input.

    A = E_{x' ~ D, alpha ~ U(0, 1)} (x - x') * d y_t / d x (x' + alpha (x - x'))

    This is GradientSHAP; an estimate of Shapley values where the model is near linear and features are independent.
    Examples of a batch share the draws, so that what an example gets does not depend on the others.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        baseline: D: `distribution(rows)`, of which each sample draws a row with replacement; or one baseline, as in
            `integrated_gradients`.
        samples: Number of draws.
        sigma: Standard deviation of normal noise on the input, in units of x; structured as x, or one for all.
        layer: Site to attribute to: the lines are then between its values.
        generator: A seed, or a `torch.Generator` from which one is drawn.
        times_difference: Whether the mean gradient is multiplied by x - x'. False: the mean gradient itself, in units
            of y per unit of x, whose sum is nothing conserved.
        chunk_size: Samples that run at once; by default so many that 16 examples do. It changes no draw.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), which sum to
        E[y_t(x) - y_t(x')] up to the error of sampling; `metrics.completeness` gives the error for the samples drawn.
        They are real for a complex x too, as in `integrated_gradients`.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; and if `samples` < 1, `sigma` is negative, or the
            baseline does not fit the input.

    Example:
        >>> import torch, funcattr
        >>> data = torch.randn(100, 3)
        >>> model = torch.nn.Linear(3, 2)
        >>> a = funcattr.expected_gradients(model, data[:5], 1, baseline=funcattr.distribution(data))
        >>> a.shape
        torch.Size([5, 3])

    References:
        Erion et al., 2021, arXiv:1906.10670, eq. 3; Lundberg and Lee, 2017, arXiv:1705.07874.
    """
    question = ask(
        "expected_gradients",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    seed, count = seed_from(question.call, generator), positive(question.call, "samples", samples)
    ends = SampledEnds.of(question, question.laid(baseline), question.laid(sigma), seed)
    root = question.root()
    like = most_precise(root)
    # Starts that are the same for all samples are computed once.
    fixed = root_at(question, each_copy(ends.start)) if ends.rows is None else None

    def body(carry: Any, index: Tensor) -> Any:
        begin = root_at(question, ends.first(index)) if fixed is None else fixed
        end = each_copy(root) if ends.spread is None else root_at(question, ends.last(index))
        weight = torch.full_like(index, 1 / count, dtype=wide(like.dtype)).real
        points = Points(begin, end, uniform(index, (), weight, seed, stream=-2), weight)
        part = line_integral(question, root, points, times_difference)
        return part if carry is None else pytree.tree_map(torch.add, carry, part), ()

    chunk = chunk_for(question, chunk_size, count)
    summed: Any = loop(question.call, body, None, count, chunk, device=like.device, progress=progress)[0]
    return question.as_given(in_dtype_of(root, summed))
