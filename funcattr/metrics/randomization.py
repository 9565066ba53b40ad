"""Whether a map changes when the model that it explains is taken apart, layer by layer."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.question import Model, call_arguments
from ..attribution.targets import Target
from ..batch import batch_of
from ..copies import copied
from ..model.editing import Editor
from ..model.functional import FunctionalModel, as_functional
from ..sampling.draws import Generator, seed_from
from ..sampling.loops import positive, wide
from .correlation import pearson, ranks
from .players import as_vectors, by_rows, refuse_example_dims
from .random_models import Params, RandomParameters, maps_of
from .structural_similarity import SIDE, structural_similarity

Order = Literal["cascading", "independent"]
Similarity = Literal["spearman", "pearson", "ssim"]


class Randomization(NamedTuple):
    """How alike a map is to itself as layers are randomised.

    Attributes:
        layers: The layers with parameters, the one that ran last first; "" is the model itself.
        similarity: Of the map with all layers up to that one randomised, or that one alone. [N, layers]
    """

    layers: tuple[str, ...]
    similarity: Tensor


def randomization(
    method: Callable[..., Any],
    model: Model,
    x: Any,
    target: Target = None,
    *,
    order: Order = "cascading",
    similarity: Similarity = "spearman",
    absolute: bool = True,
    steps: int | None = None,
    samples: int = 1,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Randomization:
    """Randomise a model's layers from the last to the first, and compare the map with the one of the trained model.

    corr(A(f_theta), A(f_theta')),  theta' with new numbers in the last l layers

    A map that stays alike does not depend on what the model has learned; that is a fault of the method. Each parameter
    gets normal numbers of its own mean and spread, so that the signals keep their size. Layers are in the order in
    which they end in a forward pass; parameters of modules that are not called themselves belong to the module around.
    A layer without which the output stays the same, one whose parameters are all equal or unused, is left out.

    Smooth MPRT compares maps that are means over noisy inputs; that is this measure of a noise tunnel around the
    method, as below.

    Args:
        method: `(model, x, target) -> attributions`, such as `gradient`.
        model, x, target: As the method takes them.
        order: "cascading" keeps the layers before randomised too, "independent" randomises one at a time.
        similarity: "spearman" of ranks, "pearson" of values, or "ssim", structural similarity of maps [N, C, H, W] of
            at least 11 x 11 pixels, each divided by its largest magnitude.
        absolute: Whether magnitudes are compared; else signs count too.
        steps: How often maps are compared: so many groups of layers, one after the other and about as large, count as
            a layer each. With 1 all layers are random at once. By default each layer is one.
        samples: How many times new numbers are drawn. The similarity is the mean over them.
        generator: A seed, or a `torch.Generator` from which one is drawn. The numbers do not depend on `chunk_size`.
        chunk_size: Randomised models that run at once, under `torch.vmap`; by default so many that 16 examples do, or
            that hold 4 million parameters, and one by one where the method cannot be mapped. 1 runs them one by one.
        progress: Whether to show a progress bar.
        options: More keywords of the method; `args` and `kwargs` go to the model here too.

    Returns:
        A `Randomization`: names of the layers (of a group, that of the one that ran first), and the similarity
        [N, layers]. Not a number where a map has a NaN; for correlations where it is constant, for "ssim" where it is 0
        everywhere.

    Raises:
        ValueError: If a word is another one, a number is below 1, no layer with parameters changes the output, the
            attributions have not one row for each example, or "ssim" gets no maps.
        TypeError: If `example_dims` is given.
        NotImplementedError: In compiled code.

    Example:
        >>> import torch, funcattr
        >>> from functools import partial
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> x = torch.randn(4, 6)
        >>> found = funcattr.metrics.randomization(funcattr.gradient, model, x, 1, samples=10)
        >>> found.layers, found.similarity.shape
        (('2', '0'), torch.Size([4, 2]))
        >>> def smooth(model, x, target):
        ...     gradient = partial(funcattr.gradient, model)
        ...     return funcattr.noise_tunnel(gradient, x, target, samples=50, sigma=0.1, relative=True)
        >>> funcattr.metrics.randomization(smooth, model, x, 1).similarity.shape
        torch.Size([4, 2])

    References:
        Adebayo et al., 2018, arXiv:1810.03292 (cascading and independent randomisation); Hedström et al., 2024,
        arXiv:2401.06465 (smooth MPRT).
    """
    call = "randomization"
    for name, word, words in (("order", order, Order), ("similarity", similarity, Similarity)):
        if word not in get_args(words):
            raise ValueError(f"{call}({name}={word!r}): expected one of {', '.join(map(repr, get_args(words)))}.")
    if torch.compiler.is_compiling():
        raise NotImplementedError(f"{call}: it asks which layers run, which compiled code does not say.")
    refuse_example_dims(call, options)
    fm, examples, draws = as_functional(model), batch_of(call, x), positive(call, "samples", samples)
    parameters = RandomParameters(call, fm, seed_from(call, generator))
    first = parameters.drawn(0)
    layers = _layers(call, fm, first, x, options, steps)
    if not layers:
        raise ValueError(f"{call}(model=...): expected a layer with parameters that change the output, found none.")

    def of(model: FunctionalModel) -> Tensor:
        """The map in the form that is compared. [N, ...]"""
        parts = [part.detach() for part in by_rows(call, method(model, x, target, **options), examples)]
        parts = [part.abs() for part in parts] if absolute else parts
        if similarity == "ssim":
            return _pictures(call, parts)
        return ranks(as_vectors(parts)) if similarity == "spearman" else as_vectors(parts)

    def compare(a: Tensor, b: Tensor) -> Tensor:
        return structural_similarity(a, b, 1 if absolute else 2) if similarity == "ssim" else pearson(a, b)

    def changes() -> Iterator[Params]:
        for sample in range(draws):
            drawn, new = parameters.drawn(sample) if sample else first, Params()
            for names in layers.values():
                new = {**(new if order == "cascading" else {}), **{name: drawn[name] for name in names}}
                yield new

    whole, count = of(fm), draws * len(layers)
    every = maps_of(call, of, fm, parameters, changes(), count, x, examples, chunk_size, progress)
    alike = torch.stack([compare(whole, found) for found in every], 1)
    return Randomization(tuple(layers), alike.unflatten(1, (draws, -1)).mean(1))


def _pictures(call: str, parts: list[Tensor]) -> Tensor:
    """The map for structural similarity: its largest magnitude is 1, or it is not a number. [N, C, H, W]"""
    if len(parts) != 1 or parts[0].ndim != 4 or min(parts[0].shape[2:]) < SIDE:
        raise ValueError(
            f"{call}(similarity='ssim'): expected maps [N, C, H, W] of at least {SIDE} x {SIDE} pixels, got "
            f"{[list(part.shape) for part in parts]}. funcattr.maps.resize(map, x) enlarges a layer's map."
        )
    found = parts[0].to(wide(parts[0].dtype))
    return found / found.abs().amax((1, 2, 3), keepdim=True)


def _layers(
    call: str, fm: FunctionalModel, drawn: dict[str, Tensor], x: Any, options: dict[str, Any], steps: int | None
) -> dict[str, list[str]]:
    """The names of each layer's parameters, or of each group's, the layer that ends last first."""
    ended: dict[str, None] = {}

    def noting(name: str) -> Callable[[Any], Any]:
        def note(value: Any) -> Any:
            ended.setdefault(name)
            return value

        return note

    def output(model: FunctionalModel) -> Any:
        given = copied((x, options.get("args", ()), dict(options.get("kwargs") or {})))
        positional, keyword = call_arguments(*given)
        return model(*positional, **keyword)

    with torch.no_grad(), Editor({name: noting(name) for name in fm.sites}):
        before = output(fm)
    order = ["", *reversed(ended)]
    layers: dict[str, list[str]] = {name: [] for name in order}
    for name in drawn:
        layers[next(owner for owner in _around(name) if owner in layers)].append(name)
    layers = _grouped(call, {layer: names for layer, names in layers.items() if names}, steps)
    with torch.no_grad():
        return {
            layer: names
            for layer, names in layers.items()
            if not _is_same(before, output(fm.bind({name: drawn[name] for name in names})))
        }


def _grouped(call: str, layers: dict[str, list[str]], steps: int | None) -> dict[str, list[str]]:
    """Layers as so many groups, each with the name of its last one."""
    if steps is None:
        return layers
    if positive(call, "steps", steps) > len(layers):
        raise ValueError(f"{call}(steps={steps}): expected no more than there are layers, {len(layers)}.")
    items = list(layers.items())
    parts = [items[len(items) * k // steps : len(items) * (k + 1) // steps] for k in range(steps)]
    return {part[-1][0]: [name for _, names in part for name in names] for part in parts}


def _is_same(before: Any, after: Any) -> bool:
    """Whether two outputs hold equal tensors."""
    pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def _around(name: str) -> Iterable[str]:
    """The modules around a parameter, the innermost first, "" last."""
    while name:
        name = name.rpartition(".")[0]
        yield name
