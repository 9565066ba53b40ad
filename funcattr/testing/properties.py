"""What holds for every method, property by property, each as a function that raises where it does not.

A method is given as `attribution(model, x, target) -> attributions`, with all of its options bound. `x` and the
attributions are tensors or structures of them, [N, ...] each.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from .._torch import pytree
from ..methods.relevance.conservation import Conservation, conservation
from ..model.functional import FunctionalModel, functionalize
from ..rules.composites import Rules
from ..tools.belongings import Belongings
from .comparison import assert_equal, loop, require

Attribution = Callable[[Any, Any, Any], Any]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""How far two ways to the same number may lie apart, by the dtype that both compute in."""


# --- one call --------------------------------------------------------------------------------------------------------


def has_form(result: Any, like: Any, channels: int | None = None) -> None:
    """An attribution has the structure, shapes, dtypes and devices of what it is for.

    Args:
        result: The attribution.
        like: The inputs, or the site's value. Each [N, C, ...]
        channels: The result's size in dimension 1, where it is a map of another one.
    """
    leaves, structure = pytree.tree_flatten(like)
    found, other = pytree.tree_flatten(result)
    require(structure == other, f"the attribution is structured as {other}, expected {structure}")
    for a, v in zip(found, leaves, strict=True):
        shape = list(v.shape) if channels is None else [len(v), channels, *v.shape[2:]]
        form = (list(a.shape), a.dtype, a.device)
        require(form == (shape, v.dtype, v.device), f"the attribution is {form}, expected {(shape, v.dtype, v.device)}")


def ignores_strides(attribution: Attribution, model: Any, x: Any, target: Any, tolerance: float = 1e-9) -> Any:
    """The layout of the input's memory changes nothing. The attribution is returned."""
    strided = pytree.tree_map(lambda v: v.transpose(0, -1).contiguous().transpose(0, -1), x)
    expected = attribution(model, x, target)
    found = attribution(model, strided, target)
    assert_equal(found, expected, tolerance=tolerance, told="of a strided input")
    return expected


def touches_nothing(attribution: Attribution, model: Any, x: Any, target: Any) -> None:
    """Parameters, buffers, versions, hooks, attributes, caches, `.grad`, random states, settings: all as it was."""
    belongings = Belongings(model, x, target)
    attribution(model, x, target)
    belongings.check()


def keeps_no_graph(attribution: Attribution, model: Any, x: Tensor, target: Any) -> None:
    """The result has a graph only where something requires a gradient and gradients are enabled."""
    found = attribution(model, x.detach(), target)
    require(not found.requires_grad, "the attribution requires a gradient, though nothing of the inputs does")
    with torch.no_grad():
        plain = attribution(model, nn.Parameter(x.detach().clone()), target)
    require(not plain.requires_grad, "the attribution requires a gradient under no_grad")
    assert_equal(plain, found, told="under no_grad")


def keeps_nan_apart(attribution: Attribution, model: Any, x: Tensor, target: Any) -> None:
    """NaN in an example shows in its attribution, and in no other's."""
    require(len(x) > 1, "expected a batch of two examples or more")
    broken = x.clone()
    broken[(0,) * x.ndim] = float("nan")
    found, whole = attribution(model, broken, target), attribution(model, x, target)
    require(bool(found[0].isnan().any()), "NaN in an example is not seen in its attribution")
    assert_equal(found[1:], whole[1:], told="beside an example with NaN")


# --- equal calls -----------------------------------------------------------------------------------------------------


def is_each_example_alone(
    attribution: Attribution, model: Any, x: Any, target: Any, *, mapped: bool = True, tolerance: float = 1e-9
) -> None:
    """A batch is a loop over its examples, and so is `torch.vmap` over them.

    Args:
        attribution, model, x: As of this module.
        target: Of all examples.
        mapped: Whether to map too.
        tolerance: Of `assert_equal`.
    """

    def one(x: Any) -> Any:
        alone = attribution(model, pytree.tree_map(lambda v: v[None], x), target)
        return pytree.tree_map(lambda a: a[0], alone)

    batch = attribution(model, x, target)
    assert_equal(loop(one, x), batch, tolerance=tolerance, told="each example alone, beside the batch")
    if mapped:
        assert_equal(torch.vmap(one)(x), batch, tolerance=tolerance, told="vmap over examples, beside the batch")


def maps_over_targets(attribution: Attribution, model: Any, x: Any, classes: Tensor, tolerance: float = 1e-9) -> None:
    """`torch.vmap` over classes is a loop over them. classes: [K]"""
    _maps(lambda t: attribution(model, x, t), "targets", tolerance, classes)


def maps_over_noise(attribution: Attribution, model: Any, x: Any, target: Any, tolerance: float = 1e-9) -> None:
    """`torch.vmap` over noise that is added to the inputs is a loop over it."""

    def drawn(value: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(3, *value.shape, dtype=value.dtype, generator=generator).to(value.device)

    noise = pytree.tree_map(drawn, x)
    _maps(lambda e: attribution(model, pytree.tree_map(torch.add, x, e), target), "noise", tolerance, noise)


def maps_over_parameters(attribution: Attribution, model: Any, x: Any, target: Any, tolerance: float = 1e-9) -> None:
    """`torch.vmap` over stacked parameters is a loop over the models that have them."""
    fm = functionalize(model)
    stacked = {name: torch.stack([p.detach(), 0.7 * p.detach()]) for name, p in fm.params.items()}
    if stacked:
        _maps(lambda params: attribution(fm.bind(params), x, target), "parameters", tolerance, stacked)


def _maps(function: Callable[[Any], Any], over: str, tolerance: float, batch: Any) -> None:
    mapped, looped = torch.vmap(function)(batch), loop(function, batch)
    assert_equal(mapped, looped, tolerance=tolerance, told=f"vmap over {over}, beside a loop")


def compiles(attribution: Attribution, model: Any, x: Any, target: Any, tolerance: float = 1e-9) -> None:
    """`torch.compile(fullgraph=True)` changes nothing. It traces with `aot_eager`; a compilation takes seconds."""
    fm: FunctionalModel = functionalize(model)
    expected = attribution(fm, x, target)
    compiled = torch.compile(lambda x: attribution(fm, x, target), fullgraph=True, backend="aot_eager")
    assert_equal(compiled(x), expected, tolerance=tolerance, told="compiled")


def runs_in_threads(jobs: Sequence[Callable[[], Any]], threads: int = 8) -> None:
    """Jobs at the same time give what they give one after another.

    Args:
        jobs: Each thread does all of them, from another one on.
        threads: Their number.
    """
    serial = [job() for job in jobs]
    results = dict[tuple[int, int], Any]()
    errors = list[Exception]()

    def work(thread: int) -> None:
        try:
            for k in range(len(jobs)):
                i = (thread + k) % len(jobs)
                results[thread, i] = jobs[i]()
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for error in errors:
        raise AssertionError(f"in a thread beside others: {type(error).__name__}: {error}") from error
    for (_, i), result in results.items():
        assert_equal(result, serial[i], told="in a thread beside others")


# --- derivatives -----------------------------------------------------------------------------------------------------


def has_derivative(attribution: Attribution, model: Any, x: Tensor, target: Any, *, whole: bool = False) -> None:
    """The attribution's derivative by the input is that of finite differences, in reverse and forward mode.

    Args:
        attribution, model, target: As of this module.
        x: In double precision, where nothing near has a kink. [N, ...]
        whole: Whether to compare entry by entry, and not only along one direction.
    """

    def of(x: Tensor) -> Tensor:
        return attribution(model, x, target)

    leaf = nn.Parameter(x.detach().clone())
    require(of(leaf).requires_grad, "the attribution has no graph, though its input requires a gradient")
    difference = _checked_reverse(of, leaf, whole)
    forward = torch.func.jvp(of, (x.detach(),), (_drawn(x, seed=0),))[1]
    assert_equal(forward, difference, tolerance=1e-6, told="torch.func.jvp, beside finite differences")
    require(bool(forward.abs().max() > 0), "the derivative is zero: nothing was compared")


def has_derivative_by_parameters(
    attribution: Attribution, model: Any, x: Tensor, target: Any, name: str, *, whole: bool = False
) -> None:
    """The attribution's derivative by the bound parameter `name` is that of finite differences."""
    fm = functionalize(model)
    weight = nn.Parameter(fm.params[name].detach().clone())
    _checked_reverse(lambda weight: attribution(fm.bind({name: weight}), x, target), weight, whole)


def _checked_reverse(function: Callable[[Tensor], Tensor], at: Tensor, whole: bool) -> Tensor:
    """The difference quotient along a direction, once reverse mode has been compared with it, or entry by entry.

    Gradcheck's own fast mode draws both ends for itself, and adds up a tolerance with which small derivatives pass.
    """
    direction, step = _drawn(at, seed=0), 1e-6
    ahead, behind = (function(at.detach() + sign * step * direction).detach() for sign in (1, -1))
    difference = (ahead - behind) / (2 * step)
    output = function(at)
    cotangent = _drawn(output, seed=1)
    (pulled,) = torch.autograd.grad(output, at, cotangent, allow_unused=True, materialize_grads=True)
    terms = cotangent * difference
    found, expected, scale = (pulled * direction).sum(), terms.sum(), terms.abs().sum()
    # The quotient divides the rounding of the values, which is all there is of a derivative of almost nothing.
    rounding = 8 * torch.finfo(at.dtype).eps * (cotangent * ahead).abs().sum() / step
    require(
        bool((found - expected).abs() <= 1e-6 * scale + rounding),
        f"the derivative is not that of finite differences: {found:.6g}, expected {expected:.6g} along a direction, of "
        f"terms whose sizes add up to {scale:.6g}",
    )
    if whole:
        try:
            torch.autograd.gradcheck(function, (at,), eps=1e-6, atol=1e-6)
        except GradcheckError as error:
            raise AssertionError(f"the derivative is not that of finite differences: {error}") from error
    return difference


def _drawn(like: Tensor, seed: int) -> Tensor:
    """Seeded normal numbers of a tensor's shape, dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)


# --- relevance -------------------------------------------------------------------------------------------------------


def conserves(attribution: Attribution, model: Any, x: Any, target: int, tolerance: float = 1e-9) -> None:
    """Each example's attributions sum to its output, for a model [N, ...] -> [N, K] without constants."""
    parts = pytree.tree_leaves(attribution(model, x, target))
    total = torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)
    assert_equal(total, model(x).detach()[:, target], tolerance=tolerance, told="the sum of attributions")


def accounts_for_relevance(
    model: Any,
    x: Any,
    target: Any,
    *,
    rules: Rules,
    layer: str | None = None,
    start: Any = "output",
    tolerance: float = 1e-9,
) -> Conservation:
    """All relevance is in the books: start = reached + what biases, dead units, stabilisers, softmax, constants took.

    Args:
        model, x, target, rules, layer, start: As in `conservation`.
        tolerance: In units of the largest sum of relevance at a call.

    Returns:
        The report.
    """
    report = conservation(model, x, target, rules=rules, layer=layer, start=start)
    # Relevance of both signs may be far larger than its sum.
    scale = max(abs(v) for flow in report.flows for v in (flow.arrived, flow.passed, *flow.lost.values()))
    for flow in report.flows:
        where = f"{flow.op} in {flow.path!r}, by {flow.rule}"
        require(
            abs(flow.lost["other"]) <= tolerance * scale,
            f"{where}: {flow.arrived:.6g} arrived, {flow.passed:.6g} was passed on, and nothing declares where the "
            f"other {flow.lost['other']:.6g} went:\n{report}",
        )
    missing = report.start - report.reached - sum(report.lost.values())
    require(abs(missing) <= tolerance * scale, f"{missing:.6g} of the relevance is in no row of the report:\n{report}")
    return report
