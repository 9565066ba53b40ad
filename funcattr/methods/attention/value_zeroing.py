"""Value zeroing."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, Question, ask
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import merged, parted, repeated
from ...model.functional import Site
from ...sampling.loops import chunk_for, loop, wide
from .weights import require_sites, weights_of


@for_each_layer
def value_zeroing(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer,
    block: Site,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """How much each token behind a block changes when another token's value vector is zero in the block's attention.

    C_ij = 1 - cos(h_i, h_i with v_j = 0), divided by sum_j C_ij

    A value vector of zero is a column of zeros in the attention weights, by which it is done here.

    Args:
        model, x, args, kwargs, example_dims: As in `gradient`.
        target, output: Not read; there for what takes any method.
        layer: Site of attention weights, `"layers.3.self_attn@weights"`.
        block: Site of the tokens behind the block, `"layers.3"`, [N, T, D]; or of any tokens behind it.
        chunk_size: Tokens that are zeroed at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        C: row i has the shares of the tokens j in the token i, at least 0, which sum to 1; a row that nothing changes
        is 0. [N, T, T]

    Raises:
        TypeError: If there is no site, or its value is no tensor.
        ValueError: If the site has no weights [N, heads, queries, keys], or the block no tokens [N, queries, D].
        UnknownSiteError: If there is no such site.

    Example:
        >>> import torch, funcattr
        >>> block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(block, 3).eval()
        >>> sites = {"layer": "layers.1.self_attn@weights", "block": "layers.1"}
        >>> funcattr.value_zeroing(model, torch.randn(2, 5, 8), **sites).shape
        torch.Size([2, 5, 5])

    References:
        Mohebbi et al., 2023, arXiv:2301.12971.
    """
    call = "value_zeroing"
    question = ask(
        call, model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    require_sites(question)
    (weights,) = weights_of(question, question.root(), of_one_sequence=False)
    behind = question.model.site_name(call, block, "block")
    keys = weights.shape[-1]
    tokens = _tokens(question, behind, weights.shape[2])

    def body(carry: tuple[()], index: Tensor) -> tuple[tuple[()], tuple[Tensor, ...]]:
        zeroed = index.unsqueeze(1) == torch.arange(keys, device=index.device)
        shift = merged(torch.where(zeroed[:, None, None], -weights.unsqueeze(1), 0))
        model = question.model.shifted({str(question.layer): question.layer_as_given(shift)})
        copies = copies_of(question, repeated(question.x, question.examples, len(index)))._replace(model=model)
        changed = parted(_tokens(copies, behind, weights.shape[2]), len(index))
        return carry, (_turned(tokens.unsqueeze(1), changed).transpose(0, 1).clone(),)

    chunk = chunk_for(question, chunk_size, keys)
    _, (distances,) = loop(call, body, (), keys, chunk, device=question.device, progress=progress)
    each = distances.permute(1, 2, 0)
    total = each.sum(-1, keepdim=True)
    return question.as_given((each / torch.where(total == 0, 1, total)).to(tokens.dtype))


def _turned(before: Tensor, after: Tensor) -> Tensor:
    """1 - cos of vectors, half the squared distance of their directions; 0 if only rounding tells them apart.

    Two of [..., D] -> [...]. Of small turns a difference from 1 would leave nothing but rounding: in single precision
    of turns by a thousandth, in half precision of most.
    """
    directions = [F.normalize(v.to(wide(v.dtype)), dim=-1) for v in (before, after)]
    distance = (directions[0] - directions[1]).norm(dim=-1)
    return torch.where(distance > 4 * torch.finfo(distance.dtype).eps, distance**2 / 2, 0)


def _tokens(question: Question, block: str, queries: int) -> Tensor:
    """The tokens behind a block. [N, queries, D]"""
    tokens = question._replace(layer=block).root()
    if tokens.ndim != 3 or tokens.shape[1] != queries:
        raise ValueError(
            f"value_zeroing(block={block!r}): expected tokens [N, {queries}, D], got shape {list(tokens.shape)}."
        )
    return tokens
