"""Examples in any dimension, or in none: a model gives what its rewrite with the examples in front gives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr

BATCH, TIME, WIDTH, CLASSES = 3, 4, 5, 6


class SequenceFirst(nn.Module):
    """[T, N, F] -> [N, K], of a kind of layer that has the time in front by default."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.kind = kind
        self.core: Any
        if kind == "transformer":
            self.core = nn.TransformerEncoderLayer(WIDTH, 1, 7, dropout=0.0)
        else:
            self.core = getattr(nn, kind)(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.core(self.first(x).tanh())
        return self.head((h if self.kind == "transformer" else h[0])[-1])


class Graph(nn.Module):
    """[nodes, F] and the nodes' neighbours [nodes, nodes] -> [K]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        return self.head((neighbours @ self.first(x).tanh()).mean(-2))


class Bag(nn.Module):
    """[instances, F] -> [1, K]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.head((self.weight(h).softmax(-2) * h).sum(-2, keepdim=True))


ROWS = torch.randn(2, TIME, WIDTH, generator=torch.Generator().manual_seed(0)).double()
At = Callable[[Any], Any]
"""What stands for the batch-first form of an option in the model's own form."""

METHODS: dict[str, Callable[..., Any]] = {
    "gradient": lambda f, x, t, at, **o: funcattr.gradient(f, x, t, **o),
    "gradient at a layer": lambda f, x, t, at, **o: funcattr.gradient(f, x, t, layer="first", **o),
    "lrp": lambda f, x, t, at, **o: funcattr.lrp(f, x, t, rules="epsilon", **o),
    "integrated_gradients": lambda f, x, t, at, **o: funcattr.integrated_gradients(f, x, t, steps=5, **o),
    "integrated_gradients from a tensor": lambda f, x, t, at, **o: funcattr.integrated_gradients(
        f, x, t, steps=5, baseline=at(0.5 * torch.ones(1, TIME, WIDTH).double()), chunk_size=2, **o
    ),
    "integrated_gradients at a layer": lambda f, x, t, at, **o: funcattr.integrated_gradients(
        f, x, t, steps=5, layer="first", chunk_size=2, **o
    ),
    "expected_gradients": lambda f, x, t, at, **o: funcattr.expected_gradients(
        f, x, t, baseline=funcattr.distribution(ROWS), samples=7, sigma=0.2, chunk_size=3, **o
    ),
    "layer_conductance": lambda f, x, t, at, **o: funcattr.layer_conductance(f, x, t, layer="first", steps=5, **o),
    "internal_influence": lambda f, x, t, at, **o: funcattr.internal_influence(f, x, t, layer="first", steps=5, **o),
    "feature_ablation": lambda f, x, t, at, **o: funcattr.feature_ablation(f, x, t, baseline=0.3, **o),
    "shapley_sampling": lambda f, x, t, at, **o: funcattr.shapley_sampling(
        f, x, t, feature_mask=at(torch.arange(WIDTH).expand(1, TIME, WIDTH)), samples=4, **o
    ),
    "kernel_shap": lambda f, x, t, at, **o: funcattr.kernel_shap(
        f, x, t, feature_mask=at(torch.arange(WIDTH).expand(1, TIME, WIDTH)), **o
    ),
    "noise_tunnel": lambda f, x, t, at, **o: funcattr.noise_tunnel(
        partial(funcattr.gradient, f), x, t, sigma=0.3, samples=4, chunk_size=2, **o
    ),
    "noise_tunnel at a layer": lambda f, x, t, at, **o: funcattr.noise_tunnel(
        partial(funcattr.gradient, f), x, t, noise_layer="first", sigma=0.3, samples=4, chunk_size=2, **o
    ),
}


class Front(nn.Module):
    """The rewrite of a model with the examples in front, in which sites have them there too."""

    def __init__(self, model: nn.Module, form: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.model, self.form = model.first, model, form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, x)


def in_front(model: SequenceFirst) -> nn.Module:
    if model.kind == "transformer":
        core = nn.TransformerEncoderLayer(WIDTH, 1, 7, dropout=0.0, batch_first=True)
    else:
        core = getattr(nn, model.kind)(WIDTH, WIDTH, batch_first=True)
    core.double().load_state_dict(model.core.state_dict())

    def form(front: Any, x: Tensor) -> Tensor:
        h = core(front.first(x).tanh())
        return model.head((h if model.kind == "transformer" else h[0])[:, -1])

    return Front(model, form).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "transformer"])
def test_examples_in_dimension_one(method: str, kind: str) -> None:
    model, x = SequenceFirst(kind).double().eval(), torch.randn(TIME, BATCH, WIDTH).double()
    dims: Any = {"x": 1, "layer": 1}
    given = METHODS[method](model, x, [1, 0, 2], lambda v: v.transpose(0, 1), example_dims=dims)
    right = METHODS[method](in_front(model), x.transpose(0, 1), [1, 0, 2], lambda v: v)
    torch.testing.assert_close(given, right.transpose(0, 1))


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_is_one_example(method: str) -> None:
    model, x = Graph().double(), torch.randn(TIME, WIDTH).double()
    neighbours = torch.rand(TIME, TIME).double()
    front = Front(model, lambda front, x: model.head((neighbours @ front.first(x).tanh()).mean(-2)))
    given = METHODS[method](model, x, 2, lambda v: v[0], args=(neighbours,), example_dims=None)
    torch.testing.assert_close(given, METHODS[method](front, x[None], 2, lambda v: v)[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_bag_is_one_example_with_a_row_of_output(method: str) -> None:
    model, x = Bag().double(), torch.randn(TIME, WIDTH).double()

    def form(front: Any, x: Tensor) -> Tensor:
        h = front.first(x).tanh()
        return model.head((model.weight(h).softmax(-2) * h).sum(-2))

    given = METHODS[method](model, x, 2, lambda v: v[0], example_dims={"x": None, "output": 0})
    torch.testing.assert_close(given, METHODS[method](Front(model, form), x[None], 2, lambda v: v)[0])


@pytest.mark.parametrize("method", ["integrated_gradients", "expected_gradients", "feature_ablation", "noise_tunnel"])
def test_a_number_for_the_whole_batch(method: str) -> None:
    x = torch.randn(TIME, WIDTH).double()
    given = METHODS[method](lambda x: (x**2).mean(), x, None, lambda v: v[0], example_dims=None)
    right = METHODS[method](lambda x: (x**2).mean((1, 2)), x[None], None, lambda v: v)[0]
    torch.testing.assert_close(given, right)


def test_constants_are_told_from_inputs_of_each_example() -> None:
    x, code, each = (torch.randn(BATCH, WIDTH).double() for _ in range(3))

    def model(x: Tensor, code: Tensor, each: Tensor) -> Tensor:
        return torch.tanh(x @ code.T) * each.sum(1, keepdim=True)

    dims: Any = {"args": (None, 0)}
    given = funcattr.integrated_gradients(model, x, 1, args=(code, each), example_dims=dims)
    alone = [
        funcattr.integrated_gradients(model, x[i : i + 1], 1, args=(code, each[i : i + 1]), example_dims=dims)
        for i in range(BATCH)
    ]
    torch.testing.assert_close(given, torch.cat(alone))


# --- without the option: a check --------------------------------------------------------------------------------------


def _sees_its_batch(x: Tensor) -> Tensor:
    return x[:, :2] - x[:, :2].mean(0)


def _sees_its_neighbour(x: Tensor) -> Tensor:
    return x[:, :2] + 0.1 * x.roll(1, 0)[:, :2]


def _attends_to_its_batch(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)[:, :2]


def _ranks_its_batch(x: Tensor) -> Tensor:
    return x.softmax(0)[:, :2]


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "batch mean": _sees_its_batch,
    "neighbour": _sees_its_neighbour,
    "attention over the batch": _attends_to_its_batch,
    "softmax over the batch": _ranks_its_batch,
    "one number": lambda x: (x**2).mean(),
    "one row": lambda x: x.mean(0, keepdim=True),
    "pairs": lambda x: x @ x.T,
    "a fixed number of rows": lambda x: torch.cat([x[:2, :2]] * 2)[: len(x)] if len(x) < 4 else x[:3, :2],
    "rows of a fixed table": lambda x: torch.ones(3, 3, dtype=x.dtype) @ x[:, :2],
}


@pytest.mark.parametrize("model", WRONG)
@pytest.mark.parametrize("method", ["integrated_gradients", "expected_gradients", "feature_ablation", "noise_tunnel"])
def test_examples_that_see_each_other_are_refused(model: str, method: str) -> None:
    x = torch.randn(BATCH, WIDTH).double()
    run = METHODS[method]
    target = None if model == "one number" else 1
    if method == "expected_gradients":
        run = lambda f, x, t, at: funcattr.expected_gradients(f, x, t, samples=4, sigma=0.1)  # noqa: E731
    with pytest.raises(ValueError, match=rf"^{method}\(example_dims=0\): expected examples in dimension 0 .* but "):
        run(WRONG[model], x, target, lambda v: v)


@pytest.mark.parametrize("batch", [1, 3])
def test_examples_that_do_not_see_each_other_pass(batch: int) -> None:
    x = torch.randn(batch, WIDTH).double()
    for f in (lambda x: x**2, lambda x: x / (1 + x.norm(dim=1, keepdim=True)), lambda x: x.cumsum(1).sort(1)[0]):
        found = funcattr.integrated_gradients(f, x, 1, steps=200)
        torch.testing.assert_close(found.sum(1), f(x)[:, 1] - f(0 * x)[:, 1], rtol=0.01, atol=0.01)


def test_a_model_that_draws_is_left_alone_and_so_are_its_draws() -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    state = torch.get_rng_state()
    funcattr.feature_ablation(noisy, torch.ones(2, 3), 0, chunk_size=3)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    for size in (2, 6):  # the score of the batch, and one chunk
        torch.randn(size, 3)
    torch.testing.assert_close(torch.get_rng_state(), after, rtol=0, atol=0)


def test_a_model_is_checked_once_for_its_shapes() -> None:
    class Counts(nn.Module):
        calls: list[int]

        def forward(self, x: Tensor) -> Tensor:
            COUNTED.append(len(x))
            return x**2

    COUNTED.clear()
    model, x = Counts(), torch.ones(2, 3)
    for more in ([2, 4], [], []):
        before = len(COUNTED)
        funcattr.feature_ablation(model, x, 0, chunk_size=3)
        assert COUNTED[before:] == [*more, 6, 2]  # the check, all features, the batch as it is
    funcattr.feature_ablation(model, torch.ones(1, 3), 0, chunk_size=3)
    assert COUNTED[-4:] == [1, 2, 3, 1]


COUNTED: list[int] = []


def test_a_site_with_other_rows_is_refused() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.o = nn.Linear(5, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.c(x.flatten(0, 1)).tanh().unflatten(0, x.shape[:2]).mean(1))

    model, x = Views(), torch.randn(2, 3, 5)
    for method in (funcattr.layer_conductance, funcattr.internal_influence, funcattr.integrated_gradients):
        with pytest.raises(ValueError, match=r"layer='c', example_dims=...\): expected a site whose value has a row"):
            method(model, x, 2, layer="c")


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"y": 0}, r"^gradient\(example_dims=...\): expected keys out of x, args, kwargs, output, layer, got \['y'\]"),
        ("0", r"expected an int or None for x, got str"),
        (True, r"expected an int or None for x, got bool"),
        (4, r"a tensor in x of shape \[2, 3\] has no dimension 4"),
        ({"x": (0, 1)}, r"expected dimensions of x structured as it is"),
        ({"output": None}, r"the output has no dimension of examples, but x has"),
        ({"output": 7}, r"the output has shape \[2, 3\], no dimension 7"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(dims: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        funcattr.gradient(lambda x: x**2, torch.ones(2, 3), 0, example_dims=dims)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.long
def test_compiled_equals_eager() -> None:
    model, x = SequenceFirst("transformer").double().eval(), torch.randn(TIME, BATCH, WIDTH).double()
    fm = funcattr.functionalize(model)

    def method(x: Tensor) -> Tensor:
        return funcattr.integrated_gradients(fm, x, 1, steps=6, chunk_size=2, example_dims=1)

    torch.testing.assert_close(torch.compile(method, fullgraph=True, backend="aot_eager")(x), method(x))
