"""Every model family that users bring, unchanged: exact against the references, in eager and compiled."""

from typing import Any

import pytest
import torch
from torch import Tensor

import funcattr

from . import references
from .contract import assert_equal
from .sweeps import sweep
from .zoo import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore:.*the result is the plain gradient.*:UserWarning")
each_case = pytest.mark.parametrize("c", CASES, ids=repr)


def _inputs(c: Case) -> tuple[Any, dict[str, Tensor]]:
    (x,) = c.inputs()
    return (x if c.key is None else {c.key: x}), c.kwargs()


def _value(c: Case, result: Any) -> Tensor:
    return result if c.key is None else result[c.key]


@each_case
@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deconvnet"])
def test_equals_the_reference_at_the_input(c: Case, method: str) -> None:
    model, (x, kwargs) = c.build(), _inputs(c)
    actual = _value(c, getattr(funcattr, method)(model, x, 1, kwargs=kwargs))
    _, expected = references.pseudo_gradient(method, model, c.inputs()[0], 1, call=c.logits)
    assert_equal(actual, expected, tolerance=1e-5 if c.in_float32 else 1e-9)


@each_case
@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deconvnet"])
def test_equals_the_reference_at_a_layer(c: Case, method: str) -> None:
    model, (x, kwargs) = c.build(), _inputs(c)
    actual = getattr(funcattr, method)(model, x, 1, layer=c.layer, kwargs=kwargs)
    _, expected = references.pseudo_gradient(method, model, c.inputs()[0], 1, c.layer, call=c.logits)
    assert_equal(actual, expected, tolerance=1e-5 if c.in_float32 else 1e-9)


@each_case
def test_maps_have_the_layers_size_and_equal_the_reference(c: Case) -> None:
    model, (x, kwargs) = c.build(), _inputs(c)
    root, g = references.pseudo_gradient("gradient", model, c.inputs()[0], 1, c.layer, call=c.logits)
    tokens = root.ndim == 3
    if tokens:
        root, g = root.movedim(-1, 1), g.movedim(-1, 1)
    options: dict[str, Any] = {"layer": c.layer, "kwargs": kwargs, "channel_dim": -1 if tokens else 1}
    tolerance = 1e-5 if c.in_float32 else 1e-9
    assert_equal(funcattr.grad_cam(model, x, 1, **options), references.grad_cam(root, g), tolerance=tolerance)
    assert_equal(funcattr.linear_approx(model, x, 1, **options), references.linear_approx(root, g), tolerance=tolerance)


@pytest.mark.parametrize(
    "c",
    sweep(
        [c for c in CASES if c.compiles and "llama_next" not in c.name],
        quick=("mobilenet_v3", "bert_eager"),
    ),
)
def test_compiled_equals_eager(c: Case, fresh_dynamo: None) -> None:
    fm, (x, kwargs) = funcattr.functionalize(c.build()), _inputs(c)
    function = torch.compile(
        lambda x, kwargs: funcattr.guided_backprop(fm, x, 1, kwargs=kwargs), fullgraph=True, backend="aot_eager"
    )
    eager = _value(c, funcattr.guided_backprop(fm, x, 1, kwargs=kwargs))
    assert_equal(_value(c, function(x, kwargs)), eager, tolerance=1e-5 if c.in_float32 else 1e-9)


@pytest.mark.parametrize("name", ["bert_eager", "bert_sdpa", "llama_eager", "llama_sdpa"])
def test_language_models_at_the_embedding_site_equal_inputs_embeds(name: str) -> None:
    c = next(c for c in CASES if c.name == name)
    model: Any = c.build()
    embedding = model.get_input_embeddings()
    site = next(n for n, m in model.named_modules() if m is embedding)
    ids = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    at_site = funcattr.gradient(model, ids, 1, layer=site)
    at_input = funcattr.gradient(model, {"inputs_embeds": embedding(ids).detach()}, 1)["inputs_embeds"]
    assert_equal(at_site, at_input, tolerance=1e-5 if c.in_float32 else 1e-9)
    with pytest.raises(TypeError, match=r"gradient: expected a floating-point input, got torch.int64.*inputs_embeds"):
        funcattr.gradient(model, ids, 1)
