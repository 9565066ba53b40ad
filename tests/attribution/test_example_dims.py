"""Examples in any dimension, or in none: a model gives what its rewrite with the examples in front gives."""

from collections.abc import Callable
from functools import partial
from inspect import isfunction, signature
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.bottleneck import FeatureStatistics

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
OF_FIRST = FeatureStatistics(
    "first", "gaussian", 20, torch.full((TIME, WIDTH), 20), ROWS[0], 19 * (0.5 + ROWS[1].abs())
)
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
    "lime": lambda f, x, t, at, **o: funcattr.lime(
        f, x, t, feature_mask=at(torch.arange(WIDTH).expand(1, TIME, WIDTH)), samples=30, chunk_size=4, **o
    ),
    "occlusion": lambda f, x, t, at, **o: funcattr.occlusion(f, x, t, window=(2, 3), stride=2, baseline=0.2, **o),
    "deep_lift": lambda f, x, t, at, **o: funcattr.deep_lift(f, x, t, baseline=0.2, **o),
    "deep_lift from a distribution": lambda f, x, t, at, **o: funcattr.deep_lift(
        f, x, t, baseline=funcattr.distribution(ROWS), chunk_size=2, **o
    ),
    "attnlrp": lambda f, x, t, at, **o: funcattr.attnlrp(f, x, t, **o),
    "conditional_relevance": lambda f, x, t, at, **o: funcattr.conditional_relevance(
        f, x, t, [{"first": [0, 2]}], rules="epsilon", channel_dim=-1, **o
    )[0],
    "grad_cam": lambda f, x, t, at, **o: funcattr.grad_cam(f, x, t, layer="first", channel_dim=-1, **o),
    "grad_cam with its channels in front": lambda f, x, t, at, **o: funcattr.grad_cam(
        f, x, t, layer="first", channel_dim=1, **o
    ),
    "layer_cam": lambda f, x, t, at, **o: funcattr.layer_cam(f, x, t, layer="first", channel_dim=2, **o),
    "hires_cam": lambda f, x, t, at, **o: funcattr.hires_cam(f, x, t, layer="first", channel_dim=2, **o),
    "grad_cam_plus_plus": lambda f, x, t, at, **o: funcattr.grad_cam_plus_plus(
        f, x, t, layer="first", channel_dim=-1, **o
    ),
    "xgrad_cam": lambda f, x, t, at, **o: funcattr.xgrad_cam(f, x, t, layer="first", channel_dim=-1, **o),
    "eigen_cam": lambda f, x, t, at, **o: funcattr.eigen_cam(f, x, t, layer="first", channel_dim=-1, **o),
    "eigen_grad_cam": lambda f, x, t, at, **o: funcattr.eigen_grad_cam(f, x, t, layer="first", channel_dim=-1, **o),
    "score_cam": lambda f, x, t, at, **o: funcattr.score_cam(f, x, t, layer="first", channel_dim=1, chunk_size=2, **o),
    "ablation_cam": lambda f, x, t, at, **o: funcattr.ablation_cam(
        f, x, t, layer="first", channel_dim=-1, chunk_size=2, **o
    ),
    "linear_approx": lambda f, x, t, at, **o: funcattr.linear_approx(f, x, t, layer="first", channel_dim=-1, **o),
    "rise": lambda f, x, t, at, **o: funcattr.rise(f, x, t, samples=20, cells=2, chunk_size=3, **o),
    "rise of all classes": lambda f, x, t, at, **o: funcattr.rise(f, x, samples=20, cells=2, **o),
    "iba": lambda f, x, t, at, **o: funcattr.iba(f, x, t, statistics=OF_FIRST, steps=3, samples=4, **o),
    "iba of elements": lambda f, x, t, at, **o: funcattr.iba(
        f, x, t, statistics=OF_FIRST, steps=3, samples=4, per="element", **o
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


AS_IT_IS = {
    *("read", "edit", "functionalize", "rule_table"),
    *("max_sensitivity", "randomization", "randomization_entropy", "as_quantus"),
}
"""What runs a call of a model or a method as it stands, and does not ask for examples."""


def test_every_method_has_the_option() -> None:
    spaces = (funcattr, funcattr.masks, funcattr.bottleneck, funcattr.metrics)
    functions = {name: f for space in spaces for name, f in vars(space).items() if isfunction(f)}
    asked = {name: signature(f).parameters for name, f in functions.items()}
    of_models = {name for name, parameters in asked.items() if {"model", "method"} & set(parameters)}
    assert len(of_models) > 35
    assert {name for name in of_models if "example_dims" not in asked[name]} == AS_IT_IS


# --- images -----------------------------------------------------------------------------------------------------------


class At1(nn.Module):
    """A layer of images in a form that has its examples in dimension 1."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Images(nn.Module):
    """[*, C, 6, 6] -> [*, K], of layers for one image as well as for many."""

    def __init__(self, form: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.relu = form(nn.Conv2d(2, 3, 3, padding=1)), nn.ReLU()
        self.hidden, self.act, self.head = form(nn.Conv2d(3, 5, 3, stride=2)), nn.ReLU(), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.hidden(self.relu(self.first(x)))).mean((-2, -1)))


def image_statistics(*shape: int, layer: str = "relu") -> FeatureStatistics:
    count = torch.full(shape, 20)
    return FeatureStatistics(layer, "gaussian", 20, count, torch.zeros(shape).double(), 19 * torch.ones(shape).double())


def a_readout() -> Any:
    torch.manual_seed(4)
    own = image_statistics(3, 6, 6)
    readout = funcattr.bottleneck.ReadoutBottleneck(own, [own, image_statistics(5, 2, 2, layer="act")]).double()
    torch.nn.init.normal_(readout.last.weight)
    return readout


SHORT: dict[str, Any] = {"areas": (0.2, 0.4), "radius": 2, "spacing": 2, "steps": 3, "max_blur": 2.0}
OF_IMAGES: dict[str, Callable[..., Any]] = {
    "grad_cam": lambda f, x, t, **o: funcattr.grad_cam(f, x, t, layer="relu", **o),
    "guided_grad_cam": lambda f, x, t, **o: funcattr.guided_grad_cam(f, x, t, layer="relu", **o),
    "contrastive_excitation_backprop": lambda f, x, t, **o: funcattr.contrastive_excitation_backprop(
        f, x, t, layer="relu", contrast_layer="act", **o
    ),
    "excitation_backprop": lambda f, x, t, **o: funcattr.excitation_backprop(f, x, t, layer="relu", **o),
    "conditional_relevance": lambda f, x, t, **o: torch.stack(
        list(funcattr.conditional_relevance(f, x, t, [{"relu": 0}, {"relu": [1, 2]}], **o)), -1
    ),
    "conditional_relevance at a layer": lambda f, x, t, **o: torch.stack(
        list(funcattr.conditional_relevance(f, x, t, [{"act": 0}, {"act": [1, 2]}], layer="relu", **o)), -1
    ),
    "rise": lambda f, x, t, **o: funcattr.rise(f, x, t, samples=20, cells=2, **o),
    "extremal_perturbation": lambda f, x, t, **o: funcattr.extremal_perturbation(f, x, t, **SHORT, **o),
    "extremal_perturbation by a function": lambda f, x, t, **o: funcattr.extremal_perturbation(
        f, x, t, **SHORT, perturbation=lambda x: torch.stack([0 * x, x], 1), reward="contrastive", **o
    ),
    "extremal_search": lambda f, x, t, **o: funcattr.masks.extremal_search(f, x, t, **SHORT, **o).masks,
    "iba": lambda f, x, t, **o: funcattr.iba(
        f, x, t, statistics=image_statistics(3, 6, 6), steps=3, samples=4, chunk_size=2, **o
    ),
    "iba_search": lambda f, x, t, **o: (
        funcattr.bottleneck.iba_search(
            f, x, t, statistics=image_statistics(5, 2, 2, layer="act"), steps=3, samples=4, **o
        ).alpha
    ),
    "readout_iba": lambda f, x, t, **o: funcattr.readout_iba(f, x, readout=a_readout(), **o),
    "readout_iba of elements": lambda f, x, t, **o: funcattr.readout_iba(f, x, readout=a_readout(), per="element", **o),
    "noise_tunnel around grad_cam": lambda f, x, t, **o: funcattr.noise_tunnel(
        partial(funcattr.grad_cam, f), x, t, layer="relu", sigma=0.2, chunk_size=3, **o
    ),
}


@pytest.mark.parametrize("method", OF_IMAGES)
def test_images_in_dimension_one(method: str) -> None:
    x = torch.randn(2, BATCH, 6, 6).double()
    dims: Any = {"x": 1, "layer": 1, "output": 1}
    given = OF_IMAGES[method](_Channels().double().eval(), x, [1, 0, 2], example_dims=dims)
    right = OF_IMAGES[method](Images().double().eval(), x.transpose(0, 1), [1, 0, 2])
    assert right.abs().max() > 0
    torch.testing.assert_close(given, right.transpose(0, 1))


class _Channels(Images):
    """[C, N, 6, 6] -> [K, N]"""

    def __init__(self) -> None:
        super().__init__(At1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.hidden(self.relu(self.first(x)))).mean((-2, -1)).T).T


@pytest.mark.parametrize("method", OF_IMAGES)
def test_an_image_without_a_batch(method: str) -> None:
    model, x = Images().double().eval(), torch.randn(2, 6, 6).double()
    given = OF_IMAGES[method](model, x, 2, example_dims=None)
    torch.testing.assert_close(given, OF_IMAGES[method](model, x[None], 2)[0])


def test_histories_have_their_examples_in_front() -> None:
    x, dims = torch.randn(2, BATCH, 6, 6).double(), {"x": 1, "layer": 1, "output": 1}
    model, front = _Channels().double().eval(), Images().double().eval()
    masks = funcattr.masks.extremal_search(model, x, 1, **SHORT, example_dims=dims)
    right = funcattr.masks.extremal_search(front, x.transpose(0, 1), 1, **SHORT)
    torch.testing.assert_close(masks[1:], right[1:])
    given: Any = {"statistics": image_statistics(3, 6, 6), "steps": 3, "samples": 4}
    bits = funcattr.bottleneck.iba_search(model, x, 1, **given, example_dims=dims)
    torch.testing.assert_close(bits[2:], funcattr.bottleneck.iba_search(front, x.transpose(0, 1), 1, **given)[2:])


@pytest.mark.parametrize("one_mask", [False, True])
def test_masks_of_conditions_have_their_examples_in_front(one_mask: bool) -> None:
    x, mask = torch.randn(2, BATCH, 6, 6).double(), torch.rand(*([] if one_mask else [BATCH]), 3).double()
    dims: Any = {"x": 1, "layer": 1, "output": 1}
    given = funcattr.conditional_relevance(_Channels().double(), x, 1, [{"relu": mask}], example_dims=dims)
    right = funcattr.conditional_relevance(Images().double(), x.transpose(0, 1), 1, [{"relu": mask}])
    torch.testing.assert_close(given, right.transpose(1, 2))


def test_the_books_are_those_of_the_batch_first_model() -> None:
    x, dims = torch.randn(2, BATCH, 6, 6).double(), {"x": 1, "output": 1}
    for start in ("output", "one"):
        given = funcattr.conservation(_Channels().double(), x, [1, 0, 2], start=start, example_dims=dims)
        right = funcattr.conservation(Images().double(), x.transpose(0, 1), [1, 0, 2], start=start)
        assert given.start == pytest.approx(right.start) and given.reached == pytest.approx(right.reached)
        assert given.lost == pytest.approx(right.lost, abs=1e-9)


@pytest.mark.parametrize("by", ["sum", "max"])
def test_relevance_maximization_of_examples_elsewhere(by: Any) -> None:
    images, classes = torch.randn(7, 2, 6, 6).double(), torch.randint(CLASSES, (7,))
    right = funcattr.relevance_maximization(
        Images().double(), zip(images.split(3), classes.split(3), strict=True), layer="relu", k=3, by=by
    )
    pairs = [(x.transpose(0, 1), c) for x, c in zip(images.split(3), classes.split(3), strict=True)]
    dims: Any = {"x": 1, "layer": 1, "output": 1}
    given = funcattr.relevance_maximization(_Channels().double(), pairs, layer="relu", k=3, by=by, example_dims=dims)
    torch.testing.assert_close(given, right)
    each = [(x, int(c)) for x, c in zip(images, classes, strict=True)]
    given = funcattr.relevance_maximization(Images().double(), each, layer="relu", k=3, by=by, example_dims=None)
    torch.testing.assert_close(given, right)


@pytest.mark.parametrize("estimator", ["gaussian", "relu"])
@pytest.mark.filterwarnings("ignore:.*examples are few")
def test_statistics_of_examples_elsewhere(estimator: Any) -> None:
    images, model, dims = torch.randn(9, 2, 6, 6).double(), _Channels().double(), {"x": 1, "layer": 1}
    right = funcattr.bottleneck.feature_statistics(Images().double(), images[:8], layer="relu", estimator=estimator)
    in_one = images.transpose(0, 1)
    forms: dict[str, tuple[Any, Any, Any]] = {
        "a tensor": (model, in_one, dims),
        "batches": (model, in_one.split(3, 1), dims),
        "images": (Images().double(), list(images), None),
    }
    for fm, batches, form in forms.values():
        found = funcattr.bottleneck.feature_statistics(
            fm, batches, layer="relu", estimator=estimator, examples=8, example_dims=form
        )
        assert found.count == 8
        torch.testing.assert_close((found.nonzero, found.mean, found.std), (right.nonzero, right.mean, right.std))
    with pytest.raises(ValueError, match=r"^feature_statistics\(batches=..., example_dims=...\): a tensor is cut"):
        funcattr.bottleneck.feature_statistics(Images().double(), images[0], layer="relu", example_dims=None)


@pytest.mark.parametrize("smooths", [1.0, None])
def test_a_restricted_flow_has_its_examples_where_the_layer_has_them(smooths: float | None) -> None:
    x, alpha, noise = (torch.randn(BATCH, *shape).double() for shape in ((2, 6, 6), (3, 6, 6), (3, 6, 6)))
    given: Any = {"statistics": image_statistics(3, 6, 6), "sigma": smooths, "noise": noise}
    right = funcattr.bottleneck.restrict_flow(Images().double(), alpha=alpha, **given)(x)
    dims: Any = {"x": 1, "layer": 1, "output": 1}
    found = funcattr.bottleneck.restrict_flow(
        _Channels().double(), alpha=alpha.transpose(0, 1), **given, example_dims=dims
    )
    torch.testing.assert_close(found(x.transpose(0, 1)).T, right)
    for i in range(BATCH):
        one = {**given, "noise": noise[i : i + 1]}
        found = funcattr.bottleneck.restrict_flow(Images().double(), keep=alpha[i].sigmoid(), **one, example_dims=None)
        whole = funcattr.bottleneck.restrict_flow(Images().double(), keep=alpha[i : i + 1].sigmoid(), **one)
        torch.testing.assert_close(found(x[i]), whole(x[i : i + 1])[0])


def test_a_readout_is_trained_on_examples_elsewhere() -> None:
    images, classes = torch.randn(8, 2, 6, 6).double(), torch.randint(CLASSES, (8,))
    right, given = a_readout(), a_readout()
    options: Any = {"epochs": 2, "lr": 1e-3}
    batches = list(zip(images.split(4), classes.split(4), strict=True))
    expected = funcattr.bottleneck.train_readout(Images().double().eval(), batches, right, **options)
    swapped = [(x.transpose(0, 1), c) for x, c in batches]
    dims: Any = {"x": 1, "layer": 1, "output": 1}
    found = funcattr.bottleneck.train_readout(_Channels().double().eval(), swapped, given, **options, example_dims=dims)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(list(given.parameters()), list(right.parameters()))


def test_a_cotangent_has_its_examples_where_the_output_has_them() -> None:
    x, cotangent = torch.randn(2, BATCH, 6, 6).double(), torch.randn(CLASSES, BATCH).double()
    dims: Any = {"x": 1, "output": 1}
    right = funcattr.gradient(Images().double(), x.transpose(0, 1), cotangent.T)
    given = funcattr.gradient(_Channels().double(), x, cotangent, example_dims=dims)
    torch.testing.assert_close(given, right.transpose(0, 1))
    given = funcattr.noise_tunnel(
        partial(funcattr.gradient, _Channels().double()), x, cotangent, sigma=0.1, chunk_size=2, example_dims=dims
    )
    right = funcattr.noise_tunnel(
        partial(funcattr.gradient, Images().double()), x.transpose(0, 1), cotangent.T, sigma=0.1
    )
    torch.testing.assert_close(given, right.transpose(0, 1))
    given = funcattr.gradient(Images().double(), x[:, 0], cotangent[:, 0], example_dims=None)
    torch.testing.assert_close(given, funcattr.gradient(Images().double(), x[None, :, 0], cotangent[None, :, 0])[0])


BUILT: dict[str, Callable[[Tensor], Any]] = {
    "contrast with a class": lambda c: funcattr.contrast(c, 1),
    "contrast of classes": lambda c: funcattr.contrast([1, 0, 2], 1),
    "contrast of contrasts": lambda c: funcattr.contrast(funcattr.contrast([2, 0, 1], c), funcattr.similarity(c)),
    "similarity": lambda c: funcattr.similarity(c),
    "product": lambda c: funcattr.similarity(c, of="dot"),
    "similarity to a vector": lambda c: funcattr.similarity(torch.arange(1.0, BATCH + 1).double()),
    "pointing": lambda c: funcattr.pointing([1, 0, 2]),
}


@pytest.mark.parametrize("target", BUILT)
def test_what_a_target_is_built_of_has_its_examples_where_the_output_has_them(target: str) -> None:
    torch.manual_seed(0)
    linear, dims = nn.Linear(BATCH, BATCH).double(), {"x": 1, "output": 1}  # square: no shape tells the layouts apart
    x, cotangent = torch.randn(BATCH, BATCH).double(), torch.randn(BATCH, BATCH).double()

    def front(x: Tensor) -> Tensor:
        return linear(x).tanh()

    def model(x: Tensor) -> Tensor:
        return front(x.T).T

    build = BUILT[target]
    methods: list[Callable[..., Tensor]] = [
        funcattr.gradient,
        partial(funcattr.integrated_gradients, steps=3, chunk_size=2),
        lambda f, x, t, **o: funcattr.noise_tunnel(partial(funcattr.gradient, f), x, t, sigma=0.1, chunk_size=2, **o),
    ]
    for method in methods:
        given = method(model, x.T, build(cotangent.T), example_dims=dims)
        torch.testing.assert_close(given.T, method(front, x, build(cotangent)))


@pytest.mark.parametrize("target", ["contrast with a class", "similarity", "product"])
def test_what_a_target_is_built_of_is_that_of_the_one_example(target: str) -> None:
    model, x, cotangent = Images().double(), torch.randn(2, 6, 6).double(), torch.randn(CLASSES).double()
    given = funcattr.gradient(model, x, BUILT[target](cotangent), example_dims=None)
    torch.testing.assert_close(given, funcattr.gradient(model, x[None], BUILT[target](cotangent[None]))[0])


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "linear_approx", "contrastive_excitation_backprop"])
def test_a_map_of_a_site_with_other_rows_is_refused(method: str) -> None:
    x, more = torch.randn(2, 2, 6, 6).double(), {"contrast_layer": "act"} if method[0] == "c" else {}
    with pytest.raises(
        ValueError, match=rf"^{method}\(layer='relu', example_dims=...\): expected a site .*\[3, 2, 6, 6"
    ):
        getattr(funcattr, method)(_Swaps().double(), x, 1, layer="relu", example_dims={"x": 1, "layer": 1}, **more)
    with pytest.raises(ValueError, match=r"the site's value has shape \[2, 3, 6, 6\], no dimension 4"):
        getattr(funcattr, method)(_Swaps().double(), x, 1, layer="relu", example_dims={"x": 1, "layer": 4}, **more)


class _Swaps(Images):
    """[C, N, 6, 6] -> [N, K], inside of which examples are in front."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1))


def test_inputs_of_one_example_have_constants_beside_them() -> None:
    x, scale = torch.randn(2, 4).double(), torch.rand(1, 4).double()

    def model(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        assert scale.shape == (1, 4)
        return (a * b * scale[0]).sum()

    given = funcattr.integrated_gradients(
        model, (x[0], x[1]), args=(scale,), chunk_size=3, example_dims={"x": (None, None), "output": None}
    )
    torch.testing.assert_close(sum(given), x[0] * x[1] * scale[0])


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
    # The gradient of a sum over a batch that is linear in it is the same in any batch; that of its square is not.
    f = WRONG[model] if method != "noise_tunnel" else lambda x: WRONG[model](x) ** 2
    with pytest.raises(ValueError, match=rf"^{method}\(example_dims=0\): expected examples in dimension 0 .* but "):
        run(f, x, target, lambda v: v)


MIXERS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch-centred features": lambda x: (x - x.mean(0)).tanh() * x,
    "attention over the batch": lambda x: F.scaled_dot_product_attention(x, x, x) ** 2,
    "a neighbour": lambda x: x * x.roll(1, 0),
    "the number of rows": lambda x: x**2 / len(x),
    "a faint mean": lambda x: x**2 * (1 + 1e-2 * x.mean(0)),
    "small numbers": lambda x: 1e-6 * (x - x.mean(0)) ** 2,
}
HIDING: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "partial": lambda f: partial(funcattr.gradient, f),
    "partial with a target": lambda f: partial(funcattr.gradient, f, layer=None),
    "lambda": lambda f: lambda x, t: funcattr.gradient(f, x, t),
    "closure": lambda f: _closing_over(f),
    "tunnel": lambda f: partial(funcattr.noise_tunnel, partial(funcattr.gradient, f), samples=2, generator=1),
    "tunnel around a lambda": lambda f: partial(
        funcattr.noise_tunnel, lambda x, t: funcattr.gradient(f, x, t), samples=2, chunk_size=1, generator=1
    ),
    "lambda of autograd": lambda f: lambda x, t: _by_autograd(f, x, t),
    "bound method": lambda f: _Holder(f).explain,
}


def _closing_over(f: Any) -> Callable[..., Any]:
    models = [f]

    def method(x: Tensor, target: Any) -> Tensor:
        return funcattr.input_x_gradient(models[0], x, target)

    return method


def _by_autograd(f: Any, x: Tensor, target: Any) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x)[:, target].sum(), x)[0]


class _Holder:
    def __init__(self, f: Any) -> None:
        self.f = f

    def explain(self, x: Tensor, target: Any) -> Tensor:
        return funcattr.gradient(self.f, x, target)


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_tunnel_sees_that_examples_see_each_other_in_any_method(batch: int, mixer: str, hiding: str) -> None:
    x, method = torch.randn(batch, WIDTH).double(), HIDING[hiding](MIXERS[mixer])
    with pytest.raises(
        ValueError, match=r"^noise_tunnel\(example_dims=0\): .* depends on what else .* chunk_size=1\. "
    ):
        funcattr.noise_tunnel(method, x, 1, samples=4, sigma=0.3)
    if hiding != "tunnel":  # which has its own samples beside one another
        assert funcattr.noise_tunnel(method, x, 1, samples=4, sigma=0.3, chunk_size=1).shape == x.shape


@pytest.mark.parametrize("hiding", HIDING)
def test_a_tunnel_stacks_what_does_not_see_its_neighbours(hiding: str) -> None:
    x, rows = torch.randn(BATCH, WIDTH).double(), []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.tanh() * x.cumsum(1)

    method = HIDING[hiding](model)
    given = funcattr.noise_tunnel(method, x, 1, samples=4, sigma=0.3, chunk_size=4)
    assert rows[-1] % (4 * BATCH) == 0
    torch.testing.assert_close(given, funcattr.noise_tunnel(method, x, 1, samples=4, sigma=0.3, chunk_size=1))


def test_a_tunnel_repeats_the_inputs_that_have_examples_where_they_have_them() -> None:
    x, each = torch.randn(TIME, BATCH, WIDTH).double(), torch.rand(TIME, BATCH).double()
    code, dims = torch.randn(BATCH, WIDTH).double(), {"x": 1, "args": (1, None), "kwargs": {"more": 0}}

    def model(x: Tensor, each: Tensor, code: Tensor, more: Tensor) -> Tensor:
        return ((x @ code.T).tanh() * each[..., None]).sum(0) * more

    options: Any = {"args": (each, code), "kwargs": {"more": torch.rand(BATCH, 1).double()}}
    for method in (partial(funcattr.gradient, model, **options), partial(funcattr.gradient, model)):
        given: Any = {} if method.keywords else options
        one, several = (
            funcattr.noise_tunnel(method, x, 1, samples=4, sigma=0.3, chunk_size=chunk, example_dims=dims, **given)
            for chunk in (1, 3)
        )
        torch.testing.assert_close(several, one)


@pytest.mark.parametrize("kind", ["smoothgrad", "vargrad"])
def test_a_mixing_method_without_an_effect_is_stacked_and_right(kind: Any) -> None:
    x = torch.randn(BATCH, WIDTH).double()
    for model in (_sees_its_batch, _sees_its_neighbour):
        method = partial(funcattr.gradient, model)
        given = funcattr.noise_tunnel(method, x, 1, kind=kind, samples=4, sigma=0.3)
        torch.testing.assert_close(
            given, funcattr.noise_tunnel(method, x, 1, kind=kind, samples=4, sigma=0.3, chunk_size=1)
        )


def test_a_method_that_depends_on_chance_runs_sample_by_sample() -> None:
    x, sizes = torch.randn(BATCH, WIDTH).double(), []

    def method(x: Tensor, target: Any) -> Tensor:
        sizes.append(len(x))
        return x - x.mean(0) + torch.randn_like(x)

    state = torch.get_rng_state()
    funcattr.noise_tunnel(method, x, samples=4, chunk_size=4)
    assert sizes == [3, 3, 9, 3, 3, 3, 3, 3]  # alone, twice; among others; again; and the samples
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    for _ in range(4):
        torch.randn_like(x)
    torch.testing.assert_close(torch.get_rng_state(), after, rtol=0, atol=0)


def test_a_generator_inside_moves_on_by_one_draw_for_each_sample() -> None:
    x, model = torch.randn(BATCH, WIDTH).double(), torch.tanh
    inner = torch.Generator().manual_seed(1)
    method = partial(funcattr.noise_tunnel, partial(funcattr.gradient, model), samples=2, generator=inner)
    funcattr.noise_tunnel(method, x, 1, samples=4, chunk_size=4)
    drawn = torch.Generator().manual_seed(1)
    for _ in range(4):
        torch.randint(2**62, (), generator=drawn)
    torch.testing.assert_close(inner.get_state(), drawn.get_state(), rtol=0, atol=0)


def test_a_method_is_checked_once_for_its_shapes_and_options() -> None:
    rows: list[int] = []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.tanh()

    def new(x: Tensor, **options: Any) -> list[int]:
        rows.clear()
        funcattr.noise_tunnel(partial(funcattr.gradient, model), x, 1, samples=4, chunk_size=4, **options)
        return [*rows]

    x = torch.ones(2, 3)
    first = [2, 2, 6, 8]
    assert new(x) == first and new(x) == [8] and new(x, layer=None) == first and new(x[:1]) == [1, 1, 3, 4]


@pytest.mark.parametrize("method", ["feature_ablation", "noise_tunnel"])
def test_a_check_that_failed_is_made_again(method: str) -> None:
    x, broken = torch.randn(2, TIME, WIDTH).double(), [True]

    def model(x: Tensor) -> Tensor:
        if broken:
            raise RuntimeError("out of order")
        return ((x - x.mean(0)) ** 2).sum(1)

    with pytest.raises(RuntimeError, match="out of order"):
        METHODS[method](model, x, 1, lambda v: v)
    broken.clear()
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        METHODS[method](model, x, 1, lambda v: v)


def test_rounding_that_the_method_makes_large_is_not_refused() -> None:
    x, sizes = torch.randn(2, 3), []

    def method(x: Tensor, target: Any) -> Tensor:
        sizes.append(len(x))
        rounding = 3e-7 * (len(x) - 2)  # sums have another order in a batch of another size
        return torch.frac(1e4 * x * (1 + rounding))

    assert funcattr.noise_tunnel(method, x, samples=2, chunk_size=2).shape == x.shape
    assert sizes == [2, 2, 6, 2, 2, 2]


class _Sensitive(nn.Module):
    """Large numbers inside, of which little is left: rounding shows in the output. [N, F] -> [N, K]"""

    def __init__(self, kind: str, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.before, self.hidden = kind, before, nn.Linear(WIDTH, CLASSES)
        self.register_buffer("large", 76000 + torch.rand(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        # As a sum in another order, in a batch of another size.
        rounding = torch.finfo(x.dtype).eps * (1 - 2 * (torch.arange(CLASSES) % 2)) * (len(x) > BATCH)
        h = (self.hidden(self.before(x)).tanh() + self.large) * (1 + 1.1 * rounding)
        if self.kind == "softmax":
            return h.softmax(1)
        if self.kind == "differences":
            return h - h[:, :1]
        return F.layer_norm(h, h.shape[1:])


SLIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "batch mean": lambda x: x + 0.03 * x.mean(0),
    "batch norm": lambda x: x + 0.03 * F.batch_norm(x, None, None, training=True),
    "softmax over the batch": lambda x: x + 0.03 * x.softmax(0),
    "neighbour": lambda x: x + 0.03 * x.roll(1, 0),
    "maximum": lambda x: x + 0.03 * x.amax(0),
}
SENSITIVE = pytest.mark.parametrize("kind", ["softmax", "differences", "layer norm"])


@SENSITIVE
@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation"])
def test_rounding_that_the_model_makes_large_is_not_refused(kind: str, method: str) -> None:
    model, x = _Sensitive(kind), torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    larger = model(x.repeat_interleave(2, 0))[::2]
    assert (larger - model(x)).abs().max() > 2e-3 * model(x).abs().max()
    assert getattr(funcattr, method)(model, x, 1).isfinite().all()


@pytest.mark.parametrize("sees", [None, "batch mean", "neighbour"])
def test_rounding_is_told_in_a_function_that_does_not_run_in_double_precision(sees: str | None) -> None:
    torch.manual_seed(1)
    rows, x = 76000 * (torch.ones(CLASSES, WIDTH) + 1e-5 * torch.randn(CLASSES, WIDTH)), 0.5 + torch.rand(BATCH, WIDTH)
    before = SLIGHT[sees] if sees else lambda x: x

    def model(x: Tensor) -> Tensor:
        rounding = torch.finfo(x.dtype).eps * (1 - 2 * (torch.arange(CLASSES) % 2)) * (len(x) > BATCH)
        return (F.linear(before(x), rows) * (1 + rounding)).softmax(1)

    assert (model(x.repeat_interleave(2, 0))[::2] - model(x)).abs().max() > 2e-3
    if sees is None:
        assert funcattr.integrated_gradients(model, x, 1).isfinite().all()
        return
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(model, x, 1)


def test_a_target_that_takes_the_difference_of_large_numbers_is_not_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES)).eval()
    with torch.no_grad():
        list(model.parameters())[-1].add_(7e6)
    x = torch.randn(BATCH, WIDTH)
    assert funcattr.integrated_gradients(model, x, lambda y: y[:, 1] - y[:, 0]).shape == x.shape


@SENSITIVE
@pytest.mark.parametrize("sees", SLIGHT)
def test_examples_that_see_each_other_a_little_are_refused_beside_large_rounding(kind: str, sees: str) -> None:
    x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_Sensitive(kind, SLIGHT[sees]), x, 1)


@SENSITIVE
@pytest.mark.parametrize("by", [1.0, 0.03])
def test_the_number_of_rows_is_no_rounding(kind: str, by: float) -> None:
    x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_Sensitive(kind, lambda x: x * (1 + by * len(x))), x, 1)


@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation"])
def test_a_target_that_sees_the_batch_is_refused(method: str) -> None:
    def above_the_mean(y: Tensor) -> Tensor:
        return y[:, 1] - y[:, 1].mean()

    with pytest.raises(ValueError, match=rf"^{method}\(example_dims=0\): .* depends on what else"):
        getattr(funcattr, method)(lambda x: x**2, torch.randn(BATCH, WIDTH).double(), above_the_mean)


class _Mixes(Images):
    """An example's features are weighted by those of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        return self.head(self.act(self.hidden(h * (1 + h.mean(0)))).mean((-2, -1)))


class _MixesWords(nn.Module):
    """[N, T, F] -> [N, K], an example's features weighted by those of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.head((h * (1 + h.mean(0))).mean(1))


ONE_PASS = (
    *("gradient", "gradient at a layer", "lrp", "attnlrp", "deep_lift", "conditional_relevance", "grad_cam"),
    *("grad_cam with its channels in front", "layer_cam", "linear_approx", "guided_grad_cam", "excitation_backprop"),
    *("hires_cam", "grad_cam_plus_plus", "xgrad_cam", "eigen_cam", "eigen_grad_cam"),
    *("contrastive_excitation_backprop", "conditional_relevance at a layer", "readout_iba", "readout_iba of elements"),
)
"""Those that make no copies: the batch is asked about as it is."""


@pytest.mark.parametrize("method", [*METHODS, *OF_IMAGES])
def test_no_method_puts_copies_beside_each_other_that_see_each_other(method: str) -> None:
    def run() -> Any:
        if method in OF_IMAGES:
            return OF_IMAGES[method](_Mixes().double().eval(), torch.rand(2, 2, 6, 6).double(), 1)
        return METHODS[method](_MixesWords().double(), torch.rand(2, TIME, WIDTH).double(), 1, lambda v: v)

    if method in ONE_PASS:
        run()
        return
    with pytest.raises(ValueError, match=r"\(example_dims=0\): .* depends on what else is in the batch"):
        run()


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
    for more in ([2, 2, 6], [], []):
        before = len(COUNTED)
        funcattr.feature_ablation(model, x, 0, chunk_size=3)
        assert COUNTED[before:] == [*more, 6, 2]  # the check, all features, the batch as it is
    funcattr.feature_ablation(model, torch.ones(1, 3), 0, chunk_size=3)
    assert COUNTED[-5:] == [1, 1, 3, 3, 1]


@pytest.mark.parametrize("examples", [1, 4, 5, 64])
def test_the_check_runs_five_rows_for_each_of_at_most_four_examples(examples: int) -> None:
    rows: list[int] = []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x**2

    funcattr.feature_ablation(model, torch.rand(examples, 3), 0, chunk_size=3)
    few = min(examples, 4)
    assert rows == [few, few, 3 * few, 3 * examples, examples]


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


NESTED = ("grad_cam", "guided_grad_cam", "contrastive_excitation_backprop", "conditional_relevance", "rise", "iba")


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.long
@pytest.mark.parametrize("method", [*NESTED, "extremal_perturbation"])
@pytest.mark.parametrize("is_one", [False, True])
def test_methods_of_images_compile(method: str, is_one: bool) -> None:
    x = torch.randn(2, 6, 6).double() if is_one else torch.randn(2, BATCH, 6, 6).double()
    fm = funcattr.functionalize((Images() if is_one else _Channels()).double().eval())
    dims: Any = None if is_one else {"x": 1, "layer": 1, "output": 1}

    def run(x: Tensor) -> Tensor:
        return OF_IMAGES[method](fm, x, 1, example_dims=dims)

    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))


@pytest.mark.parametrize("method", NESTED)
def test_methods_of_images_map(method: str) -> None:
    fm, x = funcattr.functionalize(_Channels().double().eval()), torch.randn(2, 2, BATCH, 6, 6).double()
    dims: Any = {"x": 1, "layer": 1, "output": 1}

    def run(x: Tensor) -> Tensor:
        return OF_IMAGES[method](fm, x, 1, example_dims=dims)

    torch.testing.assert_close(torch.vmap(run)(x), torch.stack([run(one) for one in x]))


def test_verify_runs_the_model_on_inputs_of_its_own_form() -> None:
    model = SequenceFirst("GRU").double().eval()

    def checked(x: Tensor) -> Tensor:
        assert x.shape[0] == TIME and x.shape[2] == WIDTH
        return model(x)

    found = funcattr.verify(checked, torch.randn(TIME, BATCH, WIDTH).double(), 1, rules="epsilon", example_dims=1)
    assert [finding.what for finding in found if finding.holds is False] == []
