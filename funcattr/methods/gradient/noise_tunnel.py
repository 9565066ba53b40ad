"""Attributions over noisy copies of the input, around any method."""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any, get_args

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.example_dims import ExampleDims, Layout, layout_of
from ...attribution.few_examples import few_of
from ...attribution.inputs import read_inputs
from ...attribution.neighbours import MOVED, Change
from ...attribution.question import Layer, call_arguments, own
from ...attribution.rounding import nudged
from ...attribution.separate_copies import Batch, are_separate
from ...attribution.targets import Target, read_target, target_at
from ...batch import Rows, back, batch_of, merged, moved, parted, repeated
from ...model.access import values_at
from ...model.functional import as_functional
from ...sampling.baselines import distribution
from ...sampling.draws import Generator, integers, seed_from
from ...sampling.loops import chunk_of, loop, wide
from ...sampling.noise import Sigma, sample_count, scaled_noise, spread_of
from ...torch_state import is_plain_eager
from .moments import UPDATES, Kind, finished
from .tunnel_options import Copies


def noise_tunnel(
    method: Callable[..., Any],
    x: Any,
    target: Target = None,
    *,
    kind: Kind = "smoothgrad",
    samples: int | None = None,
    sigma: Sigma = 1.0,
    relative: bool = False,
    noise_layer: Layer | None = None,
    noise: Any = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    example_dims: ExampleDims = 0,
    **options: Any,
) -> Any:
    """A method's attributions over noisy copies of the input: their mean, mean square or variance.

    smoothgrad: mean_s A(x + sigma e_s);  smoothgrad_sq: mean_s A(x + sigma e_s)^2;  vargrad: var_s A(x + sigma e_s)

    with e_s ~ N(0, 1), and the population variance. Examples of a batch get the same e_s, so that what an example gets
    does not depend on the others.

    Args:
        method: `(x, target, **options) -> attributions`, example by example: `partial(lrp, model)`, a function of your
            own, or another tunnel around one (with another seed).
        x: Input, [N, ...]; a tuple or mapping of inputs, with independent noise. Integer tensors in a mapping get
            none, and go to the method as they are.
        target: As in `gradient`; it goes to the method, repeated for the samples.
        kind: "smoothgrad", "smoothgrad_sq" or "vargrad".
        samples: Number of noisy copies; 5, or as many as there are in `noise`.
        sigma: Standard deviation of the noise, in units of x: a number, or a tensor that broadcasts to x (of each
            feature, say); for several inputs also a structure of them.
        relative: Whether `sigma` is in units of each example's range, max - min.
        noise_layer: Site whose value gets the noise, in place of the input (which may then be token ids). The method is
            then a `functools.partial` of a method and its model. `sigma` is in units of the site's value.
        noise: The e_s themselves, [S, N or 1, ...], structured as x (as the site's value).
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Samples that run at once; by default so many that 16 examples do. It changes no draw. Before several
            do, the method runs on a batch, and on it with each example among changed copies, once for
            each method, options and shapes. What draws at random or fails there runs sample by sample.
        progress: Whether to show a progress bar.
        example_dims: As in `gradient`, with the keys "x" and "layer" (of the site that gets the noise). It goes to the
            method too. Pre-drawn noise has its examples behind the samples all the same.
        options: More keywords of the method, or of the `partial`. What they have for each example is repeated for the
            samples: of the package's methods what their options say (`baseline`, `feature_mask` and others that
            broadcast to x have it where x has its examples); of any other the tensors with N rows, by themselves or in
            tuples, lists and dicts. Of `args` and `kwargs`, `example_dims` says which. Each sample draws a row of
            `baseline=distribution(rows)`.

    Returns:
        The statistic of the method's results (a tensor or a structure of them), in the dtype of what gets the noise;
        of several inputs, each in its own.

    Raises:
        ValueError: If `samples` < 1, `sigma` is negative or NaN, a shape does not fit, the method returns something
            that has not one row for each example, or what an example gets depends on what lies beside it.
        TypeError: If an argument is of the wrong kind.

    Example:
        >>> import torch, funcattr
        >>> from functools import partial
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> smooth = funcattr.noise_tunnel(partial(funcattr.gradient, model), torch.ones(1, 3), 0, sigma=0.1)
        >>> smooth.shape
        torch.Size([1, 3])

    References:
        Smilkov et al., 2017, arXiv:1706.03825 (smoothgrad); Hooker et al., 2018, arXiv:1806.10758 (its square);
        Adebayo et al., 2018, arXiv:1810.03307 (vargrad).
    """
    x, constants = read_inputs(x)
    method, options = _unbound(method, options)
    more = options.get("args", ()), dict(options.get("kwargs") or {})
    layout = layout_of("noise_tunnel", example_dims, x, *more)
    if layout is not None:
        if constants:
            raise ValueError(
                "noise_tunnel(example_dims=...): integer tensors in a mapping x get no noise. Give them to the method: "
                "kwargs=..., with their dimensions under example_dims={'kwargs': ...}."
            )
        x, options = layout.moved_x(x), {**options, "example_dims": example_dims}
    examples, target = batch_of("noise_tunnel", x), read_target("noise_tunnel", target)
    target = target if layout is None else layout.moved_target(target)
    if kind not in get_args(Kind):
        raise ValueError(f"noise_tunnel(kind={kind!r}): expected one of {', '.join(map(repr, get_args(Kind)))}.")
    x, constants, target, noise, sigma, options = own((x, constants, target, noise, sigma, options))
    site = None if noise_layer is None else _site(method, noise_layer)
    noised = x if site is None else _value_at(method, _together(x, constants), site, options, layout)
    count = sample_count("noise_tunnel", samples, noise, noised)
    spread = spread_of("noise_tunnel", noised, sigma, relative)
    seed = seed_from("noise_tunnel", generator)
    size = sum(math.prod(leaf.shape[1:]) for leaf in pytree.tree_leaves(x))
    one = layout is not None and layout.has_one_example
    chunk = 1 if one else chunk_of("noise_tunnel", chunk_size, count, size, examples)

    def attributions(copies: Any, index: Tensor, shift: Tensor | None = None, few: Tensor | None = None) -> Any:
        """The method's results for inputs of some samples, [N * c, ...], whose examples are in front, or a few."""
        of_copies = Copies(x, examples, Rows(len(index), few), layout)
        run = _repeated_inside(method, of_copies)
        if site is not None and shift is not None:
            run = _shifted(run, site, shift if layout is None else back(shift, layout.layer))
        copies = _together(copies, of_copies.rows.of(constants, examples))
        rows = {name: value for name, value in options.items() if isinstance(value, distribution)}
        drawn = {name: _drawn(value, index, of_copies, seed) for name, value in rows.items()}
        given = of_copies.options(method, options) | drawn
        repeated_aim = target_at("noise_tunnel", target, examples, of_copies.rows)
        if layout is None:
            return run(copies, repeated_aim, **given)
        found = run(pytree.tree_map(back, copies, layout.x), layout.target_as_given(repeated_aim), **given)
        return _moved_as_x(found, copies, layout)

    if chunk > 1:
        # Refused at once, not as a failure of the check.
        Copies(x, examples, Rows(chunk), layout).options(method, options)
        about = (method, *options.items(), target, layout is None, *pytree.tree_leaves((x, constants)))
        first = torch.zeros(MOVED.times, dtype=torch.long, device=spread[0].device)

        def plain(copies: Any, rows: Rows) -> Any:
            return attributions(copies, first[: rows.times], few=rows.few)

        # Where it cannot be known, as of a method that draws at random, no copy lies beside another.
        chunk = chunk if _is_separate(about, x, constants, plain) else 1

    def body(carry: Any, index: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        copies, added = repeated(x, examples, len(index)), scaled_noise(noised, noise, spread, index, seed)
        if site is None:
            found = attributions(pytree.tree_map(torch.add, copies, added), index)
        else:
            found = attributions(copies, index, added)
        each = pytree.tree_map(lambda a: _each_sample(a, examples, len(index)), found)
        return UPDATES[kind](carry, each, index), ()

    carry: Any = loop("noise_tunnel", body, None, count, chunk, device=spread[0].device, progress=progress)[0]
    found = _in_dtype_of(noised, finished(carry, kind, count))
    return found if layout is None else pytree.tree_map(back, found, layout.x)


def _in_dtype_of(noised: Any, found: Any) -> Any:
    """Results in the dtype of what got the noise: of each part, or where they are structured otherwise, the widest."""
    values, structure = pytree.tree_flatten(noised)
    results, other = pytree.tree_flatten(found)
    dtypes = [value.dtype for value in values]
    if structure != other:
        dtypes = [reduce(torch.promote_types, dtypes)] * len(results)
    return pytree.tree_unflatten([v.to(d) for v, d in zip(results, dtypes, strict=True)], other)


def _moved_as_x(attributions: Any, x: Any, layout: Layout) -> Any:
    """The method's results with their examples in front, as those of x are."""
    if pytree.tree_structure(attributions) != pytree.tree_structure(x):
        raise ValueError(
            "noise_tunnel(example_dims=...): expected the method to return attributions structured as x, so that it is "
            "known where they have their examples."
        )
    return layout.moved_x(attributions)


def _is_separate(about: Iterable[Any], x: Any, constants: Any, run: Callable[[Any, Rows], Any]) -> bool:
    """Whether the method gives an example the same whatever lies beside it; False if that cannot be known.

    Args:
        about: The method and what it is given.
        x: The inputs. [N, ...]
        constants: Inputs that get no noise.
        run: `(inputs [N * c, ...], their rows) -> the method's results`, without noise.
    """
    if not is_plain_eager():
        return True
    x = pytree.tree_map(torch.detach, x)
    like = pytree.tree_leaves(x)[0]
    few = few_of(len(like), pytree.tree_leaves((x, constants)))

    def batch(few: Tensor | None) -> Batch:
        given = pytree.tree_map(Rows(1, few).at, x)

        def results(change: Change, times: int) -> Any:
            found = run(pytree.tree_map(change, given), Rows(times, few))
            return pytree.tree_map(lambda a: a.detach() if isinstance(a, Tensor) else a, found)

        return Batch(
            len(like) if few is None else len(few),
            alone=lambda change: results(change, 1),
            beside=lambda neighbours: results(neighbours.among, neighbours.times),
            again=lambda change: results(lambda v: nudged(change(v)), 1),
        )

    return are_separate(
        about,
        "noise_tunnel",
        like.device,
        [*([] if few is None else [batch(few)]), batch(None)],
        # Numbers below the rounding of 1 are none, such as the variance of a constant gradient.
        size=torch.finfo(like.dtype if like.is_floating_point() else torch.float32).eps ** 0.5,
        way_out=" Or run each noisy copy of the batch by itself: chunk_size=1.",
    )


def _together(x: Any, constants: dict[str, Tensor]) -> Any:
    """The inputs with those that get no noise: integer tensors of a mapping."""
    return {**x, **constants} if constants else x


def _site(method: Any, layer: Layer) -> str:
    """The name of the site that gets the noise."""
    return as_functional(_model_of(method)).site_name("noise_tunnel", layer, "noise_layer")


def _model_of(method: Any) -> Any:
    """The model of a method that shows it, inside the tunnels around it."""
    found: list[Any] = []
    _change_model(method, lambda model: found.append(model) or model)
    return found[0]


def _unbound(method: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The method without the keywords that a partial holds, which are options like the others."""
    if not callable(method):
        raise TypeError(f"noise_tunnel(method=...): expected a callable, got {type(method).__name__}.")
    if not isinstance(method, partial):
        return method, options
    return partial(method.func, *method.args), {**method.keywords, **options}


def _repeated_inside(method: Any, copies: Copies) -> Any:
    """A tunnel inside with the keywords of its method's partial repeated, as the options of this one are."""
    # The public name is this function inside of one that looks for other libraries' keywords.
    is_tunnel = isinstance(method, partial) and getattr(method.func, "__wrapped__", method.func) is noise_tunnel
    if not is_tunnel or not isinstance(next(iter(method.args), None), partial):
        return method
    inner, *others = method.args
    inner = _repeated_inside(inner, copies)
    inner = partial(inner.func, *inner.args, **copies.options(inner, inner.keywords))
    return partial(method.func, inner, *others, **method.keywords)


def _change_model(method: Any, change: Callable[[Any], Any]) -> Any:
    """The method with its model changed, inside the tunnels around it."""
    if not isinstance(method, partial) or not method.args:
        raise TypeError(
            "noise_tunnel(noise_layer=...): the site lies in the model, so the method has to show it: "
            "functools.partial(method, model)."
        )
    inner, *others = method.args
    changed = _change_model(inner, change) if isinstance(inner, partial) else change(inner)
    return partial(method.func, changed, *others, **method.keywords)


def _shifted(method: Any, site: str, by: Tensor) -> Any:
    return _change_model(method, lambda model: as_functional(model).shifted({site: by}))


def _value_at(method: Any, x: Any, site: str, options: dict[str, Any], layout: Layout | None) -> Tensor:
    """The value at a site, which the noise is added to. [N, ...]"""
    inputs = call_arguments(
        x if layout is None else pytree.tree_map(back, x, layout.x),
        options.get("args", ()),
        dict(options.get("kwargs") or {}),
    )
    where = f"noise_tunnel(noise_layer={site!r})"
    value = values_at(where, as_functional(_model_of(method)), (site,), inputs)[site]
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0:
        raise TypeError(f"{where}: expected a floating-point tensor as the site's value.")
    return value if layout is None else moved(value, layout.layer)


def _drawn(rows: distribution, index: Tensor, copies: Copies, seed: int) -> Any:
    """A row of a distribution for each sample, for all examples: structured and laid out as the method's inputs."""
    found = rows.at(integers(index, rows.count, seed=seed, stream=-1))
    found = pytree.tree_map(lambda r: merged(r.expand(copies.copied, *r.shape)), found)
    layout = copies.layout
    is_laid = layout is not None and pytree.tree_structure(found) == pytree.tree_structure(layout.x)
    return pytree.tree_map(back, found, layout.x) if layout is not None and is_laid else found


def _each_sample(attributions: Any, examples: int, times: int) -> Tensor:
    """A result of the method by example and sample, in a dtype to sum in. [N, c, ...]"""
    if not isinstance(attributions, Tensor) or attributions.shape[:1] != (examples * times,):
        got = list(attributions.shape) if isinstance(attributions, Tensor) else type(attributions).__name__
        raise ValueError(
            f"noise_tunnel(method=...): expected the method to return one row for each of the {examples * times} "
            f"examples that it was given ({examples}, {times} samples each), got {got}."
        )
    return parted(attributions, times).to(wide(attributions.dtype))
