"""Where every reverse-pass method enters: run the model, make a cotangent of the target, pull it back to the root."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..rulebook.conditions import Conditions
from ..rules.composites import PLAIN, Rules, rulebook_of
from .compiled import compiled_pass
from .example_dims import ExampleDims
from .forward import PassOptions, Start
from .inputs import as_dict
from .question import Layer, Model, Question, ask_at_layers
from .reverse import Attribution, reverse_pass
from .targets import Target

# What an eager call does is not to be compiled piece by piece after a graph break.
_reverse_pass_eagerly: Any = torch.compiler.disable(reverse_pass)


def attribute(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    rules: Rules | None = None,
    layer: Layer | Sequence[Layer] | None = None,
    start: Start | None = None,
    conditions: Conditions | None = None,
    baseline: Any = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Attribution:
    """One forward pass and one ruled reverse pass, from the target to the inputs or to the site `layer`.

    Every method of the gradient family is this with a rulebook; with a rulebook of your own it is a method of your own,
    which can be mapped, compiled and differentiated like the others.

    Args:
        model: A module, a `FunctionalModel` or a callable. It is called as `model(*x, *args, **kwargs)`.
        x: Input [N, ...], a tuple of them, or a mapping of them that go by keyword; as in `gradient`.
        target: What is explained; as in `gradient`.
        rules: The rulebook, its name, or a mapping from operation to rule; None is the plain gradient. For compiled
            code, make it outside of the region.
        layer: Site that is the root (its name, or the module). Nothing before it is tracked. Or several of them, as in
            `gradient`.
        start: "output" or "one": start from the target's value in the output, or from the relevance 1, whichever space
            the rulebook works in. None: from the target's cotangent as it is.
        conditions: Sites where only part of the cotangent goes on (see `conditional_relevance`).
        baseline: Inputs structured and shaped as x, at which the model runs before; rules then find the same call
            there as `call.baseline`.
        output: Key, index or attribute of the explained tensor, for models that return several.
        args: More positional inputs of the model, constants.
        kwargs: More keyword inputs of the model, constants.
        example_dims: As in `gradient`.

    Returns:
        `Attribution(root, cotangent, output, baseline)`: the inputs or the site's value, the cotangent there
        (structured and shaped alike), the explained output [N, ...], and the root's value at the baseline. With several
        sites, root, cotangent and baseline are dicts by site.

    Raises:
        ValueError: If a shape, class, device or site is not as documented.
        TypeError: If the input is not floating point, or the model returns no floating-point tensor.
        UnsupportedOperationError: If the rulebook has no rule for an operation, or one cannot be seen through.
        UntrackedPathError: If the output does not depend on the root.

    Example:
        >>> import torch, funcattr
        >>> smooth = funcattr.Rulebook({"relu": lambda call, p: p * torch.sigmoid(10 * call.operands[0])})
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> funcattr.attribute(model, torch.ones(1, 3), 0, rules=smooth).cotangent.shape
        torch.Size([1, 3])
    """
    question = ask_at_layers(
        "attribute", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    book = PLAIN if rules is None else rulebook_of("attribute", rules)
    found = pulled(question, PassOptions(book, start, conditions, question.laid(as_dict(baseline))))
    root, cotangent, before = map(question.as_given, (found.root, found.cotangent, found.baseline))
    return Attribution(root, cotangent, question.output_as_given(found.output), before)


def pulled(question: Question, options: PassOptions | None = None) -> Attribution:
    """The reverse pass of a question, in compiled code too; by default that of the plain gradient."""
    options = options or PassOptions()
    if not torch.compiler.is_dynamo_compiling():
        return _reverse_pass_eagerly(question, options)
    structure = question.model.structure
    if structure.traced and not isinstance(structure.model, nn.Module):
        if options.rules.entries or question.begins or options.conditions is not None:
            raise TypeError(
                f"{question.call}(model=...): inside torch.compile, a plain callable hides operations from the rules. "
                "Build functionalize(callable) outside of the compiled function and pass that."
            )
        return reverse_pass(question, options)
    return Attribution(*compiled_pass(question, options))
