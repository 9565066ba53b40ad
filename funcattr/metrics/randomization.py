"""Whether a map changes when the model that it explains is taken apart, layer by layer."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.question import Model, call_arguments
from ..attribution.targets import Target
from ..batch import batch_of
from ..copies import copied
from ..model.functional import FunctionalModel, as_functional
from ..model.sites import Editor
from ..sampling.draws import Generator, normal, seed_from
from ..sampling.loops import wide
from .correlation import pearson, spearman
from .players import refuse_example_dims

Order = Literal["cascading", "independent"]
Similarity = Literal["spearman", "pearson"]


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
    generator: Generator = 0,
    **options: Any,
) -> Randomization:
    """Randomise a model's layers from the last to the first, and compare the map with the one of the trained model.

    corr(A(f_theta), A(f_theta')),  theta' with new numbers in the last l layers

    A map that stays alike does not depend on what the model has learned; that is a fault of the method. Each parameter
    gets normal numbers of its own mean and spread, so that the signals keep their size. Layers are in the order in
    which they end in a forward pass; parameters of modules that are not called themselves belong to the module around.
    A layer without which the output stays the same, one whose parameters are all equal or unused, is left out.

    Args:
        method: `(model, x, target) -> attributions`, such as `gradient`.
        model, x, target: As the method takes them.
        order: "cascading" keeps the layers before randomised too, "independent" randomises one at a time.
        similarity: "spearman" of ranks, or "pearson" of values.
        absolute: Whether magnitudes are compared; else signs count too.
        generator: A seed, or a `torch.Generator` from which one is drawn.
        options: More keywords of the method; `args` and `kwargs` go to the model here too.

    Returns:
        A `Randomization`: names of the layers, and the similarity [N, layers]. Not a number where a map is constant or
        has a NaN.

    Raises:
        ValueError: If a word is another one, the model has no parameters, or the attributions have not one row for each
            example.
        TypeError: If `example_dims` is given.
        NotImplementedError: In compiled code.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> found = funcattr.metrics.randomization(funcattr.gradient, model, torch.randn(4, 6), 1)
        >>> found.layers, found.similarity.shape
        (('2', '0'), torch.Size([4, 2]))

    References:
        Adebayo et al., 2018, arXiv:1810.03292 (cascading and independent randomisation).
    """
    call = "randomization"
    for name, word, words in (("order", order, Order), ("similarity", similarity, Similarity)):
        if word not in get_args(words):
            raise ValueError(f"{call}({name}={word!r}): expected one of {', '.join(map(repr, get_args(words)))}.")
    if torch.compiler.is_compiling():
        raise NotImplementedError(f"{call}: it asks which layers run, which compiled code does not say.")
    refuse_example_dims(call, options)
    fm, examples, seed = as_functional(model), batch_of(call, x), seed_from(call, generator)
    params = {name: p.detach() for name, p in fm.params.items() if p.is_floating_point()}
    if not params:
        raise ValueError(f"{call}(model=...): expected a model with floating-point parameters.")
    compare = spearman if similarity == "spearman" else pearson
    drawn = {name: _drawn(p, seed, k) for k, (name, p) in enumerate(params.items())}

    def of(model: FunctionalModel) -> Tensor:
        """The map, or its magnitudes, as vectors. [N, values]"""
        parts = pytree.tree_leaves(method(model, x, target, **options))
        if not all(isinstance(part, Tensor) and part.shape[:1] == (examples,) for part in parts):
            got = [list(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
            raise ValueError(f"{call}(method=...): expected attributions with {examples} rows, got {got}.")
        found = torch.cat([part.detach().reshape(examples, -1).to(wide(part.dtype)) for part in parts], 1)
        return found.abs() if absolute else found

    whole, new, rows = of(fm), dict[str, Tensor](), []
    layers = _layers(fm, drawn, x, options)
    for names in layers.values():
        new = {**(new if order == "cascading" else {}), **{name: drawn[name] for name in names}}
        rows.append(compare(whole, of(fm.bind(new))))
    return Randomization(tuple(layers), torch.stack(rows, 1))


def _drawn(parameter: Tensor, seed: int, stream: int) -> Tensor:
    """Normal numbers with the mean and the spread of a parameter."""
    first = torch.zeros(1, dtype=torch.long, device=parameter.device)
    return parameter.mean() + parameter.std(correction=0) * normal(first, parameter.shape, parameter, seed, stream)[0]


def _layers(fm: FunctionalModel, drawn: dict[str, Tensor], x: Any, options: dict[str, Any]) -> dict[str, list[str]]:
    """The names of each layer's parameters, the layer that ends last first."""
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
    with torch.no_grad():
        return {
            layer: names
            for layer, names in layers.items()
            if names and not _is_same(before, output(fm.bind({name: drawn[name] for name in names})))
        }


def _is_same(before: Any, after: Any) -> bool:
    """Whether two outputs hold equal tensors."""
    pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def _around(name: str) -> Iterable[str]:
    """The modules around a parameter, the innermost first, "" last."""
    while name:
        name = name.rpartition(".")[0]
        yield name
