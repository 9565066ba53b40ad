"""Mappings as inputs: those with a derivative are attributed to, integers and masks go along with their examples."""

from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BatchEncoding

import funcattr


class Frozen(Mapping[str, Any]):
    """A mapping that is no dict, and has nothing but what a mapping must have."""

    def __init__(self, **values: Any) -> None:
        self.values_of = values

    def __getitem__(self, key: str) -> Any:
        return self.values_of[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


MAPPINGS: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "UserDict": UserDict,
    "BatchEncoding": lambda **values: BatchEncoding(values),
    "Mapping": Frozen,
}
every_mapping = pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS)


class Tokens(nn.Module):
    """Embeddings under a mask, and the row of another embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.head = nn.Embedding(5, 3), nn.Linear(3, 2)

    def forward(self, embeds: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        h = (embeds + self.kinds(kind)) * mask.unsqueeze(-1)
        return self.head(h.tanh().sum(1) * h.sum(1))


MODEL = Tokens().double().eval()
EMBEDS = torch.randn(2, 4, 3, dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
KIND = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])

METHODS: dict[str, Callable[..., Any]] = {
    "gradient": funcattr.gradient,
    "input_x_gradient": funcattr.input_x_gradient,
    "attnlrp": funcattr.attnlrp,
    "integrated_gradients": partial(funcattr.integrated_gradients, steps=4, chunk_size=3),
    "expected_gradients": partial(funcattr.expected_gradients, samples=4, chunk_size=3),
    "deep_lift": funcattr.deep_lift,
    "feature_ablation": partial(funcattr.feature_ablation, chunk_size=5),
    "occlusion": partial(funcattr.occlusion, window=(2, 3), chunk_size=2),
    "shapley_sampling": partial(funcattr.shapley_sampling, permutations=torch.arange(12).expand(2, 12), chunk_size=2),
    "kernel_shap": partial(funcattr.kernel_shap, coalitions=torch.tril(torch.ones(12, 12)).bool(), chunk_size=5),
    "lime": partial(funcattr.lime, samples=40, chunk_size=7),
    "noise_tunnel": lambda f, x, t, **o: funcattr.noise_tunnel(
        partial(funcattr.gradient, f), x, t, samples=3, chunk_size=2, **{"sigma": 0.1, **o}
    ),
}


@every_mapping
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_integers_of_a_mapping_are_constants_of_their_examples(
    mapping: Callable[..., Any], method: Callable[..., Any]
) -> None:
    """As each example alone, with its own mask and kinds written into the function."""
    found = method(MODEL, mapping(embeds=EMBEDS, mask=MASK, kind=KIND), 1)
    alone = [
        method(lambda e, i=i: MODEL(e, MASK[i : i + 1], KIND[i : i + 1]), EMBEDS[i : i + 1], 1)
        for i in range(2)
    ]  # fmt: skip
    assert type(found) is dict and list(found) == ["embeds"]
    torch.testing.assert_close(found["embeds"], torch.cat(alone), rtol=1e-6, atol=1e-8)


@every_mapping
def test_options_structured_as_the_inputs_may_be_any_mapping(mapping: Callable[..., Any]) -> None:
    x = mapping(embeds=EMBEDS, mask=MASK, kind=KIND)
    ids = torch.arange(4).reshape(1, 4, 1).expand(1, 4, 3)
    given: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (partial(funcattr.integrated_gradients, steps=3), {"baseline": torch.full((1, 4, 3), 0.5)}),
        (funcattr.feature_ablation, {"feature_mask": ids}),
        (partial(funcattr.occlusion, stride=1), {"window": (1, 3)}),
        (METHODS["noise_tunnel"], {"sigma": torch.tensor(0.2)}),
    ]
    for method, options in given:
        named = {key: mapping(embeds=value) for key, value in options.items()}
        expected = method(MODEL, EMBEDS, 0, args=(MASK, KIND), **options)
        torch.testing.assert_close(method(MODEL, x, 0, **named)["embeds"], expected)
    rows = torch.randn(3, 4, 3, dtype=torch.float64)
    found = funcattr.deep_lift(MODEL, x, 0, baseline=funcattr.distribution(mapping(embeds=rows)))["embeds"]
    expected = funcattr.deep_lift(MODEL, EMBEDS, 0, args=(MASK, KIND), baseline=funcattr.distribution(rows))
    torch.testing.assert_close(found, expected)


@every_mapping
@pytest.mark.parametrize("options", [{}, {"quadrature": "gausslegendre"}, {"baseline": {"embeds": 0.5}}])
@pytest.mark.parametrize("method", [funcattr.layer_conductance, funcattr.internal_influence])
def test_the_flow_through_a_layer_takes_mappings_with_constants(
    mapping: Callable[..., Any], options: dict[str, Any], method: Callable[..., Any]
) -> None:
    found = method(MODEL, mapping(embeds=EMBEDS, mask=MASK, kind=KIND), 1, layer="head", steps=3, **options)
    options = {name: value["embeds"] if name == "baseline" else value for name, value in options.items()}
    expected = method(MODEL, EMBEDS, 1, layer="head", steps=3, args=(MASK, KIND), **options)
    torch.testing.assert_close(found, expected)


def test_the_flow_through_a_layer_needs_inputs_with_lines_between() -> None:
    ids = UserDict(input=torch.tensor([[1, 2]]))
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)).eval()
    for method in (funcattr.layer_conductance, funcattr.internal_influence):
        with pytest.raises(TypeError, match=r"\(x=...\): expected floating-point inputs, got torch.int64: there is no"):
            method(model, ids, 0, layer="2")


@every_mapping
@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "feature_ablation", "noise_tunnel"])
def test_an_input_that_is_given_twice_is_refused(mapping: Callable[..., Any], name: str) -> None:
    """An attributed one, and a constant; not the one that x has, without a word."""
    x = mapping(embeds=EMBEDS, mask=MASK, kind=KIND)
    for twice in ({"embeds": EMBEDS}, {"mask": MASK}):
        with pytest.raises(
            TypeError, match=rf"^[a-z_]+\(kwargs=...\): {next(iter(twice))!r} is in x too. Give it in one of"
        ):
            METHODS[name](MODEL, x, 1, kwargs=twice)
    part = mapping(embeds=EMBEDS, mask=MASK)
    expected = METHODS[name](MODEL, x, 1)
    torch.testing.assert_close(METHODS[name](MODEL, part, 1, kwargs={"kind": KIND}), expected)


def test_a_baseline_of_a_constant_is_refused() -> None:
    x = UserDict(embeds=EMBEDS, mask=MASK, kind=KIND)
    with pytest.raises(ValueError, match=r"_gradients\(baseline=...\): .* by name: embeds, got dict of 3: "):
        funcattr.integrated_gradients(MODEL, x, 0, baseline=UserDict(embeds=0.0, mask=0, kind=0))


def test_a_mapping_without_floating_point_is_inputs_still() -> None:
    """With a site; at the inputs it has no derivative."""
    model, ids = (
        nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2), nn.Tanh()).eval(),
        torch.tensor([[1, 2]]),
    )
    named = lambda input: model(input)  # noqa: E731
    fm = funcattr.functionalize(model)
    found = funcattr.gradient(fm, UserDict(input=ids), 0, layer="0")
    torch.testing.assert_close(found, funcattr.gradient(fm, ids, 0, layer="0"))
    with pytest.raises(TypeError, match=r"gradient: expected a floating-point input, got torch.int64"):
        funcattr.gradient(named, UserDict(input=ids), 0)
    ablated = funcattr.feature_ablation(named, UserDict(input=ids), 0)["input"]
    torch.testing.assert_close(ablated, funcattr.feature_ablation(model, ids, 0))


def test_a_constant_of_one_row_for_all_examples_stays_one() -> None:
    x = BatchEncoding({"embeds": EMBEDS, "mask": torch.ones(1, 4, dtype=torch.long), "kind": KIND})
    found = funcattr.integrated_gradients(MODEL, x, 0, steps=3, chunk_size=2)["embeds"]
    expected = funcattr.integrated_gradients(MODEL, EMBEDS, 0, args=(x["mask"].expand(2, 4), KIND), steps=3)
    torch.testing.assert_close(found, expected)


def test_what_is_no_tensor_is_refused() -> None:
    bad: Any
    for bad in (None, "text", [1, 2]):
        x: Any = UserDict(embeds=EMBEDS, mask=MASK, kind=bad)
        with pytest.raises(TypeError, match=r"gradient\(x=...\): expected a tensor, a tuple or a dict of tensors, got"):
            funcattr.gradient(MODEL, x, 0)


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_mapping_under_vmap_and_in_compiled_code() -> None:
    def one(e: Tensor, m: Tensor, k: Tensor) -> Tensor:
        given = UserDict(embeds=e[None], mask=m[None], kind=k[None])
        return funcattr.integrated_gradients(MODEL, given, 0, steps=3)["embeds"][0]

    whole = funcattr.integrated_gradients(MODEL, UserDict(embeds=EMBEDS, mask=MASK, kind=KIND), 0, steps=3)["embeds"]
    torch.testing.assert_close(torch.vmap(one)(EMBEDS, MASK, KIND), whole)
    fm = funcattr.functionalize(MODEL)

    def gradient(e: Tensor) -> Any:
        return funcattr.gradient(fm, {"embeds": e, "mask": MASK, "kind": KIND}, 0)

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(EMBEDS)["embeds"], gradient(EMBEDS)["embeds"])


def test_inputs_of_one_number_for_each_example() -> None:
    x = torch.randn(4, dtype=torch.float64)
    for found in (
        funcattr.integrated_gradients(lambda x: x**3, x, steps=8),
        funcattr.integrated_gradients(lambda x: x**3, x, torch.ones(4), steps=8),
        funcattr.feature_ablation(lambda x: x**3, x),
        funcattr.input_x_gradient(lambda x: x**3, x) / 3,
    ):
        torch.testing.assert_close(found, x**3)
