"""Gradient and gradient times input."""

from collections.abc import Mapping
from typing import Any

from ..._torch import pytree
from ...attribution.attribute import pulled
from ...attribution.contribution import contribution
from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Layer, Model, ask_at_layers
from ...attribution.targets import Target


@at_layers
def gradient(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """The gradient of the target with respect to the input, or to the value at a site.

    A = d y_t / d x

    Args:
        model: A module, a `FunctionalModel` or a callable; called as `model(*x, *args, **kwargs)`. Not modified.
        x: Input, [N, ...]; a tuple of inputs; or a mapping of inputs that go by keyword (a dict, a `BatchEncoding`).
            Beside floating-point inputs in a mapping, its integer and boolean tensors (token ids, masks) are constants.
        target: What is explained. An int: a class. A list of ints or an integer tensor [N]: a class per example. A
            tuple: an index into the trailing dimensions, `(position, token)` say, for all examples. A list of tuples or
            an integer tensor [N, k]: such an index per example. A floating-point tensor: a cotangent of the output's
            shape. A function: `output -> one number per example`. None: the output has one number per example. Numbers
            below 0 count from the end, and NumPy's integers and arrays will do. A class of a spatial output
            [N, K, H, W] means its sum over space.
        layer: Site to attribute to in place of the input: its name (a module path such as `"features.29"`), or the
            module. Earlier layers run forward only, and `x` may be of any dtype. Or a list of sites, in which
            patterns stand for several: `*` is one name of a path, `["layers.*.mlp"]`.
        output: Key, index or attribute of the explained output, for models that return several (`"logits"` is found).
        args: More positional inputs of the model, constants.
        kwargs: More keyword inputs of the model, constants.
        example_dims: Which dimension holds the examples, as in `torch.vmap`'s `in_dims`: of x (an int, or None if x is
            one example, such as a graph or a bag); or a dict of dimensions with some of the keys "x", "args", "kwargs",
            "output" and "layer". By default 0 everywhere; of args and kwargs, for tensors with a row for each example.

    Returns:
        Attributions in units of y per unit of x, structured and shaped as `x` (as the site's value with `layer`). For a
        mapping of any kind it is a dict, without the constants. For a list of sites it is a dict by site, from one
        forward and one reverse pass for all of them. For a complex x they are torch's gradient: dy = Re(conj(A) dx).

    Raises:
        ValueError: If a shape, class, device or site is not as documented above.
        TypeError: If the input is not floating point, or the model returns no floating-point tensor.
        UntrackedPathError: If the output does not depend on the root.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> torch.equal(funcattr.gradient(model, torch.ones(1, 3), target=1)[0], model.weight[1].detach())
        True

    References:
        Simonyan et al., 2014, arXiv:1312.6034, section 3.
    """
    question = ask_at_layers(
        "gradient", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(pulled(question).cotangent)


@at_layers
def input_x_gradient(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: Layer | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """The input (or the value at a site) times the gradient.

    A = x * d y_t / d x;  of complex numbers Re(x conj(g)), g = d y_t / d x as torch has it

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), and real where it
        is complex: a number for each value. For a positively homogeneous model (relu, max-pooling, no biases) they sum
        to y_t exactly; else the sum lacks the biases' share.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> x = torch.randn(4, 3)
        >>> torch.allclose(funcattr.input_x_gradient(model, x, target=1).sum(1), model(x)[:, 1])
        True

    References:
        Shrikumar et al., 2016, arXiv:1605.01713, section 2.
    """
    question = ask_at_layers(
        "input_x_gradient",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    found = pulled(question)
    return question.as_given(pytree.tree_map(contribution, found.root, found.cotangent))
