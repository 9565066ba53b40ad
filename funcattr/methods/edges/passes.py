"""The passes of edges: the values at both inputs, the cotangents at all sinks, and direct effects sink by sink."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.question import Question
from ...attribution.reverse import is_final
from ...attribution.targets import cotangent_of
from ...copies import copied
from ...rulebook.rulebook import Rulebook
from ...sampling.loops import wide
from ...tape.record import Recording
from ...tape.vjp import recorded
from ...torch_state import derivative_is_final
from .stream import Change, SinkReachedError, Stream

Values = dict[str, Tensor]
Pairs = list[tuple[int, int]]


class Named(NamedTuple):
    """The sites that were named, and not matched by a pattern."""

    sources: tuple[str, ...]
    sinks: tuple[str, ...]


class Asked(NamedTuple):
    """What edges are asked for.

    Attributes:
        question: The model at x, and the target.
        against: Its inputs in place of x: x, args and kwargs.
        sources, sinks: Names of sites.
        named: Those that have to have an edge.
        rules: The rulebook of all reverse passes, in the space of gradients.
        steps: Points between the inputs at which gradients are taken.
        channel_dim: Dimension of a site's value, with its examples in front, that is summed over; None: all.
    """

    question: Question
    against: tuple[Any, Any, Any]
    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    named: Named
    rules: Rulebook
    steps: int
    channel_dim: int | None

    @property
    def sites(self) -> tuple[str, ...]:
        """The listed sites, each once."""
        return tuple(dict.fromkeys((*self.sources, *self.sinks)))

    def at(self, share: float) -> Question:
        """The question at a point of the line from x (0) to the other inputs (1)."""
        if share == 0:
            return self.question
        x, args, kwargs = self.against
        if share != 1:
            x = pytree.tree_map(lambda a, b: (a + share * (b - a)).to(a.dtype), self.question.x, x)
            args, kwargs = self.question.args, self.question.kwargs
        return self.question._replace(x=x, args=args, kwargs=kwargs)

    def stream(self, changes: Mapping[str, Change], last: str | None = None) -> Stream:
        """A mode that reads the listed sites, and changes some."""
        return Stream(self.question.call, self.sources, self.sinks, changes, last)

    def require(self, stream: Stream) -> None:
        """Raise UnknownSiteError for a listed site that a run has not passed."""
        for argument, sites in (("sources", self.sources), ("sinks", self.sinks)):
            stream.require(f"{self.question.call}({argument}=...)", sites, self.question.model.sites)

    def in_front(self, name: str, value: Tensor) -> Tensor:
        """A value at a site with its examples in front, one row for each."""
        question = self.question._replace(layer=name)
        value = question.at_layer(value)
        question.require_rows(value)
        return value

    def by_position(self, value: Tensor) -> Tensor:
        """A value whose last dimension is summed over, in single precision at least. [N, ...] -> [N, *positions, F]"""
        value = self.wide(value)
        if self.channel_dim in (-1, value.ndim - 1):
            return value
        return value.flatten(1) if self.channel_dim is None else value.movedim(self.channel_dim, -1)

    @staticmethod
    def wide(value: Tensor) -> Tensor:
        """A value in the dtype to sum in."""
        return value.to(wide(value.dtype))


class Found(NamedTuple):
    """What edges are.

    Attributes:
        scores: Of each source to each sink. [S, K, N, *positions]
        unexplained: Of each sink. [K, N]
        coefficients: Of each source in the sum that a sink's value is; 0: it is no term. [S, K]
        against: The sources' values at the other inputs, as the model has them.
    """

    scores: Tensor
    unexplained: Tensor
    coefficients: Tensor
    against: list[Tensor]


class _Point(NamedTuple):
    """A pass at one point.

    Attributes:
        question: The question at this point.
        stream: What was read there.
        values: The values that arrived at the listed sites.
        cotangents: Of the target, at the sinks.
    """

    question: Question
    stream: Stream
    values: Values
    cotangents: Values


def find(asked: Asked) -> Found:
    """The edges: one forward pass at each input and one reverse pass, and one more of each for a further point.

    A sink takes a pass of its own, at each point, if it comes behind a source that is no term of it.
    """
    against = _values(asked, asked.at(1))
    point = _point(asked, asked.at(0), against)
    _check_order(asked, point.stream)
    differences = {
        name: asked.in_front(name, point.values[name]) - asked.in_front(name, against[name]) for name in asked.sites
    }
    _check_positions(asked, differences)
    coefficients = point.stream.coefficients(asked.sources, asked.sinks)
    scores, unexplained = _scores(asked, differences, point)
    for step in range(1, asked.steps):
        more = _scores(asked, differences, _point(asked, asked.at(step / asked.steps), against))
        scores, unexplained = scores + more[0], unexplained + more[1]
    like = point.values[asked.sources[0]]
    return Found(
        (scores / asked.steps).to(like.dtype),
        (unexplained / asked.steps).to(like.dtype),
        torch.tensor(coefficients, dtype=torch.float64, device=like.device).to(like.dtype),
        [against[name] for name in asked.sources],
    )


# --- passes ----------------------------------------------------------------------------------------------------------


def _values(asked: Asked, question: Question) -> Values:
    """The values at the listed sites."""
    stream = asked.stream({})
    with stream:
        question.outputs()
    asked.require(stream)
    return stream.values


def _point(asked: Asked, question: Question, against: Values) -> _Point:
    """A forward pass with zeros added at the sinks, and the cotangents of the zeros."""
    streams: list[Stream] = []
    zeros = [torch.zeros_like(against[name]) for name in asked.sinks]
    # Rules ask which operands are tracked. So they meet all that depends on the input or on a source.
    numbers = [against[name].new_zeros(()) for name in asked.sources] if asked.rules.entries else []
    inputs = _tracked_inputs(asked, question)
    model = question.model.ready()

    def run(*roots: Tensor) -> tuple[Tensor, list[Tensor]]:
        added = dict(zip(asked.sinks, roots, strict=False))
        rest = roots[len(zeros) :]
        for name, number in zip(asked.sources if numbers else (), rest, strict=False):
            added[name] = added[name] + number if name in added else number
        stream = asked.stream({name: partial(_plus, asked, name, zero) for name, zero in added.items()})
        streams.append(stream)
        with stream:
            output = question.explained(model, _inputs(question, rest[len(numbers) :]))
        asked.require(stream)
        return output, [stream.values[name] for name in asked.sites]

    roots = (*zeros, *numbers, *inputs)
    output, values, pull = _recorded(asked, question, run, roots)
    cotangent = cotangent_of(question.call, output, question.target)
    pulled = pull((cotangent, list(map(_no_cotangent, values))))
    found = dict(zip(asked.sites, values, strict=True))
    return _Point(question, streams[-1], found, dict(zip(asked.sinks, pulled, strict=False)))


def _direct(asked: Asked, point: _Point, sink: str) -> Values:
    """The cotangents of a sink's value at the sources, along paths through no other listed site."""
    question, frozen = point.question, {**point.values}
    model = question.model.ready()
    zeros = [torch.zeros_like(point.values[name]) for name in asked.sources]

    def run(*roots: Tensor) -> tuple[Tensor, Tensor]:
        held = {name: _Held(value) for name, value in frozen.items()}
        held |= {name: _Held(frozen[name], zero) for name, zero in zip(asked.sources, roots, strict=False)}
        stream = asked.stream(held, last=sink)
        try:
            with stream:
                question.explained(model, _inputs(question, roots[len(zeros) :]))
        except SinkReachedError:
            pass
        return stream.values[sink], roots[0].clone()  # so that something depends on the roots

    value, rest, pull = _recorded(asked, question, run, (*zeros, *_tracked_inputs(asked, question)))
    pulled = pull((point.cotangents[sink].to(value.dtype), _no_cotangent(rest)))
    return dict(zip(asked.sources, pulled, strict=False))


def _tracked_inputs(asked: Asked, question: Question) -> list[Tensor]:
    """The inputs as roots, where rules ask and they can be roots; else none."""
    inputs = pytree.tree_leaves(question.x) if asked.rules.entries else []
    return inputs if all(map(torch.is_floating_point, inputs)) else []


def _inputs(question: Question, roots: tuple[Tensor, ...]) -> Any:
    """The inputs that a run is given: the roots, where they are some, or copies."""
    if not roots:
        return copied(question.x)
    return pytree.tree_unflatten(list(roots), pytree.tree_structure(question.x))


class _Held:
    """What goes on from a site in place of its value: what it was, and a root."""

    def __init__(self, value: Tensor, root: Tensor | None = None) -> None:
        self.value, self.root = value, root

    def __call__(self, _: Tensor) -> Tensor:
        return self.value.clone() if self.root is None else self.value + self.root


def _recorded(
    asked: Asked, question: Question, run: Callable[..., Any], roots: tuple[Tensor, ...]
) -> tuple[Any, Any, Callable[[Any], tuple[Tensor, ...]]]:
    """A function's two results, and its pullback, which is pulled once."""
    final = is_final(question) and derivative_is_final(*pytree.tree_leaves(asked.against), *roots)
    record = recorded(run, roots, Recording(question.call, asked.rules, sites=question.model.sites, final=final))

    def pull(cotangents: Any) -> tuple[Tensor, ...]:
        leaves = pytree.tree_leaves((record.output, cotangents))
        asked = torch.is_grad_enabled()
        with torch.set_grad_enabled(asked and not derivative_is_final(*leaves)):
            return record.pull(cotangents, release=True, asked=asked)

    return (*record.output, pull)


def _no_cotangent(value: Tensor) -> Tensor:
    return value.new_zeros(()).expand(value.shape)


def _plus(asked: Asked, name: str, zero: Tensor, value: Tensor) -> Tensor:
    if zero.ndim and value.shape != zero.shape:
        raise ValueError(
            f"{asked.question.call}(against=...): expected one shape at {name!r} for both inputs, got "
            f"{list(value.shape)} for x and {list(zero.shape)} for against."
        )
    return value + zero


# --- scores ----------------------------------------------------------------------------------------------------------


def _scores(asked: Asked, differences: Values, point: _Point) -> tuple[Tensor, Tensor]:
    """The scores [S, K, N, *positions] with the gradients of one point, and what is left of each sink. [K, N]"""
    cotangents = {name: asked.in_front(name, value) for name, value in point.cotangents.items()}
    coefficients = point.stream.coefficients(asked.sources, asked.sinks)
    first = asked.by_position(differences[asked.sources[0]])
    scores = first.new_zeros((len(asked.sources), len(asked.sinks), *first.shape[:-1]))
    for shape in dict.fromkeys(value.shape for value in cotangents.values()):
        rows = [i for i, name in enumerate(asked.sources) if differences[name].shape == shape]
        columns = [j for j, name in enumerate(asked.sinks) if cotangents[name].shape == shape]
        part = [[coefficients[i][j] for j in columns] for i in rows]
        if not any(map(any, part)):
            continue
        sources = torch.stack([asked.by_position(differences[asked.sources[i]]) for i in rows])
        sinks = torch.stack([asked.by_position(cotangents[asked.sinks[j]]) for j in columns])
        block = torch.einsum("sn...f,kn...f->skn...", sources, sinks)
        weights = torch.tensor(part, dtype=block.dtype, device=block.device)
        pairs = [(i, j) for i in rows for j in columns]
        weighted = block * weights.reshape(*weights.shape, *[1] * (block.ndim - 2))
        scores = _placed(scores, pairs, weighted.flatten(0, 1))
    direct, pairs = [], []
    for j, sink in enumerate(asked.sinks):
        before = () if sink in asked.sources else enumerate(asked.sources)
        # A source that is no term may have a direct effect.
        behind = [i for i, name in before if not coefficients[i][j] and point.stream.comes_before(name, sink)]
        pulled = _direct(asked, point, sink) if behind else {}
        for i in behind:
            name = asked.sources[i]
            slopes = asked.by_position(asked.in_front(name, pulled[name]))
            direct.append((asked.by_position(differences[name]) * slopes).sum(-1))
            pairs.append((i, j))
    if direct:
        scores = _placed(scores, pairs, torch.stack(direct))
    rises = [(asked.wide(differences[name]) * asked.wide(cotangents[name])).flatten(1).sum(1) for name in asked.sinks]
    explained = scores.unsqueeze(-1).flatten(3).sum((0, 3))
    return scores, torch.stack(rises) - explained


def _placed(scores: Tensor, pairs: Pairs, values: Tensor) -> Tensor:
    """The scores with those of some pairs put in."""
    if len(pairs) == scores.shape[0] * scores.shape[1]:
        order = sorted(range(len(pairs)), key=pairs.__getitem__)
        return (values if order == list(range(len(pairs))) else values[order]).reshape(scores.shape)
    index = torch.tensor(pairs, device=scores.device)
    return scores.index_put((index[:, 0], index[:, 1]), values)


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_order(asked: Asked, stream: Stream) -> None:
    """Raise for a named source that lies behind every sink, and a named sink before every source."""
    call = asked.question.call

    def can_be(source: str, sink: str) -> bool:
        return source == sink or stream.comes_before(source, sink)

    for source in asked.named.sources:
        if not any(can_be(source, sink) for sink in asked.sinks):
            raise ValueError(
                f"{call}(sources=...): {source!r} lies behind every sink, so that no edge leads from it. "
                "List a sink that comes later, or leave it out."
            )
    for sink in asked.named.sinks:
        if not any(can_be(source, sink) for source in asked.sources):
            raise ValueError(
                f"{call}(sinks=...): {sink!r} lies before every source, so that no edge leads to it. "
                "List a source that comes earlier, or leave it out."
            )


def _check_positions(asked: Asked, differences: Values) -> None:
    """Raise unless the values are real, and the sources' scores have one shape."""
    call, dim = asked.question.call, asked.channel_dim
    for name, value in differences.items():
        if value.is_complex():
            raise TypeError(
                f"{call}: expected real values at every source and sink, got {value.dtype} at {name!r}. "
                "Name sites where they are real, such as behind torch.view_as_real or abs."
            )
        if dim is not None and not (dim in range(1, value.ndim) or dim in range(1 - value.ndim, 0)):
            raise ValueError(
                f"{call}(channel_dim={dim}): the value at {name!r} has shape {list(value.shape)}, with no such "
                "dimension beside that of the examples. channel_dim=None sums over all."
            )
    shapes = {name: list(asked.by_position(differences[name]).shape[:-1]) for name in asked.sources}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise ValueError(
                f"{call}(channel_dim={dim}): expected sources with the same positions, got {shapes[first]} at "
                f"{first!r} and {shape} at {name!r}. channel_dim=None sums over positions too."
            )
