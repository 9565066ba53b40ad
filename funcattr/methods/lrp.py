"""Layer-wise relevance propagation by any rulebook, and its two forms for attention models."""

from collections.abc import Mapping
from typing import Any

import torch.utils._pytree as pytree

from ..engine.attribution import Attribution, Inputs, Model, attribute
from ..engine.passes import Seed
from ..engine.rulebook import Rulebook
from ..engine.targets import Target
from ..rules.composites import named


def lrp(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    rules: str | Rulebook | Mapping[Any, Any] = "epsilon_plus",
    layer: str | None = None,
    seed: Seed = "one",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Inputs:
    """Layer-wise relevance propagation: the target's relevance, handed back call by call to the input.

    R_i = sum_j R_{i <- j}, where each operation's rule says what of R_j its operand i gets

    Args:
        model, x, target, output, args, kwargs: As in `gradient`.
        rules: Name of a composite (`rules.COMPOSITES`), or a rulebook.
        layer: Site whose value gets the relevance, in place of the input.
        seed: Relevance of the target: "one", or its output value ("logit").

    Returns:
        Relevance, structured and shaped as `x` (as the site's value with `layer`), in units of the seed. Its sum is the
        seed less what biases, dead units, stabilisers and softmax take; `conservation` lists that call by call.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`.
        UnsupportedOperationError: If the model calls an operation that the rulebook has no rule for (all are listed).

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3, bias=False), ReLU(), Flatten(), Linear(16, 3, bias=False))
        >>> relevance = funcattr.lrp(model, torch.rand(2, 1, 4, 4), target=1, seed="logit")
        >>> relevance.shape
        torch.Size([2, 1, 4, 4])

    References:
        Bach et al., 2015, doi:10.1371/journal.pone.0130140; Montavon et al., 2019, doi:10.1007/978-3-030-28954-6_10.
    """
    book = named("lrp", rules)
    options: dict[str, Any] = {"layer": layer, "seed": seed, "output": output, "args": args, "kwargs": kwargs}
    return relevance_of(attribute(model, x, target, rules=book, call="lrp", **options), book)


def attnlrp(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: str | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Inputs:
    """AttnLRP: relevance for attention models, in gradient space and without any division.

    A = x * g; g is the gradient with f(x) / x in place of an activation's derivative, half of it to each factor of a
    product, and the scale of a normalisation held constant.

    Args:
        model, x, target, layer, output, args, kwargs: As in `gradient`. For token models give `inputs_embeds` as `x`,
            or the embedding's site as `layer`; the sum over the last axis is the relevance of a token.

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
    options: dict[str, Any] = {"layer": layer, "output": output, "args": args, "kwargs": kwargs}
    book = named("attnlrp", "attnlrp")
    return relevance_of(attribute(model, x, target, rules=book, call="attnlrp", **options), book)


def cp_lrp(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    layer: str | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Inputs:
    """CP-LRP: as `attnlrp`, with attention weights and gates held constant, so that relevance follows the values.

    Args:
        model, x, target, layer, output, args, kwargs: As in `attnlrp`.

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
    options: dict[str, Any] = {"layer": layer, "output": output, "args": args, "kwargs": kwargs}
    book = named("cp_lrp", "cp_lrp")
    return relevance_of(attribute(model, x, target, rules=book, call="cp_lrp", **options), book)


def relevance_of(found: Attribution, rules: Rulebook) -> Any:
    """The relevance that a reverse pass has found: the cotangent itself, or x * g in gradient space."""
    if rules.space == "relevance":
        return found.cotangent
    return pytree.tree_map(lambda x, g: x * g, found.root, found.cotangent)
