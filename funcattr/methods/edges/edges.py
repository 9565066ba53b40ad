"""Edges: attribution from sites to sites of an unmodified model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.built_targets import is_data
from ...attribution.compiled import Work, in_one_node
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions
from ...attribution.question import Model, Question, ask
from ...attribution.targets import Target
from ...rules.composites import PLAIN, Rules, rulebook_of
from ...sampling.loops import positive
from .circuit import Edges
from .listed import Sites, listed
from .passes import Asked, Found, Named, find


def edges(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    sources: Sites,
    sinks: Sites,
    against: Any,
    rules: Rules | None = None,
    steps: int = 1,
    channel_dim: int | None = -1,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Edges:
    """How much of the target each source gives to each sink: attribution from sites to sites of a model.

    score_uv = c_uv sum_f (a_u(x) - a_u(x')) d y_t / d s_v (x),  where s_v = sum_u c_uv a_u + rest
    score_uv = sum_f (a_u(x) - a_u(x')) (d s_v / d a_u)^T d y_t / d s_v (x),  where a_u is no term of s_v

    The first is for a source on the sink's stream: its value a_u is a term of the sink's value s_v, which is found out
    from the calls of the pass at x. All such pairs take one forward pass at each input and one reverse pass. The second
    is the direct effect: the derivative along paths through no other listed site. Each sink that has some takes one
    more pass. With the plain gradient this is edge attribution patching, with `steps` EAP-IG, with a rulebook RelP;
    with the same sites as sources and sinks it is attribution patching (of nodes), on the diagonal.

    Args:
        model, target, output, args, kwargs, example_dims: As in `gradient`. `example_dims["layer"]` is of all sites.
        x: As in `gradient`; of any dtype, unless `steps` > 1.
        sources: Sites that give: names, modules, and patterns such as `"model.layers.*.mlp"`.
        sinks: Sites that take; `"model.layers.*.mlp@input"` is what a module is given.
        against: x', the inputs that x is compared with: structured and shaped as x.
        rules: A rulebook in the space of gradients, `"attnlrp"` or `"cp_lrp"` say, for every reverse pass. Rules see
            what depends on floating-point inputs or on a listed site.
        steps: The gradient is the mean of those at x' + k / steps (x - x'), for k = 1 .. steps.
        channel_dim: Dimension of a site's value, with its examples in front, that is summed over (f); the others are
            positions. None: all are summed over.

    Returns:
        `Edges(sources, sinks, scores, unexplained, coefficients)`, in units of y: scores [S, K, N, *positions] and,
        for each sink, what the listed sources leave unexplained of (s_v(x) - s_v(x')) d y_t / d s_v. [K, N]
        The score of a source that comes after the sink is 0. Every edge passes no other listed site.

    Raises:
        UnknownSiteError: If a site does not exist or is not reached, or a pattern matches none.
        ValueError: If a source that is named, not matched by a pattern, lies behind every sink, or such a sink before
            every source; if x and x' differ in their shapes, or sources in their positions; if the rulebook is of
            another space.
        TypeError: If x is not floating point where `steps` > 1, or a site's value is complex.
        UntrackedPathError: If the output depends on none of the sinks.
        AliasedWriteError: If a module writes in place into what it is given at a listed @input, and the model then
            reads that by its old name.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> found = funcattr.edges(model, x, 1, sources="0", sinks=["1@input", "2@input"], against=0 * x)
        >>> found.scores.shape, found.coefficients.tolist()
        (torch.Size([1, 2, 5]), [[1.0, 0.0]])

    References:
        Syed et al., 2023, arXiv:2310.10348 (EAP); Hanna et al., 2024, arXiv:2403.17806 (EAP-IG); Jafari et al., 2025,
        arXiv:2508.21258 (RelP); Kramár et al., 2024, arXiv:2403.00745 (AtP).
    """
    question = ask("edges", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    other = ask(
        "edges", question.model, against, None, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    _check_inputs(question, other)
    if positive("edges", "steps", steps) > 1:
        _check_line(question)
    book = PLAIN if rules is None else rulebook_of("edges", rules)
    if book.space != "gradient":
        raise ValueError(
            f"edges(rules={book.name!r}): expected a rulebook in the space of gradients, got one of {book.space}. "
            "'attnlrp' and 'cp_lrp' are of gradients, as is a Rulebook(..., space='gradient') of your own."
        )
    sites = [listed("edges", question.model, *pair) for pair in (("sources", sources), ("sinks", sinks))]
    (source_names, named_sources), (sink_names, named_sinks) = sites
    named = Named(named_sources, named_sinks)
    against_x = (other.x, other.args, other.kwargs)
    asked = Asked(question, against_x, source_names, sink_names, named, book, steps, channel_dim)
    found = _found(asked)
    return Edges(asked.sources, asked.sinks, found.scores, found.unexplained, found.coefficients, asked, found.against)


def _check_inputs(question: Question, other: Question) -> None:
    """Raise unless both inputs have one structure, and tensors of the same shapes and dtypes."""
    (leaves, spec), (others, spec_of_others) = map(
        pytree.tree_flatten, ((question.x, question.kwargs), (other.x, other.kwargs))
    )
    forms = [[(list(v.shape), v.dtype) for v in values if isinstance(v, Tensor)] for values in (leaves, others)]
    if spec != spec_of_others or forms[0] != forms[1]:
        shapes = [" and ".join(f"{shape} of {dtype}" for shape, dtype in form) for form in forms]
        raise ValueError(
            f"edges(against=...): expected inputs structured and shaped as x, {shapes[0]}, got {shapes[1]}."
        )


def _check_line(question: Question) -> None:
    for value in pytree.tree_leaves(question.x):
        if value.is_complex():
            raise TypeError(f"edges(steps=...): expected real inputs, got {value.dtype}. Give steps=1.")
        if not value.is_floating_point():
            raise TypeError(
                f"edges(steps=...): expected floating-point inputs, got {value.dtype}: there is no line between token "
                "ids. Give inputs_embeds as x, or steps=1."
            )


def _work(question: Question, options: PassOptions, more: Any) -> Any:
    against, sources, sinks, named, steps, channel_dim = more
    asked = Asked(question, against, tuple(sources), tuple(sinks), Named(*named), options.rules, steps, channel_dim)
    return tuple(find(asked))


_WORK = Work(_work)
_find_eagerly: Any = torch.compiler.disable(find)


def _found(asked: Asked) -> Found:
    if not torch.compiler.is_dynamo_compiling():
        return _find_eagerly(asked)
    target = asked.question.target
    if asked.steps > 1 and callable(target) and not is_data(target):
        raise TypeError(
            "edges(target=<function>, steps=...): in compiled code a function of the output is read at x alone. Give a "
            "class or an index, write the function into the model, or take steps=1."
        )
    more = (asked.against, asked.sources, asked.sinks, asked.named, asked.steps, asked.channel_dim)
    return Found(*in_one_node(_WORK, asked.question, PassOptions(asked.rules), more))
