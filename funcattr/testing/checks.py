"""The contract of rules, rulebooks, methods and models, each as one call for a test."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from torch import Tensor, nn

from .._torch import pytree
from ..attribution.attribute import attribute
from ..attribution.forward import PassOptions, forward
from ..attribution.question import Model, Question, ask, call_arguments
from ..attribution.targets import Target, pick_output, score
from ..calls.declarations import Rule
from ..methods.gradient.gradient import gradient
from ..methods.relevance.lrp import lrp
from ..model.access import read
from ..model.functional import functionalize
from ..rulebook.actions import GRADIENT
from ..rulebook.rulebook import Rulebook
from ..rules.composites import Rules, epsilon_everywhere, rulebook_of
from . import properties
from .comparison import assert_equal
from .networks import Network, Smooth, draw_comparable
from .properties import TOLERANCES, Attribution
from .seeding import settle, uniform

_ANY_HEALTH: Any = list(HealthCheck)  # networks are large to draw, and rare operations often missing
_KEEP = Rulebook({"softsign": GRADIENT}, name="plain gradient, on record")


def check_method(
    method: Callable[..., Tensor],
    *,
    at_layer: bool = False,
    channels: int | None = None,
    conserves: bool = False,
    divides: bool = False,
    vmap: bool = True,
    derivative: bool = True,
    compiled: bool = False,
    examples: int = 10,
    **drawn: Any,
) -> None:
    """Check a method on drawn networks: what any method of this package has to be.

    The result is shaped, typed and placed as what it is for. An example gets what it gets alone; `torch.vmap` over
    examples, classes, noise and parameters equals a loop; eight threads equal one. The derivative is that of finite
    differences, in reverse and forward mode. Nothing of the user's is touched: values, versions, `.grad`, hooks,
    attributes, random states, settings. No graph is kept under `no_grad`, and NaN stays in its example. Networks are
    drawn on the CPU, and on CUDA where there is one.

    Args:
        method: `method(model, x, target) -> attributions`, one tensor; with `at_layer` also `layer=`.
        at_layer: Whether it takes a site, and its result is shaped as the site's value.
        channels: The result's size in dimension 1, where it is a map: 1.
        conserves: Whether the attributions sum to the output, on networks of relus without biases.
        divides: Whether it has poles (relevance over an output), beside which rounding shows.
        vmap: Whether it runs inside `torch.vmap`.
        derivative: Whether it has a derivative.
        compiled: Whether to compile it too, which takes seconds.
        examples: How many networks are drawn.
        drawn: More options of `networks`, such as `spatial=1` or `kinds=("conv", "relu")`.

    Raises:
        AssertionError: If something of this does not hold; it says what, and for which network.

    Example:
        >>> import funcattr
        >>> from funcattr.testing import check_method
        >>> check_method(funcattr.input_x_gradient, conserves=True, examples=2)
    """

    def bound(layer: str) -> Attribution:
        return partial(_at_layer, method, layer) if at_layer else method

    def on_drawn(net: Network) -> None:
        attribution = bound(net.layer)
        like = read(net.model, net.layer)(net.x)[1][net.layer] if at_layer else net.x
        properties.has_form(attribution(net.model, net.x, 0), like, channels)
        classes = torch.arange(net.output_shape[1], device=net.x.device) if vmap else None
        _check_calls(attribution, net.model, net.x, 1, classes, strides=not divides)

    _on_networks(on_drawn, examples, **{"mapped": vmap, "write_views": not vmap, **drawn})
    if conserves:

        def on_homogeneous(net: Network) -> None:
            properties.conserves(bound(net.layer), net.model, net.x, 1)

        _on_networks(on_homogeneous, examples, **{**drawn, "only_relu": True, "bias": False})
    with _quiet():
        _check_smooth(bound(Smooth.layer), derivative, compiled)


def _at_layer(method: Callable[..., Tensor], layer: str, model: Any, x: Any, target: Any) -> Tensor:
    return method(model, x, target, layer=layer)


def check_rulebook(
    rules: Rules,
    *,
    conserves: bool | None = None,
    vmap: bool = True,
    derivative: bool = True,
    compiled: bool = False,
    examples: int = 10,
    **drawn: Any,
) -> None:
    """Check a rulebook on drawn networks: as a method (see `check_method`), and that its books add up.

    Args:
        rules: A `Rulebook`, its name, or a mapping from operation to rule.
        conserves: Whether all relevance is accounted for: at each call what arrives is passed on, or goes where a
            rule's declared leaks say. By default it is, unless unlisted operations get their ordinary gradient.
        vmap, derivative, compiled, examples, drawn: As in `check_method`.

    Raises:
        AssertionError: As in `check_method`.
        UnsupportedOperationError: If it has no rule for an operation that is drawn; `kinds=` draws others.

    Example:
        >>> import funcattr
        >>> from funcattr.testing import check_rulebook
        >>> check_rulebook("epsilon", derivative=False, examples=2)
    """
    book = rulebook_of("check_rulebook", rules)
    check_method(
        _method_of(book),
        divides=book.space == "relevance",
        vmap=vmap,
        derivative=derivative,
        compiled=compiled,
        examples=examples,
        **drawn,
    )
    if _conserves(book) if conserves is None else conserves:

        def on_drawn(net: Network) -> None:
            properties.accounts_for_relevance(net.model, net.x, 1, rules=book, start=_start(book))

        _on_networks(on_drawn, examples, **{"write_views": False, **drawn})


def check_rule(
    rule: Rule,
    operation: str,
    *,
    within: Rules | None = None,
    conserves: bool | None = None,
    model: Model | None = None,
    x: Any = None,
    target: Target = 0,
    vmap: bool = True,
    derivative: bool = True,
    compiled: bool = False,
    examples: int = 10,
    **drawn: Any,
) -> None:
    """Check a rule for one operation, in networks that call it.

    All of `check_method` holds for relevance propagation by the rule. At each call what arrives is passed on to the
    operands, or goes where the rule's declared leaks say.

    Args:
        rule: `rule(call, cotangent) -> one cotangent per tracked operand`.
        operation: Its canonical name (`"relu"`), or that of a group.
        within: The rulebook of all other operations: `epsilon_everywhere()`. A rule that changes a gradient goes
            within `Rulebook({})`, the plain gradient.
        conserves: Whether relevance is accounted for; as in `check_rulebook`.
        model: A model that calls the operation, where no drawn network does; with its inputs `x` [N, ...].
        x: Inputs of `model`, in double precision.
        target: What is explained of `model`.
        vmap, derivative, compiled, examples, drawn: As in `check_method`.

    Raises:
        AssertionError: As in `check_method`.
        ValueError: If nothing calls the operation; give `model` and `x` then.

    Example:
        >>> import funcattr
        >>> from funcattr.testing import check_rule
        >>> check_rule(funcattr.rules.epsilon(eps=1e-3), "linear", derivative=False, examples=2)
    """
    base = epsilon_everywhere() if within is None else rulebook_of("check_rule", within)
    book = base | {operation: rule}
    accounts = _conserves(book) if conserves is None else conserves
    attribution, divides = _method_of(book), book.space == "relevance"
    if model is not None:
        if not _calls(book, rule, model, x):
            raise ValueError(f"check_rule(operation={operation!r}, model=...): the model does not call it.")
        with _quiet():
            _check_calls(attribution, model, x, target, None, strides=not divides, vmap=vmap)
            if accounts:
                properties.accounts_for_relevance(model, x, target, rules=book, start=_start(book))
            if derivative:
                properties.has_derivative(attribution, model, x, target)
            if compiled:
                properties.compiles(attribution, model, x, target)
        return

    def on_drawn(net: Network) -> None:
        assume(_calls(book, rule, net.model, net.x))
        classes = torch.arange(net.output_shape[1], device=net.x.device)
        _check_calls(attribution, net.model, net.x, 1, classes if vmap else None, strides=not divides)
        if accounts:
            properties.accounts_for_relevance(net.model, net.x, 1, rules=book, start=_start(book))

    try:
        _on_networks(on_drawn, examples, **{"mapped": vmap, "write_views": not vmap, **drawn})
    except Unsatisfiable as error:
        raise ValueError(
            f"check_rule(operation={operation!r}): no drawn network calls it. Give a model= that does, and its x=."
        ) from error
    if _calls(book, rule, settle(Smooth), uniform(2, 2, 5, 5)):
        with _quiet():
            _check_smooth(attribution, derivative, compiled)


def check_model(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    rules: Rules | None = None,
    vmap: bool = True,
    compiled: bool = False,
    tolerance: float | None = None,
) -> None:
    """Check that methods may be trusted on a model: what is recorded of it is what it computes.

    The functional model gives what the model gives. The gradient on record is that of autograd. An example gets what it
    gets alone, `torch.vmap` equals a loop, threads do not disturb each other, and nothing of the model is touched. With
    `rules` the same holds for relevance by them, and every call is accounted for.

    Args:
        model: A module in eval mode, a `FunctionalModel` or a callable.
        x: Its input [N, ...] of two examples or more, or a tuple of inputs. Double precision tells most.
        target: What is explained, the same for all examples.
        rules: A rulebook of relevance to check on it.
        vmap: Whether the model runs inside `torch.vmap`.
        compiled: Whether to compile too.
        tolerance: In units of the largest value; by default by the dtype of `x`, 1e-9 for float64.

    Raises:
        AssertionError: If something of this does not hold; it says what.
        FuncattrError: If the model cannot be recorded, or has no rule for a call.

    Example:
        >>> import torch
        >>> from funcattr.testing import check_model
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2)).double()
        >>> check_model(model, torch.randn(2, 3).double(), 1, rules="attnlrp")
    """
    question = ask("check_model", model, x, target)
    allowed = TOLERANCES[pytree.tree_leaves(question.x)[0].dtype] if tolerance is None else tolerance
    expected, output = _by_autograd(question, model)
    with _quiet():
        found = attribute(model, x, target, rules=_KEEP)
        assert_equal(
            found.output.detach(), output, tolerance=allowed, told="the output on record, beside the model's own"
        )
        assert_equal(found.cotangent, expected, tolerance=allowed, told="the gradient on record, beside autograd's")
        attributions: list[Attribution] = [gradient]
        if rules is not None:
            book = rulebook_of("check_model", rules, unlisted="raise", space="relevance")
            attributions.append(_method_of(book))
            properties.accounts_for_relevance(model, x, target, rules=book, start=_start(book), tolerance=allowed)
        for attribution in attributions:
            _check_calls(attribution, model, x, target, None, strides=False, vmap=vmap, tolerance=allowed)
            if compiled:
                properties.compiles(attribution, model, x, target, allowed)
        properties.runs_in_threads([partial(a, model, x, target) for a in attributions] * 2, threads=4)


def _by_autograd(question: Question, model: Model) -> tuple[Any, Tensor]:
    """The gradient of the target by plain autograd, and the output; the model runs as it stands."""
    leaves, structure = pytree.tree_flatten(question.x)

    def scores(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        positional, keyword = call_arguments(pytree.tree_unflatten(list(leaves), structure), (), question.kwargs)
        output = pick_output(question.call, model(*positional, **keyword), None)
        return score(question.call, output, question.target), output

    copies = tuple(leaf.detach().clone() for leaf in leaves)
    found, output = scores(*copies)
    weights = (torch.ones_like(found), torch.zeros_like(output))
    gradients: Any = torch.autograd.functional.vjp(scores, copies, weights)[1]
    return pytree.tree_unflatten(list(gradients), structure), output.detach()


# --- what the checks share -------------------------------------------------------------------------------------------


def _check_calls(
    attribution: Attribution,
    model: Any,
    x: Any,
    target: Any,
    classes: Tensor | None,
    *,
    strides: bool,
    vmap: bool | None = None,
    tolerance: float = 1e-9,
) -> None:
    """Calls beside each other: touched, alone, mapped. `classes` are mapped over, where they are given."""
    mapped = classes is not None if vmap is None else vmap
    properties.touches_nothing(attribution, model, x, target)
    properties.is_each_example_alone(attribution, model, x, target, mapped=mapped, tolerance=tolerance)
    if strides:
        properties.ignores_strides(attribution, model, x, target, tolerance)
    if mapped:
        properties.maps_over_noise(attribution, model, x, target, tolerance)
        if isinstance(model, nn.Module):
            properties.maps_over_parameters(attribution, model, x, target, tolerance)
    if classes is not None:
        properties.maps_over_targets(attribution, model, x, classes, tolerance)


def _check_smooth(attribution: Attribution, derivative: bool, compiled: bool) -> None:
    """On one network that has a derivative everywhere."""
    model, x = settle(Smooth), uniform(2, 2, 5, 5)
    properties.keeps_no_graph(attribution, model, x, 0)
    properties.keeps_nan_apart(attribution, model, x, 0)
    fm = functionalize(model)
    properties.runs_in_threads([partial(attribution, m, x, t) for m in (model, fm) for t in (0, 1)])
    if derivative:
        properties.has_derivative(attribution, model, x, torch.tensor([1, 0]))
        properties.has_derivative_by_parameters(attribution, model, x, 1, "blocks.second.weight")
    if compiled:
        properties.compiles(attribution, model, x, 1)


def _method_of(book: Rulebook) -> Attribution:
    """The method that a rulebook is."""
    if _conserves(book):
        return partial(lrp, rules=book, start=_start(book))
    return lambda model, x, target: attribute(model, x, target, rules=book).cotangent


def _conserves(book: Rulebook) -> bool:
    """Whether it hands out relevance: it then says something of every operation."""
    return book.unlisted == "raise" and book.space != "multiplier"


def _start(book: Rulebook) -> Any:
    return "one" if book.space == "relevance" else "output"


def _calls(book: Rulebook, rule: Rule, model: Any, x: Any) -> bool:
    """Whether the rule is applied in a pass of the model."""
    with torch.no_grad():
        steps = forward(ask("check_rule", model, x), PassOptions(book), strict=False).steps
    return any(rule in (step.action.function, step.if_last and step.if_last.function) for step in steps)


def _on_networks(check: Callable[[Network], None], examples: int, *, mapped: bool = False, **options: Any) -> None:
    """A check on drawn networks."""

    def example(data: st.DataObject) -> None:
        with _quiet():
            check(draw_comparable(data, mapped=mapped, **options))

    relaxed = settings(max_examples=examples, deadline=None, suppress_health_check=_ANY_HEALTH)
    relaxed(given(data=st.data())(example))()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that drawn networks earn: some have no relu, and random biases take most relevance."""
    with warnings.catch_warnings():
        for message in (
            ".*the result is the plain gradient",
            ".*the relevance that was seeded arrives",
            "There is a performance drop because we have not yet implemented",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
