"""Layer-wise relevance propagation by any rulebook, and its two forms for attention models."""

from collections.abc import Mapping
from typing import Any

from ..._torch import pytree
from ...attribution.attribute import pulled
from ...attribution.contribution import contribution, of_both_parts
from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions, Start
from ...attribution.question import Inputs, Layer, Model, Question, ask_at_layers
from ...attribution.targets import Target
from ...rulebook.conditions import Conditions
from ...rulebook.rulebook import Rulebook
from ...rules.composites import Rules, rulebook_of


@at_layers
def lrp(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    rules: Rules = "epsilon_plus",
    layer: Layer | None = None,
    start: Start = "output",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Layer-wise relevance propagation: the target's relevance, handed back call by call to the input.

    R_i = sum_j R_{i <- j}, where each operation's rule says what of R_j its operand i gets

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        rules: Name of a rulebook (`rules.COMPOSITES`), a rulebook, or a mapping from operation to rule that names all.
        layer: Site whose value gets the relevance, in place of the input.
        start: Relevance of the target: its value in the output ("output"), or "one".

    Returns:
        Relevance, structured and shaped as `x` (as the site's value with `layer`), in units of the start. Its sum
        is the start less what biases, dead units, stabilisers and softmax take; `conservation` lists that call by call.
        That of a complex number is real, the sum of its parts' relevances.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`.
        UnsupportedOperationError: If the model calls an operation that the rulebook has no rule for (all are listed).

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3, bias=False), ReLU(), Flatten(), Linear(16, 3, bias=False))
        >>> relevance = funcattr.lrp(model, torch.rand(2, 1, 4, 4), target=1)
        >>> relevance.shape
        torch.Size([2, 1, 4, 4])

    References:
        Bach et al., 2015, doi:10.1371/journal.pone.0130140; Montavon et al., 2019, doi:10.1007/978-3-030-28954-6_10.
    """
    question = ask_at_layers(
        "lrp", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(relevance(question, relevance_rules("lrp", rules), start))


@at_layers
def attnlrp(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    start: Start = "output",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """AttnLRP: relevance for attention models, in gradient space and without any division.

    A = x * g; g is the gradient with f(x) / x in place of an activation's derivative, half of it to each factor of a
    product, and the scale of a normalisation held constant.

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`. For token models give
            `inputs_embeds` as `x`, or the embedding's site as `layer`; the sum over the last axis is the relevance of a
            token.
        start: As in `lrp`.

    Returns:
        Relevance in units of the output, structured and shaped as `x`. It sums to the target's output less what biases
        and softmax take; `conservation(rules="attnlrp")` lists that call by call.

    Raises:
        ValueError, TypeError, UntrackedPathError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> model = torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(40, 3))
        >>> funcattr.attnlrp(model, torch.randn(2, 5, 8), target=0).sum(-1).shape  # one number per token
        torch.Size([2, 5])

    References:
        Achtibat et al., 2024, arXiv:2402.05602.
    """
    question = ask_at_layers(
        "attnlrp", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(relevance(question, rulebook_of("attnlrp", "attnlrp"), start))


@at_layers
def cp_lrp(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    start: Start = "output",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """CP-LRP: as `attnlrp`, with attention weights and gates held constant, so that relevance follows the values.

    Args:
        model, x, target, layer, start, output, args, kwargs, example_dims: As in `attnlrp`.

    Returns:
        Relevance in units of the output, structured and shaped as `x`. It sums to the target's output less the biases.

    Raises:
        ValueError, TypeError, UntrackedPathError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> model = torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(40, 3))
        >>> funcattr.cp_lrp(model, torch.randn(2, 5, 8), target=0).shape
        torch.Size([2, 5, 8])

    References:
        Ali et al., 2022, arXiv:2202.07304.
    """
    question = ask_at_layers(
        "cp_lrp", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(relevance(question, rulebook_of("cp_lrp", "cp_lrp"), start))


def relevance_rules(call: str, rules: Rules) -> Rulebook:
    """The rulebook of an option `rules=` of a relevance method: a mapping has to name every operation.

    Raises:
        ValueError, TypeError: As in `rulebook_of`; and if its rules share out no relevance.
    """
    book = rulebook_of(call, rules, unlisted="raise", space="relevance")
    if book.space == "multiplier":
        raise ValueError(
            f"{call}(rules={book.name!r}): its rules compare with a baseline. Take deep_lift, or attribute with one."
        )
    if isinstance(rules, str) and book.unlisted == "gradient":
        raise ValueError(
            f"{call}(rules={rules!r}): these rules change a gradient, and share out no relevance. Give the Rulebook "
            "itself where x * gradient by them is meant."
        )
    return book


def relevance(question: Question, rules: Rulebook, start: Start, conditions: Conditions | None = None) -> Any:
    """The relevance of the root, with its examples in front: the cotangent itself, or x * g in gradient space; real."""
    found = pulled(question, PassOptions(rules, start, conditions))
    if rules.space == "relevance":
        return pytree.tree_map(of_both_parts, found.cotangent)
    return pytree.tree_map(contribution, found.root, found.cotangent)
