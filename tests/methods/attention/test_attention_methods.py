"""Methods of attention weights, under fused attention, against eager attention and hooks."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import funcattr
from funcattr import FunctionalModel
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal
from ...zoo import huggingface as hf

TOLERANCE = 1e-6  # eager attention of transformers takes its softmax in float32


class Family(NamedTuple):
    make: Callable[[str], nn.Module]
    attention: str
    blocks: str
    at: str = "inputs_embeds"

    def build(self, attention: str) -> Any:
        return settle(lambda: self.make(attention))

    def x(self) -> dict[str, Tensor]:
        return {self.at: uniform(2, 3, 16, 16) if self.at == "pixel_values" else uniform(2, hf.LENGTH, hf.WIDTH)}

    @property
    def weights(self) -> str:
        return self.attention + "@weights"


FAMILIES = {
    "bert": Family(hf.bert, "bert.encoder.layer.*.attention.self", "bert.encoder.layer.*"),
    "gpt2": Family(hf.gpt2, "transformer.h.*.attn", "transformer.h.*"),
    "llama": Family(hf.llama, "model.layers.*.self_attn", "model.layers.*"),
    "qwen2": Family(hf.qwen2, "model.layers.*.self_attn", "model.layers.*"),
    "qwen3": Family(hf.qwen3, "model.layers.*.self_attn", "model.layers.*"),
    "vit": Family(hf.vit, "vit.layers.*.attention", "vit.layers.*", "pixel_values"),
}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def eager(family: Family) -> tuple[Any, list[Tensor], Tensor]:
    """The eager model, and its weights and target's sum from one call."""
    model = family.build("eager")
    out = model(**family.x(), output_attentions=True)
    return model, list(out.attentions), out.logits[:, 1].sum()


@contextmanager
def hooked(model: nn.Module, hooks: dict[str, Callable[..., Any]]) -> Iterator[None]:
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@each_family
def test_rollout_is_the_product_of_mixed_weights(family: Family) -> None:
    _, weights, _ = eager(family)
    expected = torch.eye(weights[0].shape[-1], dtype=torch.float64)
    for a in weights:
        expected = (0.5 * a.mean(1) + 0.5 * torch.eye(a.shape[-1], dtype=a.dtype)) @ expected
    actual = funcattr.attention_rollout(family.build("sdpa"), family.x(), layer=family.weights)
    assert_equal(actual, expected.double(), tolerance=TOLERANCE)
    assert_equal(actual.sum(-1), torch.ones(actual.shape[:2], dtype=torch.float64), tolerance=TOLERANCE)


@each_family
def test_relevance_is_that_of_chefer(family: Family) -> None:
    _, weights, score = eager(family)
    gradients = torch.autograd.grad(score, weights)
    expected = torch.eye(weights[0].shape[-1], dtype=torch.float64).expand(2, -1, -1)
    for a, g in zip(weights, gradients, strict=True):
        expected = expected + (a * g).clamp(min=0).mean(1).double() @ expected
    actual = funcattr.attention_relevance(family.build("sdpa"), family.x(), 1, output="logits", layer=family.weights)
    assert_equal(actual, expected, tolerance=TOLERANCE)


@each_family
def test_legrad_reads_each_block_by_the_head(family: Family) -> None:
    model = family.build("eager")
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[0] == family.blocks[:-2]]
    each = []
    for number, name in enumerate(names):
        kept: list[Any] = []
        early = {name: lambda _, __, value, kept=kept: kept.append(value)}
        late = {names[-1]: lambda _, __, value, kept=kept: kept[0]}
        with hooked(model, early), hooked(model, late):
            out = model(**family.x(), output_attentions=True)
        (g,) = torch.autograd.grad(out.logits[:, 1].sum(), [out.attentions[number]])
        each.append(g.clamp(min=0).mean((1, 2)))
    options: dict[str, Any] = {"output": "logits", "layer": family.weights, "blocks": family.blocks}
    actual = funcattr.legrad(family.build("sdpa"), family.x(), 1, **options)
    assert_equal(actual, torch.stack(each).mean(0).double(), tolerance=TOLERANCE)


def encoder(layers: int = 2) -> nn.Module:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return settle(lambda: nn.TransformerEncoder(block, layers, enable_nested_tensor=False))


def of_first(output: Tensor) -> Tensor:
    return output[:, 0, 1]


def test_value_zeroing_zeroes_value_vectors() -> None:
    """Reference: the value projection's rows of one token are set to 0 by a hand-written attention."""
    model: Any = encoder()
    x, layer = uniform(2, 5, 8), model.layers[1]
    before = model.layers[0](x)

    def block(zeroed: int | None) -> Tensor:
        q, k, v = nn.functional.linear(before, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(
            3, -1
        )
        if zeroed is not None:
            v = v * (torch.arange(5) != zeroed)[:, None]
        q, k, v = (t.reshape(2, 5, 2, 4).transpose(1, 2) for t in (q, k, v))
        mixed = (q @ k.mT / math.sqrt(4)).softmax(-1) @ v
        h = layer.norm1(before + layer.self_attn.out_proj(mixed.transpose(1, 2).reshape(2, 5, 8)))
        return layer.norm2(h + layer.linear2(layer.linear1(h).relu()))

    torch.testing.assert_close(block(None), model(x))
    distances = [1 - torch.cosine_similarity(block(None), block(j), dim=-1) for j in range(5)]
    expected = torch.stack(distances, -1)
    expected = expected / expected.sum(-1, keepdim=True)
    options: dict[str, Any] = {"layer": "layers.1.self_attn@weights", "block": "layers.1"}
    assert_equal(funcattr.value_zeroing(model, x, **options), expected.detach())
    assert_equal(funcattr.value_zeroing(model, x, **options, chunk_size=2), expected.detach())


@pytest.mark.parametrize(("dtype", "size", "tolerance"), [(torch.float32, 1e-3, 1e-2), (torch.bfloat16, 1.0, 0.1)])
def test_value_zeroing_sees_small_changes(dtype: torch.dtype, size: float, tolerance: float) -> None:
    """The cosine of a small turn is 1 up to rounding: its shares were those of the rounding."""
    model: Any = encoder()
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.out_proj.weight *= size
    x, options = uniform(2, 5, 8), {"layer": "layers.1.self_attn@weights", "block": "layers.1"}
    expected = funcattr.value_zeroing(model.double(), x.double(), **options)
    actual = funcattr.value_zeroing(model.to(dtype), x.to(dtype), **options)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=0)


def test_a_row_that_nothing_changes_has_no_shares() -> None:
    model: Any = encoder()
    with torch.no_grad():
        model.layers[1].self_attn.in_proj_weight[16:] = 0
        model.layers[1].self_attn.in_proj_bias[16:] = 0
    options: dict[str, Any] = {"layer": "layers.1.self_attn@weights", "block": "layers.1", "chunk_size": 3}
    assert not funcattr.value_zeroing(model.float(), uniform(2, 5, 8).float(), **options).any()


METHODS: dict[str, Callable[..., Any]] = {
    "attention_rollout": funcattr.attention_rollout,
    "attention_relevance": funcattr.attention_relevance,
    "legrad": partial(funcattr.legrad, blocks="layers.*"),
    "value_zeroing": lambda *given, layer, **options: funcattr.value_zeroing(
        *given, layer="layers.0.self_attn@weights", block="layers.0", **options
    ),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
WEIGHTS = "layers.*.self_attn@weights"


@each_method
def test_each_example_is_alone(method: Callable[..., Tensor]) -> None:
    model, x = encoder(), uniform(3, 5, 8)
    both = method(model, x, of_first, layer=WEIGHTS)
    one = method(model, x[1:2], of_first, layer=WEIGHTS)
    assert_equal(both[1:2], one)
    with sdpa_kernel(SDPBackend.MATH):  # the kernel for CPUs warns under vmap
        mapped = torch.vmap(lambda row: method(model, row[None], of_first, layer=WEIGHTS)[0])(x)
    assert_equal(mapped, both)


@each_method
def test_they_can_be_differentiated(method: Callable[..., Tensor]) -> None:
    model, x, way = encoder(), uniform(2, 5, 8), uniform(2, 5, 8, seed=4)
    weights = uniform(*method(model, x, of_first, layer=WEIGHTS).shape, seed=5)

    def total(x: Tensor) -> Tensor:
        return (method(model, x, of_first, layer=WEIGHTS) * weights).sum()

    with sdpa_kernel(SDPBackend.MATH):  # the kernel for CPUs has no second derivative
        expected = (total(x + 1e-6 * way) - total(x - 1e-6 * way)) / 2e-6
        found = (torch.func.grad(total)(x) * way).sum()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-8)


def on_numbers() -> FunctionalModel:
    return funcattr.functionalize(nn.Sequential(encoder(), nn.Flatten(1), settle(lambda: nn.Linear(40, 3))))


def test_attention_relevance_compiles(fresh_dynamo: None) -> None:
    fm, x = on_numbers(), uniform(2, 5, 8)

    def call(x: Tensor) -> Tensor:
        return funcattr.attention_relevance(fm, x, 1, layer="0." + WEIGHTS)

    assert_equal(torch.compile(call, backend="eager", fullgraph=True)(x), call(x))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (funcattr.attention_rollout, {"layer": "0." + WEIGHTS}, "attention weights cannot be read or edited inside"),
        (
            funcattr.value_zeroing,
            {"layer": "0.layers.0.self_attn@weights", "block": "0.layers.0"},
            "attention weights cannot be read or edited inside",
        ),
        (funcattr.legrad, {"layer": "0." + WEIGHTS, "blocks": "0.layers.*"}, "cannot take the edits of a model"),
    ],
)
def test_compiled_code_says_what_it_cannot(
    method: Any, options: dict[str, Any], message: str, fresh_dynamo: None
) -> None:
    fm, x = on_numbers(), uniform(2, 5, 8)
    with pytest.raises(Exception, match=message):
        torch.compile(lambda x: method(fm, x, 1, **options), backend="eager", fullgraph=True)(x)


def test_named_errors() -> None:
    model, x = encoder(), uniform(2, 5, 8)
    with pytest.raises(TypeError, match=r"^attention_rollout\(layer=None\): expected sites of attention weights"):
        funcattr.attention_rollout(model, x, layer=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^attention_relevance\(layer='layers.0'\): expected attention weights"):
        funcattr.attention_relevance(model, x, of_first, layer=["layers.0"])
    with pytest.raises(
        funcattr.UnknownSiteError, match=r"attention_rollout.*: no such site 'layers.0.linear1@weights'"
    ):
        funcattr.attention_rollout(model, x, layer="layers.*.linear1@weights")
    with pytest.raises(ValueError, match=r"^attention_rollout\(residual=2\): expected a share"):
        funcattr.attention_rollout(model, x, layer=WEIGHTS, residual=2)
    with pytest.raises(
        ValueError, match=r"^legrad\(layer=..., blocks=...\): expected a block for each of 2 sites, got 1"
    ):
        funcattr.legrad(model, x, of_first, layer=WEIGHTS, blocks="layers.0")
    with pytest.raises(ValueError, match=r"^legrad\(blocks=...\): the block 'layers.1' comes after the last one"):
        funcattr.legrad(model, x, of_first, layer=WEIGHTS, blocks=["layers.1", "layers.0"])
    with pytest.raises(ValueError, match=r"^value_zeroing\(block='layers.1.self_attn@weights'\): expected tokens"):
        funcattr.value_zeroing(model, x, layer="layers.0.self_attn@weights", block="layers.1.self_attn@weights")
