"""Attention rollout."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from .weights import identity_like, listed, multiplied, require_sites, weights_of


def attention_rollout(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer | Sequence[Layer],
    residual: float = 0.5,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """How much of each input token each token holds behind the layers, as if attention only mixed tokens.

    R = M_L ... M_1;  M_l = r I + (1 - r) mean_h A_lh

    Args:
        model, x, args, kwargs, example_dims: As in `gradient`.
        target, output: Not read, for attention is the same for all classes; there for what takes any method.
        layer: Sites of self-attention weights, in the order in which they are passed: a pattern such as
            `"layers.*.self_attn@weights"`, or a list.
        residual: r, the share of the residual connection.

    Returns:
        R: row i has the shares of the input tokens j in token i, at least 0, which sum to 1. [N, T, T]. A class token's
        map is its row.

    Raises:
        TypeError: If there is no site, or its value is no tensor.
        ValueError: If a site has no weights [N, heads, T, T], or `residual` is no share.
        UnknownSiteError: If there is no attention at a site.

    Example:
        >>> import torch, funcattr
        >>> block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(block, 3).eval()
        >>> funcattr.attention_rollout(model, torch.randn(2, 5, 8), layer="layers.*.self_attn@weights").shape
        torch.Size([2, 5, 5])

    References:
        Abnar & Zuidema, 2020, arXiv:2005.00928.
    """
    question = ask_at_layers(
        "attention_rollout",
        model,
        x,
        target,
        layer=listed(layer),
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    if not 0 <= residual <= 1:
        raise ValueError(f"attention_rollout(residual={residual}): expected a share from 0 to 1.")
    require_sites(question)
    each = weights_of(question, question.root())
    one = identity_like(each[0])
    return question.as_given(multiplied([residual * one + (1 - residual) * weights.mean(1) for weights in each]))
