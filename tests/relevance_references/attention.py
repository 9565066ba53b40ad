"""Attention written out: what `scaled_dot_product_attention` and `multi_head_attention_forward` compute."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .walk import Call, Walk


def attention(walk: Walk, call: Call) -> Tensor:
    """Its steps are calls of their own, to be handled in turn."""
    with walk:
        return _attention(*call.args, **call.kwargs)


def multi_head_attention(walk: Walk, call: Call) -> tuple[Tensor, Tensor | None]:
    with walk:
        return _multi_head(*call.args, **call.kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    assert dropout_p == 0
    if enable_gqa:
        shared = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)
    # As in F.multi_head_attention_forward the query is scaled, not the scores: a stabiliser is in scaled scores' units.
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = torch.matmul(scaled, key.transpose(-2, -1))
    if is_causal:
        assert attn_mask is None
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask
    return torch.matmul(scores.softmax(-1), value)


def _multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Of [L, N, E] tensors; only what the models here use of the original."""
    assert bias_k is None and bias_v is None and not add_zero_attn and not need_weights and not training
    assert key_padding_mask is None and attn_mask is None and not use_separate_proj_weight
    weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = []
    for tensor, weight, bias in zip((query, key, value), weights, biases):
        projected = F.linear(tensor, weight, bias)
        heads.append(projected.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3))  # [N, heads, L, D]
    mixed = _attention(*heads).permute(2, 0, 1, 3).flatten(2)
    return F.linear(mixed, out_proj_weight, out_proj_bias), None
