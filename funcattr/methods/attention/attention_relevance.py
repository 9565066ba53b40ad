"""Relevance along attention (Chefer et al.)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...attribution.attribute import pulled
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from .weights import identity_like, listed, multiplied, require_sites, weights_of


def attention_relevance(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer | Sequence[Layer],
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """Attention rolled out along the heads that speak for the target: Chefer et al.'s relevancy of self-attention.

    R <- R + E_l R from R = I, layer by layer;  E_l = mean_h max(0, (d y_t / d A_lh) A_lh)

    One forward and one reverse pass, for all layers.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        layer: Sites of self-attention weights, as in `attention_rollout`.

    Returns:
        R: row i has the relevance of the input tokens j for token i, at least 0. [N, T, T]. What is explained is read
        from some token, the class token or the last one: its row is the map, less the 1 that it starts from for itself.
        Nothing is conserved.

    Raises:
        TypeError, ValueError, UnknownSiteError: As in `attention_rollout`.
        UntrackedPathError: If the output does not depend on the weights of a site.

    Example:
        >>> import torch, funcattr
        >>> block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(block, 3).eval()
        >>> x, of_first = torch.randn(2, 5, 8), lambda output: output[:, 0, 1]
        >>> funcattr.attention_relevance(model, x, of_first, layer="layers.*.self_attn@weights")[:, 0].shape
        torch.Size([2, 5])

    References:
        Chefer, Gur & Wolf, 2021, arXiv:2103.15679; the part on self-attention alone.
    """
    question = ask_at_layers(
        "attention_relevance",
        model,
        x,
        target,
        layer=listed(layer),
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    require_sites(question)
    found = pulled(question)
    pairs = zip(weights_of(question, found.root), weights_of(question, found.cotangent), strict=True)
    each = [(weights * g).clamp(min=0).mean(1) for weights, g in pairs]
    return question.as_given(multiplied([identity_like(e) + e for e in each]))
