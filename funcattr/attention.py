"""Attention in simpler operations, so that each gets its rule: `decompose` these in a rulebook."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UnsupportedOperationError


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    first: int = 0,
    shown: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """softmax(q / sqrt(d) k^T + mask) v. [..., L, d], [..., S, d], [..., S, e] -> [..., L, e]

    Args:
        first: The number of the first query, where these are a part of all.
        shown: Is given the weights, [..., L, S], before dropout; what it returns goes on in their place.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    # The query is scaled, as in F.multi_head_attention_forward, and not the scores: they are more, and would be held.
    scaled = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = scaled @ key.mT
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1 + first)
        scores = scores.masked_fill(future, -math.inf)
    dead = None
    if attn_mask is not None:
        is_boolean = attn_mask.dtype == torch.bool
        # A row with nothing to attend to gets zeros, as in torch's own; opened, its softmax has a derivative.
        dead = (attn_mask.logical_not() if is_boolean else attn_mask == -math.inf).all(-1, keepdim=True)
        attn_mask = attn_mask.logical_or(dead) if is_boolean else attn_mask.masked_fill(dead, 0.0)
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf) if is_boolean else scores + attn_mask
    weights = scores.softmax(-1)
    if shown is not None:
        weights = shown(weights if dead is None else weights.masked_fill(dead, 0.0))
    mixed = (weights if dropout_p == 0 else F.dropout(weights, dropout_p)) @ value
    return mixed if dead is None else mixed.masked_fill(dead, 0.0)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
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
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention,
    shown: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`nn.MultiheadAttention` in plain operations. [L, N, E] -> [L, N, E], and the weights [N, L, S] if needed.

    Args:
        attend: Does the work where nobody needs the weights, as in torch.
        shown: Is given the weights of each head, [N, H, L, S], before dropout; what it returns goes on in their place.
    """
    if static_k is not None or static_v is not None:
        raise UnsupportedOperationError(
            "multi_head_attention_forward(static_k=..., static_v=...): no rule. Pass key, value."
        )
    unbatched = query.ndim == 2
    if unbatched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    separate: tuple[Any, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = separate if use_separate_proj_weight else _chunks(in_proj_weight)
    biases = _chunks(in_proj_bias)
    q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True))
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([t, b.expand(1, t.shape[1], -1)]) for t, b in ((k, bias_k), (v, bias_v)))
    length, batch = q.shape[0], q.shape[1]
    q, k, v = (t.reshape(t.shape[0], batch, num_heads, -1).permute(1, 2, 0, 3) for t in (q, k, v))  # [N, H, L, D]
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    attention = None
    if need_weights:  # a row with nothing to attend to is NaN, as in torch
        mask = _mask(q, k, key_padding_mask, attn_mask)
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT
        weights_of_heads = (scores if mask is None else scores + mask).softmax(-1)
        weights_of_heads = weights_of_heads if shown is None else shown(weights_of_heads)
        attention = F.dropout(weights_of_heads, dropout_p, training)
        mixed = attention @ v
    else:
        # Torch believes the hint, and not the mask: keys that were added lie in the future.
        by_hint = is_causal and key_padding_mask is None
        mask = None if by_hint else _mask(q, k, key_padding_mask, attn_mask)
        attend = attend if shown is None else partial(scaled_dot_product_attention, shown=shown)
        mixed = attend(q, k, v, mask, dropout_p if training else 0.0, by_hint)
    out = F.linear(mixed.permute(2, 0, 1, 3).reshape(length, batch, -1), out_proj_weight, out_proj_bias)
    returned = attention.mean(1) if attention is not None and average_attn_weights else attention
    if unbatched:
        return out.squeeze(1), None if returned is None else returned.squeeze(0)
    return out, returned


def _chunks(joint: Tensor | None) -> tuple[Any, ...]:
    return (None, None, None) if joint is None else joint.chunk(3)


def _mask(q: Tensor, k: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
    """Both masks as one sum of scores, [N or 1, H or 1, L or 1, S]; keys that were added are open to all."""
    batch, heads, length, keys = *q.shape[:3], k.shape[2]
    masks = []
    if attn_mask is not None:
        given = attn_mask.reshape(batch, heads, length, -1) if attn_mask.ndim == 3 else attn_mask
        masks.append(_additive(given, q))
    if key_padding_mask is not None:
        masks.append(_additive(key_padding_mask, q)[:, None, None])
    open_to_all = [F.pad(m, (0, keys - m.shape[-1])) for m in masks]
    return sum(open_to_all[1:], open_to_all[0]) if open_to_all else None


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half, gated by a sigmoid of the second."""
    signal, gate = input.chunk(2, dim)
    return signal * torch.sigmoid(gate)
