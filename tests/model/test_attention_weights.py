"""Attention weights as sites: what they are, and that reading or editing them changes nothing else."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal
from ..zoo import huggingface as hf


class Attention(nn.Module):
    """One attention over x, by any function of queries, keys and values."""

    def __init__(self, attend: Any, **options: Any) -> None:
        super().__init__()
        self.attend, self.options = attend, options

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x.roll(1, -2), x.flip(-1), **self.options)


def written_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return F.softmax(scores if attn_mask is None else scores + attn_mask, dim=-1) @ v


MASK = torch.zeros(5, 5, dtype=torch.float64).masked_fill(torch.eye(5, dtype=torch.bool).roll(1, 0), -math.inf)
DEAD = torch.ones(5, 5, dtype=torch.bool).tril().index_fill(0, torch.tensor([2]), False)


@pytest.mark.parametrize(
    ("options", "mask"),
    [({}, None), ({"attn_mask": MASK}, MASK), ({"is_causal": True}, torch.full((5, 5), -math.inf).triu(1).double())],
    ids=["full", "masked", "causal"],
)
def test_fused_attention_shows_what_a_softmax_does(options: dict[str, Any], mask: Tensor | None) -> None:
    x = uniform(2, 3, 5, 4)
    fused = nn.Sequential(Attention(F.scaled_dot_product_attention, **options))
    plain = nn.Sequential(Attention(written_out, attn_mask=mask))
    (y, values), (_, expected) = (funcattr.read(model, "0@weights")(x) for model in (fused, plain))
    assert_equal(values["0@weights"], expected["0@weights"])
    assert_equal(y, fused(x))
    of: dict[str, Any] = {"layer": "0@weights"}
    target = lambda output: output.flatten(1).sum(1)  # noqa: E731
    assert_equal(funcattr.gradient(fused, x, target, **of), funcattr.gradient(plain, x, target, **of))


def test_a_row_with_nothing_to_attend_to_has_no_weights() -> None:
    model, x = nn.Sequential(Attention(F.scaled_dot_product_attention, attn_mask=DEAD)), uniform(2, 3, 5, 4)
    y, values = funcattr.read(model, "0@weights")(x)
    assert values["0@weights"][:, :, 2].abs().max() == 0 and values["0@weights"][:, :, 4].sum() > 0
    assert_equal(y, model(x))


def encoder() -> Any:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return settle(lambda: nn.TransformerEncoder(block, 2, enable_nested_tensor=False))


def test_multihead_attention_shows_those_that_it_returns() -> None:
    model, x = encoder(), uniform(2, 5, 8)
    y, values = funcattr.read(model, "layers.*.self_attn@weights")(x)
    assert list(values) == ["layers.0.self_attn@weights", "layers.1.self_attn@weights"]
    h = x
    for layer, weights in zip(model.layers, values.values(), strict=True):
        assert_equal(weights, layer.self_attn(h, h, h, average_attn_weights=False)[1])
        h = layer(h)
    assert_equal(y, model(x))


@pytest.mark.parametrize("make", [hf.bert, hf.gpt2, hf.llama], ids=lambda make: make.__name__)
def test_fused_and_eager_models_of_transformers_agree(make: Any) -> None:
    x = uniform(2, hf.LENGTH, hf.WIDTH)
    fused, eager = (settle(lambda kind=kind: make(kind)) for kind in ("sdpa", "eager"))
    names = [name for name, _ in fused.named_modules() if name.endswith(("attention.self", ".attn", ".self_attn"))]
    sites = [f"{name}@weights" for name in names]
    found, expected = (funcattr.gradient(m, {"inputs_embeds": x}, 1, layer=sites) for m in (fused, eager))
    for site in sites:
        assert_equal(found[site], expected[site].to(torch.float64), tolerance=1e-6)


def test_edited_weights_go_on() -> None:
    """The derivative at the weights is that of the edit, by central differences; a head is cut off by zeros."""
    model, x, site = encoder(), uniform(2, 5, 8), "layers.0.self_attn@weights"
    way = uniform(2, 2, 5, 5, seed=9)

    def score(step: float) -> Tensor:
        return funcattr.edit(model, {site: lambda w: w + step * way})(x)[:, 0, 1]

    g = funcattr.gradient(model, x, lambda output: output[:, 0, 1], layer=site)
    assert_equal((g * way).sum((1, 2, 3)), ((score(1e-6) - score(-1e-6)) / 2e-6).detach(), tolerance=1e-6)
    without = funcattr.edit(model, {site: lambda w: w * torch.tensor([0.0, 1.0])[:, None, None]})
    inner = funcattr.read(without, "layers.0.self_attn@weights")(x)[1][site]
    assert inner[:, 0].abs().max() == 0 and inner[:, 1].min() > 0


def test_only_the_modules_that_are_asked_for_are_written_out() -> None:
    model, x = encoder(), uniform(2, 5, 8).requires_grad_()
    values = funcattr.read(model, "layers.1.self_attn@weights")(x)[1]
    assert list(values) == ["layers.1.self_attn@weights"]


def test_a_plain_function_has_the_site_at_weights() -> None:
    x = uniform(2, 3, 4)
    weights = funcattr.read(lambda x: F.scaled_dot_product_attention(x, x, x), "@weights")(x)[1]["@weights"]
    assert_equal(weights, (x @ x.mT / 2).softmax(-1))


def test_a_module_that_attends_twice_has_two() -> None:
    def twice(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x) + F.scaled_dot_product_attention(2 * x, x, x)

    x = uniform(2, 3, 4)
    values = funcattr.read(nn.Sequential(Twice(twice)), "0@weights", "0#1@weights")(x)[1]
    assert_equal(values["0@weights"], (x @ x.mT / 2).softmax(-1))
    assert_equal(values["0#1@weights"], (x @ x.mT).softmax(-1))


class Twice(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_a_module_without_attention_is_named() -> None:
    with pytest.raises(funcattr.UnknownSiteError, match=r"no such site 'layers.0.linear1@weights'"):
        funcattr.gradient(encoder(), uniform(2, 5, 8), lambda y: y.sum((1, 2)), layer="layers.0.linear1@weights")
