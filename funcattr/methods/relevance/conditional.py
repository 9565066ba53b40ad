"""Concept relevance propagation: relevance that passes through chosen channels, and the examples that use a channel."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import Start
from ...attribution.question import Inputs, Layer, Model, ask
from ...attribution.targets import Target
from ...model.functional import FunctionalModel, functionalize
from ...rulebook.conditions import Conditions, channel_range, lists_channels
from ...rules.composites import Rules
from ..features import channels_first
from .lrp import relevance, relevance_rules

Channels = int | Sequence[int] | Tensor


@for_each_layer
def conditional_relevance(
    model: Model,
    x: Inputs,
    target: Target = None,
    conditions: Sequence[Mapping[Any, Channels]] = (),
    *,
    rules: Rules = "epsilon_plus",
    layer: Layer | None = None,
    exclusive: bool = False,
    channel_dim: int = 1,
    chunk_size: int | None = None,
    start: Start = "output",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Relevance under conditions: at some sites only chosen channels hand relevance on.

    R_i(theta) = sum_j R_{i <- j}(theta) where j satisfies theta

    One forward pass serves all conditions; their reverse passes run as one batch.

    Args:
        model, x, target, rules, start, output, args, kwargs, example_dims: As in `lrp`; the dimension of "layer" is
            that of the conditions' sites too.
        conditions: One dict for each condition, from site to what goes on there: a channel, a list of them, or a mask
            ([C], [N, C] or the site's own shape; an integer tensor lists channels, [m] or [N, m]). All name the same
            sites, which lie after `layer`.
        layer: Site whose value gets the relevance, in place of the input.
        exclusive: Leave out what does not pass through the sites (such as the skip connection beside a block). The
            sites then lie one after the other.
        channel_dim: Dimension of the sites' channels, with the examples in front; -1 for tokens [N, T, C].
        chunk_size: Conditions in one reverse pass; all by default.

    Returns:
        Relevance [K, N, ...] for K conditions, structured as `x`. The conditions of single channels of one site, with
        `exclusive`, sum to the relevance that passes through it.

    Raises:
        ValueError: If there are no conditions, they name different sites, or a mask does not fit.
        UnknownSiteError, UntrackedPathError: If a site does not exist, or does not lie between the root and the output.
        TypeError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(16, 3))
        >>> x = torch.rand(2, 1, 4, 4)
        >>> each = funcattr.conditional_relevance(model, x, 1, [{"1": c} for c in range(4)])
        >>> torch.allclose(each.sum(0), funcattr.lrp(model, x, 1), atol=1e-5)
        True

    References:
        Achtibat et al., 2023, arXiv:2206.03208, equation 5.
    """
    call = "conditional_relevance"
    question = ask(
        call, model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    named = _named(question.model, conditions)
    masks, book = _stacked(named), relevance_rules(call, rules)
    highest = {site: _highest([condition[site] for condition in named]) for site in masks}

    def one(masks: dict[str, Tensor]) -> Any:
        where = f"{call}(conditions=...)"
        condition = Conditions({**masks}, exclusive, channel_dim, highest, where, question.layer_dim)
        return question.as_given(relevance(question, book, start, condition))

    return torch.vmap(one, chunk_size=chunk_size)(masks)


def _named(model: FunctionalModel, conditions: Sequence[Mapping[Any, Channels]]) -> list[dict[str, Channels]]:
    """The conditions with the names of their sites."""
    if isinstance(conditions, Mapping) or not all(isinstance(condition, Mapping) for condition in conditions):
        raise TypeError("conditional_relevance(conditions=...): expected a list of dicts {site: channels}.")
    return [model.by_site("conditional_relevance", condition, "conditions") for condition in conditions]


def _stacked(conditions: Sequence[Mapping[str, Channels]]) -> dict[str, Tensor]:
    """Site -> masks of all conditions, [K, ...]; lists of channels are filled up with -1, which is none."""
    sites = {frozenset(condition) for condition in conditions}
    if not conditions or len(sites) > 1 or not conditions[0]:
        raise ValueError(
            "conditional_relevance(conditions=...): expected one dict {site: channels} or more, all with the same "
            f"sites, got sites {[sorted(s) for s in sites]}."
        )
    return {site: _column(site, [condition[site] for condition in conditions]) for site in conditions[0]}


def _column(site: str, given: list[Channels]) -> Tensor:
    if all(isinstance(value, Tensor) for value in given):
        masks = [value for value in given if isinstance(value, Tensor)]
        if len({mask.shape for mask in masks}) > 1:
            raise ValueError(f"conditional_relevance(conditions=...): the masks at {site!r} differ in shape.")
        if len({lists_channels(mask) for mask in masks}) > 1:
            raise ValueError(
                f"conditional_relevance(conditions=...): expected lists of channels (integers) or masks at {site!r} "
                "for all conditions, got both."
            )
        if (lowest := min(channel_range(mask)[0] for mask in masks)) < -1:
            raise ValueError(
                f"conditional_relevance(conditions=...): expected channels of 0 or more at {site!r}, or -1 for none, "
                f"got {lowest}."
            )
        return torch.stack(masks)
    lists = [[*value] if isinstance(value, Sequence) else [value] for value in given if not isinstance(value, Tensor)]
    if len(lists) < len(given) or not all(_is_channel(c) for channels in lists for c in channels):
        raise ValueError(
            f"conditional_relevance(conditions=...): expected channels of 0 or more at {site!r}, at least one, "
            "or masks for all conditions."
        )
    longest = max(1, *map(len, lists))  # a list of no channels is one of -1 alone
    return torch.tensor([channels + [-1] * (longest - len(channels)) for channels in lists])


def _is_channel(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _highest(given: list[Channels]) -> int:
    """The highest of the channels that are given, -1 without any; of tensors where they can be looked at."""
    found = [-1]
    for value in given:
        if isinstance(value, Tensor):
            found.append(channel_range(value)[1])
        else:
            found += [value] if isinstance(value, int) else value
    return max(found)


class Maximization(NamedTuple):
    """The examples that a channel was most relevant for.

    Attributes:
        relevance: Relevance of the channel, highest first. [C, k]
        example: Its position in the data. [C, k]
    """

    relevance: Tensor
    example: Tensor


@for_each_layer
def relevance_maximization(
    model: Model,
    batches: Iterable[Any],
    *,
    layer: Layer,
    k: int = 8,
    by: Literal["sum", "max"] = "sum",
    rules: Rules = "epsilon_plus",
    channel_dim: int = 1,
    start: Start = "output",
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Maximization:
    """For each channel at a layer, the examples of a data set in which it was most relevant.

    Args:
        model, rules, start, output, args, kwargs, example_dims: As in `lrp`. Where x is one example, so is each batch.
        batches: Pairs `(x, target)`, such as a `DataLoader` gives; any length, read once.
        layer: Site of the channels.
        k: How many examples to keep.
        by: Score of a channel in an example: "sum" of its relevance, or the "max" over positions.
        channel_dim: Dimension of the channels, with the examples in front; -1 for tokens [N, T, C].
        progress: Show a progress bar.

    Returns:
        A `Maximization`: relevance and position in the data, [C, min(k, examples)] each.

    Raises:
        ValueError: If there are no batches, k < 1, `by` is another word, or the layer has not one row for each example.
        TypeError: If a batch is no pair.
        UnknownSiteError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
        >>> batches = [(torch.randn(5, 2), torch.zeros(5, dtype=torch.long)) for _ in range(3)]
        >>> best = funcattr.relevance_maximization(model, batches, layer="1", k=2)
        >>> best.relevance.shape, best.example.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))

    References:
        Achtibat et al., 2023, arXiv:2206.03208, section 3.2.
    """
    call = "relevance_maximization"
    if by not in ("sum", "max"):
        raise ValueError(f"{call}(by={by!r}): expected 'sum' or 'max'.")
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"{call}(k={k}): expected 1 or more.")
    book, fm = relevance_rules(call, rules), functionalize(model)
    site = fm.site_name(call, layer)
    best: Maximization | None = None
    seen = 0
    for batch in tqdm(batches, disable=not progress, desc=call):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(f"{call}(batches=...): expected pairs (x, target), got {type(batch).__name__}.")
        x, target = batch
        question = ask(
            call, fm, x, target, layer=site, output=output, args=args, kwargs=kwargs, example_dims=example_dims
        )
        at_site = relevance(question, book, start)
        question.require_rows(at_site)
        found = channels_first(at_site, question, channel_dim)
        places = found.reshape(*found.shape[:2], -1)
        scores = places.sum(-1) if by == "sum" else places.amax(-1)
        best = _merged(best, scores.T, seen, k)
        seen += len(scores)
    if best is None:
        raise ValueError(f"{call}(batches=...): expected one batch or more, got none.")
    return best


def _merged(best: Maximization | None, scores: Tensor, start: int, k: int) -> Maximization:
    """The k best of those so far and of a batch's scores [C, N], whose first example is number `start`."""
    index = torch.arange(start, start + scores.shape[1], device=scores.device).expand_as(scores)
    if best is not None:
        scores, index = torch.cat([best.relevance, scores], 1), torch.cat([best.example, index], 1)
    top = scores.topk(min(k, scores.shape[1]), dim=1)
    return Maximization(top.values, index.gather(1, top.indices))
