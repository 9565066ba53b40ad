"""`funcattr.compat.iba.IBA` step by step, on the live model, and what it leaves of it: nothing."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.compat.iba import (
    IBA,
    TorchWelfordEstimator,
    WelfordEstimator,
    insert_into_sequential,
    to_saliency_map,
)
from funcattr.testing.seeding import settle, uniform

from ... import bottleneck_references as references

SHAPE = (4, 5, 5)


class Net(nn.Module):
    """The relu that is read has a connection around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu, self.conv2 = nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(100, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.head((h + self.conv2(self.relu(h)).tanh()).flatten(1))


def net(dtype: torch.dtype = torch.float64) -> Net:
    return settle(Net, dtype=dtype)  # type: ignore[return-value]


def data(examples: int = 1200) -> Tensor:
    return uniform(examples, 2, 6, 6, seed=5)


def batches(size: int = 400) -> Iterator[tuple[Tensor, Tensor]]:
    yield from ((part, torch.zeros(len(part))) for part in data().split(size))


def loss_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: -torch.log_softmax(model(x), 1)[:, 1].mean()


def noise(steps: int, samples: int, seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """The numbers that torch draws behind a seed, one draw for a step. [T, S, 1, ...]"""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(samples, *shape, generator=generator, dtype=torch.float64) for _ in range(steps)]
    return torch.stack(draws).unsqueeze(2)


def state(model: nn.Module) -> Any:
    """Everything that could be left behind."""
    tensors = {name: (id(t), t.requires_grad, t.grad) for name, t in model.named_parameters()}
    tables = [{k: dict(v) if isinstance(v, dict) else v for k, v in vars(m).items()} for m in model.modules()]
    return tensors, tables


def ready(model: nn.Module, layer: nn.Module, **options: Any) -> IBA:
    iba = IBA(layer, **options)
    iba.estimate(model, batches())
    return iba


X = uniform(1, 2, 6, 6)


# --- the values ------------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"beta": 0.5, "lr": 0.3, "optimization_steps": 4, "batch_size": 3}, {}),
    ({"sigma": None, "min_std": 1.1}, {}),
    ({"sigma": 1.7, "initial_alpha": 0.0}, {}),
    ({"relu": True}, {}),
    ({}, {"beta": 0.5, "optimization_steps": 3, "min_std": 1.1, "lr": 0.3, "batch_size": 2}),
]


@pytest.mark.parametrize(("made", "asked"), OPTIONS, ids=str)
def test_equals_the_original_step_by_step(made: dict[str, Any], asked: dict[str, Any]) -> None:
    model = net()
    iba = ready(model, model.relu, **made)
    torch.manual_seed(3)
    bits = iba.analyze(X, loss_of(model), mode="capacity", **asked)

    given = {"optimization_steps": 10, "batch_size": 10, **made, **asked}
    steps, samples = given.pop("optimization_steps"), given.pop("batch_size")
    statistics = references.welford(net().conv1(data()).relu().detach())
    runs = references.iba(
        net(), X, torch.tensor([1]), "relu", statistics=statistics, noise=noise(steps, samples, 3), **given
    )
    near = lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)  # noqa: E731
    near(bits, (runs[0].capacity / math.log(2)).numpy())
    near(iba._model_loss, runs[0].loss)
    near(iba._information_loss, runs[0].information)
    near([np.linalg.norm(gradient) for gradient in iba._alpha_grads], runs[0].gradient_norm)
    near(iba.capacity().detach().numpy(), runs[0].capacity.numpy())


def test_equals_the_search_of_the_package() -> None:
    model = net()
    iba = ready(model, model.relu)
    torch.manual_seed(3)
    bits = iba.analyze(X, loss_of(model), mode="capacity")
    statistics = funcattr.bottleneck.feature_statistics(model, data(), layer="relu")
    drawn = noise(10, 10, 3)
    found = funcattr.iba(model, X, 1, statistics=statistics, noise=drawn, per="element")
    np.testing.assert_allclose(bits, found[0].numpy(), rtol=1e-6, atol=1e-9)


def test_any_closure_sees_the_live_model() -> None:
    """By an attribute, twice in a call, with numbers that leave torch before the layer, and under no_grad outside."""

    class Trainer:
        def __init__(self, model: nn.Module) -> None:
            self.model, self.calls = model, 0

        def loss(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = torch.from_numpy(x.numpy().copy())
            return F.mse_loss(self.model(x), self.model(x * 0.9)) + self.model(x)[:, 0].mean()

    trainer = Trainer(net())
    iba = ready(trainer.model, trainer.model.relu)  # type: ignore[arg-type]
    with torch.no_grad():
        bits = iba.analyze(X, trainer.loss)
    assert bits.shape == (6, 6)
    assert trainer.calls == 10
    assert np.isfinite(bits).all() and bits.sum() > 0


def test_the_input_of_a_layer_is_the_output_of_the_one_before() -> None:
    model, other = net(), net()
    at_input, at_output = ready(model, model.conv2, input_or_output="input"), ready(other, other.relu)
    found = []
    for iba, of in ((at_input, model), (at_output, other)):
        torch.manual_seed(3)
        found.append(iba.analyze(X, loss_of(of)))
    np.testing.assert_allclose(*found)


def test_as_a_layer_of_the_model_it_is_the_same() -> None:
    model = settle(lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3)))
    assert isinstance(model, nn.Sequential)
    iba = IBA()
    inserted = insert_into_sequential(model, iba, 2)
    assert [type(m).__name__ for m in inserted] == ["Conv2d", "ReLU", "IBA", "Flatten", "Linear"]
    iba.estimate(inserted, batches())
    torch.testing.assert_close(inserted(X), model(X))
    hooked = ready(model, model[1])
    found = []
    for one, of in ((iba, inserted), (hooked, model)):
        torch.manual_seed(3)
        found.append(one.analyze(X, loss_of(of)))
    np.testing.assert_allclose(*found)


def test_restricted_calls_equal_the_model_behind_the_bottleneck() -> None:
    model = net()
    iba = ready(model, model.relu)
    x, plain = uniform(2, 2, 6, 6, seed=8), model(uniform(2, 2, 6, 6, seed=8))
    torch.manual_seed(3)
    with iba.restrict_flow():
        restricted = model(x)
    e = noise(1, 2, 3)[0, :, 0]
    statistics = funcattr.bottleneck.feature_statistics(model, data(), layer="relu")
    alpha = torch.full((2, *SHAPE), 5.0, dtype=torch.float64)
    behind = funcattr.bottleneck.restrict_flow(model, statistics=statistics, alpha=alpha, noise=e)
    torch.testing.assert_close(restricted, behind(x))
    torch.testing.assert_close(model(x), plain)
    value = funcattr.read(model, "relu")(x)[1]["relu"]
    bits = funcattr.bottleneck.restrict(value, alpha, statistics, noise=e).capacity
    torch.testing.assert_close(iba.capacity(), bits.mean(0) * math.log(2))


@pytest.mark.parametrize("mode", ["saliency", "capacity"])
def test_modes(mode: Any) -> None:
    model = net()
    iba = ready(model, model.relu)
    found = iba.analyze(X, loss_of(model), mode=mode)
    assert isinstance(found, np.ndarray)
    nats = iba.capacity().detach().numpy()
    expected = nats / math.log(2) if mode == "capacity" else to_saliency_map(nats, (6, 6))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_sums_and_capacities_in_single(dtype: torch.dtype) -> None:
    model = net(dtype)
    iba = IBA(model.relu)
    iba.estimate(model, [data().to(dtype)])
    exact = references.welford(net().conv1(data()).relu().detach())
    torch.testing.assert_close(iba.estimator.mean().double(), exact.mean, rtol=0.02, atol=0.02)
    bits = iba.analyze(X.to(dtype), lambda x: -torch.log_softmax(model(x).float(), 1)[:, 1].mean(), beta=1)
    assert bits.dtype == np.float32
    assert np.isfinite(bits).all() and bits.sum() > 0


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).tanh()).mean(1)


def test_tokens_have_a_capacity_each() -> None:
    model = settle(Tokens)
    iba = IBA(model.first)  # type: ignore[arg-type]
    iba.estimate(model, [uniform(1000, 5, 4)])
    torch.manual_seed(3)
    bits = iba.analyze(uniform(1, 5, 4), loss_of(model), mode="capacity", beta=0.1)
    statistics = funcattr.bottleneck.feature_statistics(model, uniform(1000, 5, 4), layer="first")
    drawn = noise(10, 10, 3, (5, 6))
    options: Any = {"statistics": statistics, "noise": drawn, "per": "element", "beta": 0.1}
    np.testing.assert_allclose(bits, funcattr.iba(model, uniform(1, 5, 4), 1, **options)[0].numpy(), rtol=1e-6)


def test_a_constant_layer_gives_finite_numbers() -> None:
    """A relu that is never on gives zeros."""
    model = net()
    with torch.no_grad():
        model.conv1.weight.zero_()
        model.conv1.bias.fill_(-1.0)  # type: ignore[union-attr]
    never_on = ready(model, model.relu).analyze(X, loss_of(model))
    np.testing.assert_allclose(never_on, 0)
    assert np.isfinite(ready(model, model.conv1).analyze(X, loss_of(model))).all()


# --- statistics ------------------------------------------------------------------------------------------------------


def test_the_estimator_equals_the_running_formulas() -> None:
    values, estimator = uniform(50, 3, 4).relu(), TorchWelfordEstimator()
    for part in values.split(7):
        assert estimator(part) is part
    expected = references.welford(values, threshold=0.5)
    torch.testing.assert_close(estimator.mean(), expected.mean)
    torch.testing.assert_close(estimator.std(), expected.std)
    assert (estimator.active_neurons(0.5) == expected.active).all()
    assert estimator.n_samples() == 50
    assert estimator.shape == (3, 4)


def test_the_estimator_of_arrays() -> None:
    values, estimator = uniform(50, 3, 4).relu().numpy(), WelfordEstimator()
    for part in (values[:7], values[7:30]):
        assert estimator.fit(part) is part
    later = WelfordEstimator()
    later.load_state_dict(estimator.state_dict())
    later.fit(values[30:])
    assert (estimator.n_samples(), later.n_samples()) == (30, 50)
    np.testing.assert_allclose(estimator.mean(), values[:30].mean(0), rtol=1e-9)
    np.testing.assert_allclose(later.mean(), values.mean(0), rtol=1e-9)
    np.testing.assert_allclose(later.std(), values.std(0, ddof=1), rtol=1e-9)
    np.testing.assert_array_equal(later.active_neurons(0.5), (values != 0).mean(0) > 0.5)
    assert later.state_dict()["m"].shape == (3, 4) and later.active_neurons().dtype == bool


def test_batches_are_taken_whole_until_there_are_more_than_asked() -> None:
    model = net()
    iba = IBA(model.relu)
    for n_samples, seen in ((400, 800), (399, 400), (10_000, 1200)):
        iba.estimate(model, batches(), n_samples=n_samples)
        assert iba.estimator.n_samples() == seen
    iba.estimate(model, batches(), reset=False)
    assert iba.estimator.n_samples() == 2400
    iba.reset_estimate()
    assert iba.estimator.n_samples() == 0


def test_estimation_stops_at_the_layer() -> None:
    model, calls = net(), list[str]()
    model.conv2.register_forward_hook(lambda *_: calls.append("conv2"))
    ready(model, model.relu)
    assert calls == []
    iba = IBA(model.relu)
    with torch.no_grad(), iba.interrupt_execution(), iba.enable_estimation():
        model(data(30))
        raise AssertionError("not reached")
    assert iba.estimator.n_samples() == 30


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_the_threshold_of_active_neurons(threshold: float) -> None:
    model = net()
    found = ready(model, model.relu).analyze(X, loss_of(model), "capacity", active_neurons_threshold=threshold)
    active = references.welford(model.conv1(data()).relu().detach(), threshold).active
    assert (found[~active.numpy()] == 0).all()
    assert (found[active.numpy()] != 0).all()


def test_mean_and_spread_may_be_given() -> None:
    model = net()
    statistics = references.welford(model.conv2(model.conv1(data()).relu()).detach())
    iba = IBA(model.conv2, feature_mean=statistics.mean, feature_std=statistics.std)
    found = []
    for one in (iba, ready(model, model.conv2)):
        torch.manual_seed(3)
        found.append(one.analyze(X, loss_of(model)))
    np.testing.assert_allclose(*found)


def test_an_estimator_of_ones_own() -> None:
    class Given:
        def __init__(self) -> None:
            self.seen = 0

        def __call__(self, x: Tensor) -> Tensor:
            self.seen += len(x)
            return x

        def n_samples(self) -> int:
            return self.seen

        def mean(self) -> Tensor:
            return torch.zeros(SHAPE).double()

        def std(self) -> Tensor:
            return torch.full(SHAPE, 2.0).double()

        def active_neurons(self, threshold: float = 0.01) -> Tensor:
            return torch.ones(SHAPE).bool()

    model, own = net(), Given()
    iba = IBA(model.relu, estimator=own)
    iba.estimate(model, batches(), reset=False)
    assert iba.estimator is own and own.seen == 1200
    with iba.restrict_flow():
        model(X)
    value = model.relu(model.conv1(X))[0].detach() / 2
    keep = references.smoothed(torch.sigmoid(torch.full(SHAPE, 5.0).double()), 1.0)
    expected = 0.5 * ((keep * value) ** 2 + (1 - keep) ** 2 - 1 - 2 * (1 - keep).log())
    torch.testing.assert_close(iba.capacity(), expected)


# --- what is left ----------------------------------------------------------------------------------------------------


class OwnError(Exception):
    pass


def _loss_that_raises(x: Tensor) -> Tensor:
    raise OwnError


@pytest.mark.parametrize(
    "what", ["made", "estimate", "analyze", "contexts", "raises in analyze", "raises in a context"]
)
def test_the_model_is_as_it_was(what: str) -> None:
    model = net()
    before, output = state(model), model(X).detach()
    iba = ready(model, model.relu)
    if what == "analyze":
        iba.analyze(X, loss_of(model))
    elif what == "contexts":
        with iba.restrict_flow(), iba.restrict_flow():
            model(X)
    elif what == "raises in analyze":
        with pytest.raises(OwnError):
            iba.analyze(X, _loss_that_raises)
    elif what == "raises in a context":
        with pytest.raises(OwnError), iba.restrict_flow(), iba.enable_estimation():
            raise OwnError
    assert state(model) == before
    torch.testing.assert_close(model(X), output)


def test_within_a_context_there_is_one_hook_and_an_inner_context_leaves_it() -> None:
    model = net()
    iba, plain = ready(model, model.relu), model(X)
    with iba.restrict_flow():
        iba.analyze(X, loss_of(model))
        assert len(model.relu._forward_hooks) == 1
        assert not torch.allclose(model(X), plain)
    assert len(model.relu._forward_hooks) == 0


def test_detach() -> None:
    model = net()
    iba, plain = ready(model, model.relu), model(X)
    iba.detach()
    with iba.restrict_flow():
        torch.testing.assert_close(model(X), plain)
    with pytest.raises(ValueError, match=r"IBA\.detach: it is attached to no layer"):
        iba.detach()
    with pytest.raises(ValueError, match=r"IBA\.detach"):
        IBA().detach()


def test_its_parameters_are_its_own() -> None:
    model = net()
    iba = ready(model, model.relu)
    assert [name for name, _ in iba.named_parameters()] == ["alpha"]
    iba.analyze(X, loss_of(model), optimization_steps=1)
    assert iba.alpha is not None and not torch.allclose(iba.alpha, torch.tensor(5.0).double())
    iba.reset_alpha()
    torch.testing.assert_close(iba.alpha.detach(), torch.full(SHAPE, 5.0).double())
    again = copy.deepcopy(iba)
    torch.testing.assert_close(again.estimator.mean(), iba.estimator.mean())


# --- errors ----------------------------------------------------------------------------------------------------------


def _analyze(iba: IBA, model: nn.Module, **options: Any) -> Any:
    given = {"input_t": X, "model_loss_fn": loss_of(model), **options}
    return iba.analyze(given.pop("input_t"), given.pop("model_loss_fn"), **given)


ERRORS: dict[str, tuple[Callable[[IBA, Net], Any], type[Exception], str]] = {
    "before estimate": (lambda iba, m: _analyze(IBA(m.relu), m), funcattr.FuncattrError, "Call estimate"),
    "two images": (lambda iba, m: _analyze(iba, m, input_t=X.expand(2, -1, -1, -1)), ValueError, "got 2. funcattr.iba"),
    "mode": (lambda iba, m: _analyze(iba, m, mode="map"), ValueError, r"mode='map'"),
    "a loss for each copy": (
        lambda iba, m: _analyze(iba, m, model_loss_fn=lambda x: m(x)[:, 1]),
        funcattr.FuncattrError,
        r"returns one number, got a tensor of shape \[10\]",
    ),
    "another model": (
        lambda iba, m: _analyze(iba, m, model_loss_fn=loss_of(net())),
        funcattr.FuncattrError,
        "no value passed the layer",
    ),
    "another model in estimate": (
        lambda iba, m: iba.estimate(net(), batches()),
        funcattr.FuncattrError,
        "IBA.estimate: no value passed the layer",
    ),
    "another model in a context": (
        lambda iba, m: _within(iba, copy.deepcopy(m)),
        funcattr.FuncattrError,
        "IBA.restrict_flow: no value passed the bottleneck",
    ),
    "place": (lambda iba, m: IBA(m.relu, input_or_output="both"), ValueError, "input_or_output='both'"),  # type: ignore[arg-type]
    "an input by keyword": (
        lambda iba, m: IBA(ByKeyword.layer, input_or_output="input").estimate(ByKeyword(), batches()),
        funcattr.FuncattrError,
        "by keyword. Take the output of the layer",
    ),
    "nothing restricted": (lambda iba, m: iba.capacity(), funcattr.FuncattrError, "IBA.capacity: nothing"),
    "a tuple": (lambda iba, m: iba((X, X)), funcattr.FuncattrError, "of type tuple"),  # type: ignore[arg-type]
    "an empty estimator": (lambda iba, m: TorchWelfordEstimator().mean(), funcattr.FuncattrError, "no values yet"),
}


class ByKeyword(nn.Module):
    layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x)


def _within(iba: IBA, model: nn.Module) -> None:
    with iba.restrict_flow():
        model(X)


@pytest.mark.parametrize("what", ERRORS)
def test_named_errors(what: str) -> None:
    call, error, message = ERRORS[what]
    model = net()
    with pytest.raises(error, match=message):
        call(ready(model, model.relu), model)


def test_a_compiled_model_that_passes_the_layer_by_is_no_silent_answer(fresh_dynamo: None) -> None:
    model = net()
    iba, compiled = ready(model, model.relu), torch.compile(model, backend="eager")
    compiled(X)
    with pytest.raises(funcattr.FuncattrError, match="Call the eager model"), iba.restrict_flow():
        compiled(X)


def test_few_samples_warn() -> None:
    model = net()
    iba = IBA(model.relu)
    iba.estimate(model, [(data(10), None)])
    with pytest.warns(UserWarning, match="IBA.analyze: 10 samples are few"):
        iba.analyze(X, loss_of(model))
