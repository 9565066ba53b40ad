"""LeGrad."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...attribution.attribute import pulled
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ...model.functional import FunctionalModel
from .weights import listed, require_sites, weights_of


def legrad(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer | Sequence[Layer],
    blocks: Layer | Sequence[Layer],
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """How sensitive the target is to the attention that a token gets, each layer judged by its own tokens.

    A_j = mean_l mean_h mean_i max(0, d y^l_t / d A_lhij);  y^l: the output, read from the tokens behind the block l

    For y^l the last block's value is replaced by that of block l. One forward and one reverse pass for each layer.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        layer: Sites of attention weights, as in `attention_rollout`.
        blocks: The sites of the tokens behind each of them, as many and in the same order; the last one's are what the
            model's head reads.

    Returns:
        A number for each token that is attended to, at least 0. [N, T]. Nothing is conserved.

    Raises:
        TypeError: If there is no site, or its value is no tensor.
        ValueError: If a site has no weights [N, heads, queries, keys], there are not as many blocks as sites, or a
            block comes after the last one.
        UnknownSiteError: If there is no such site.
        UntrackedPathError: If an output does not depend on the weights.

    Example:
        >>> import torch, funcattr
        >>> block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(block, 3).eval()
        >>> x, of_first = torch.randn(2, 5, 8), lambda output: output[:, 0, 1]
        >>> sites = {"layer": "layers.*.self_attn@weights", "blocks": ["layers.0", "layers.1", "layers.2"]}
        >>> funcattr.legrad(model, x, of_first, **sites).shape
        torch.Size([2, 5])

    References:
        Bousselham et al., 2024, arXiv:2404.03214.
    """
    call = "legrad"
    question = ask_at_layers(
        call, model, x, target, layer=listed(layer), output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    require_sites(question)
    whole = question.model
    named = tuple(whole.site_names(call, listed(blocks) or (), "blocks") or ())
    if len(named) != len(question.begins):
        raise ValueError(
            f"{call}(layer=..., blocks=...): expected a block for each of {len(question.begins)} sites, "
            f"got {len(named)}."
        )
    total: Any = 0
    for site, block in zip(question.begins, named, strict=True):
        one = question._replace(layer=site, layers=(), model=_read_from(whole, block, named[-1]))
        (g,) = weights_of(one, pulled(one).cotangent, of_one_sequence=False)
        total = total + g.clamp(min=0).mean((1, 2))
    return question.as_given(total / len(named))


def _read_from(model: FunctionalModel, block: str, last: str) -> FunctionalModel:
    """The model whose last block gives on what `block` gave in the same call."""
    if block == last:
        return model
    given: list[Any] = []

    def keep(value: Any) -> Any:
        given[:] = [value]
        return value

    def replace(value: Any) -> Any:
        if not given:
            raise ValueError(f"legrad(blocks=...): the block {block!r} comes after the last one, {last!r}.")
        return given.pop()

    edits: dict[str, Callable[[Any], Any]] = {block: keep, last: replace}
    return model.edited(edits)
