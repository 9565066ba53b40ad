"""Excitation backpropagation and its contrastive form."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.attribute import pulled
from ...attribution.each_layer import at_layers, for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions, Start
from ...attribution.question import Inputs, Layer, Model, ask, ask_at_layers
from ...attribution.targets import Target
from ...calls.call import Call
from ...rulebook.conditions import Conditions
from ...rulebook.rulebook import Entry, Rulebook
from ...rules.composites import rulebook_of
from ...rules.excitation import winning_probability
from ..features import channels_first, require_layer


@at_layers
def excitation_backprop(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    start: Start = "one",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Excitation backpropagation: the probability that a random walk from the target along excitations ends here.

    P_x = x J_{W+}^T[P / (x W+)] at linear maps; sums and average pooling split P in proportion, batch norm passes it on

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`. The root is meant to be
            at least 0, such as the value after a relu; its sum over channels is the map.
        start: "one", the probability with which the walk starts at the target; or the target's "output", as in `lrp`.

    Returns:
        Marginal winning probabilities, structured and shaped as `x` (as the site's value with `layer`). Over a
        non-negative root they sum to 1 per example, less what dead units lose.

    Raises:
        ValueError, TypeError, UntrackedPathError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(16, 3))
        >>> p = funcattr.excitation_backprop(model, torch.rand(2, 1, 4, 4), target=1, layer="1")
        >>> funcattr.maps.sum(p).shape
        torch.Size([2, 1, 2, 2])

    References:
        Zhang et al., 2016, arXiv:1608.00507, algorithm 1.
    """
    question = ask_at_layers(
        "excitation_backprop",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    found = pulled(question, PassOptions(rulebook_of(question.call, "excitation_backprop"), start))
    return question.as_given(found.cotangent)


def _contrast(call: Call, p: Tensor) -> Tensor:
    """P of the classifier less P of its dual, whose weights are negated."""
    return winning_probability(call, p) - winning_probability(call, p, negated=True)


def _contrastive(**where: Any) -> Rulebook:
    row = Entry("linear_map", _contrast, required=True, **where)
    return rulebook_of("contrastive_excitation_backprop", "excitation_backprop") | row


_AT_THE_LAST = _contrastive(position="last")


@for_each_layer
def contrastive_excitation_backprop(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer,
    contrast_layer: Layer,
    classifier_layer: Layer | None = None,
    channel_dim: int | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """What excites the target and not its dual, a target with all the classifier's weights negated.

    A = max(0, sum_c P_c), where P starts at the contrast layer from P(target) - P(dual)

    All below the classifier is linear in P, so one reverse pass carries the difference.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        layer: Site of the map.
        contrast_layer: Site between `layer` and the classifier; what goes by other ways is left out.
        classifier_layer: Module whose weights are negated; the last linear map by default.
        channel_dim: Dimension of the channels at `layer`, as in `grad_cam`.

    Returns:
        Map at the layer's size. [N, 1, *spatial]; with `example_dims` the examples are where the layer has them.
        Nothing is conserved.

    Raises:
        ValueError: If no linear map matches `classifier_layer`, or the contrast layer comes after it.
        UntrackedPathError: If the contrast layer comes before `layer`.
        NotImplementedError: If `classifier_layer` is given in compiled code, where no rulebook can be made.
        TypeError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(16, 8), ReLU(), Linear(8, 3))
        >>> x = torch.rand(2, 1, 4, 4)
        >>> funcattr.contrastive_excitation_backprop(model, x, 1, layer="1", contrast_layer="4").shape
        torch.Size([2, 1, 2, 2])

    References:
        Zhang et al., 2016, arXiv:1608.00507, section 3.3.
    """
    call = "contrastive_excitation_backprop"
    question = ask(
        call, model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    require_layer(question)
    contrast = question.model.site_name(call, contrast_layer, "contrast_layer")
    book = _AT_THE_LAST
    if classifier_layer is not None:
        classifier = question.model.site_name(call, classifier_layer, "classifier_layer")
        if torch.compiler.is_dynamo_compiling():
            raise NotImplementedError(
                f"{call}(classifier_layer={classifier!r}): torch.compile cannot make a rulebook. Leave it out if it is "
                "the last linear map, or trace with make_fx."
            )
        book = _contrastive(path=classifier)
    found = pulled(question, PassOptions(book, conditions=Conditions({contrast: None}, exclusive=True)))
    question.require_rows(found.cotangent)
    p = channels_first(found.cotangent, question, channel_dim)
    return question.as_given(p.sum(1, keepdim=True).clamp(min=0))
