"""What all methods that only run the model forward on perturbed inputs have in common, each beside its reference."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr.methods.perturbation.feature_ablation import feature_ablation
from funcattr.methods.perturbation.kernel_shap import kernel_coalitions, kernel_shap
from funcattr.methods.perturbation.lime import lime
from funcattr.methods.perturbation.occlusion import occlusion
from funcattr.methods.perturbation.rise import rise, rise_masks
from funcattr.methods.perturbation.shapley_sampling import shapley_sampling
from funcattr.sampling import draws
from funcattr.testing.networks import Smooth
from funcattr.testing.seeding import settle, uniform

from . import perturbation_references as references
from .contract import assert_equal, loop
from .sweeps import sweep

FEATURES = 4
MASK = (torch.arange(32) * 7 % FEATURES).reshape(1, 2, 4, 4)
BASELINE = uniform(1, 2, 1, 1, seed=3)
GROUPS: dict[str, Any] = {"feature_mask": MASK, "baseline": BASELINE}
HALF = torch.full((), 0.5, dtype=torch.float32)


class Method(NamedTuple):
    """A method with its options bound, and a reference for the same draws."""

    run: partial[Any]
    reference: Callable[..., Any]
    forwards: int  # of perturbed copies of an example
    beside: int  # forwards of x and of the baseline
    is_random: bool = True


def drawn(name: str, samples: int) -> dict[str, Tensor]:
    """What a method draws with the seed 0, for its reference."""
    index = torch.arange(samples)
    if name == "rise":
        return {"masks": rise_masks(samples, (4, 4), cells=3, dtype=torch.float64)}
    if name == "shapley_sampling":
        return {"permutations": draws.permutations(index, FEATURES, seed=0)}
    if name == "kernel_shap":
        coalitions, weights = kernel_coalitions(samples, FEATURES, 0, torch.device("cpu"))
        return {"coalitions": coalitions, "weights": weights}
    return {"coalitions": draws.uniform(index, (FEATURES,), HALF, 0) < 0.5}


WINDOW: dict[str, Any] = {"window": (2, 3), "stride": (1, 2), "baseline": BASELINE}
METHODS = {
    "rise": Method(
        partial(rise, samples=8, cells=3, activation="softmax"),
        partial(references.rise, activation="softmax", **drawn("rise", 8)),
        8,
        0,
    ),
    "occlusion": Method(partial(occlusion, **WINDOW), partial(references.occlusion, **WINDOW), 6, 1, False),
    "feature_ablation": Method(
        partial(feature_ablation, **GROUPS), partial(references.feature_ablation, **GROUPS), 4, 1, False
    ),
    "shapley_sampling": Method(
        partial(shapley_sampling, samples=2, **GROUPS),
        partial(references.shapley_sampling, **GROUPS, **drawn("shapley_sampling", 2)),
        6,
        2,
    ),
    "kernel_shap": Method(
        partial(kernel_shap, samples=12, **GROUPS),
        partial(references.kernel_shap, **GROUPS, **drawn("kernel_shap", 12)),
        12,
        2,
    ),
    "lime ridge": Method(
        partial(lime, samples=12, regression="ridge", penalty=0.1, **GROUPS),
        partial(references.lime, kind="ridge", alpha=0.1, **GROUPS, **drawn("lime", 12)),
        12,
        0,
    ),
    "lime linear": Method(
        partial(lime, samples=12, regression="linear", **GROUPS),
        partial(references.lime, kind="linear", **GROUPS, **drawn("lime", 12)),
        12,
        0,
    ),
    "lime lasso": Method(
        partial(lime, samples=12, penalty=0.001, **GROUPS),
        partial(references.lime, alpha=0.001, **GROUPS, **drawn("lime", 12)),
        12,
        0,
    ),
}
SMOOTH = [name for name in METHODS if name != "lime lasso"]
OF_ONE_INPUT = ["rise"]
# Lasso's coordinate descent stops at a tolerance of its own.
TOLERANCE = {"lime lasso": 1e-8}

each_method = pytest.mark.parametrize("name", METHODS)
each_smooth_method = pytest.mark.parametrize("name", SMOOTH)
each_random_method = pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.is_random])
each_of_several_inputs = pytest.mark.parametrize("name", [name for name in METHODS if name not in OF_ONE_INPUT])


def model() -> nn.Module:
    return settle(Smooth)


def images(count: int = 2) -> Tensor:
    return uniform(count, 2, 4, 4)


# --- values ----------------------------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("target", [1, [1, 0]])
def test_equals_the_reference_at_any_chunk_size(name: str, target: Any) -> None:
    method, net, x = METHODS[name], model(), images()
    expected = method.reference(net, x, target)
    assert expected.abs().max() > 1e-3
    for chunk_size in (None, 1, 4, 1000):
        actual = method.run(net, x, target, chunk_size=chunk_size)
        assert_equal(actual, expected, tolerance=TOLERANCE.get(name, 1e-9))


@each_method
def test_forwards_are_counted(name: str) -> None:
    net, x, calls = model(), images(), list[int]()

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return net(x)

    METHODS[name].run(counted, x, 1)  # once before: the check that examples do not see each other is not counted
    for chunk_size in (1, 4, None):
        calls.clear()
        METHODS[name].run(counted, x, 1, chunk_size=chunk_size)
        assert sum(calls) == 2 * (METHODS[name].forwards + METHODS[name].beside)
        assert max(calls) <= 2 * (chunk_size or 8)


@each_method
def test_every_kind_of_target_and_model(name: str) -> None:
    method, net, x = METHODS[name].run, model(), images()
    expected = method(net, x, [1, 0])
    assert_equal(method(net, x, torch.tensor([1, 0])), expected, tolerance=1e-12)
    assert_equal(method(funcattr.functionalize(net), x, [1, 0]), expected, tolerance=1e-12)
    assert_equal(method(lambda x: net(x), x, (torch.tensor([1, 0]),)), expected, tolerance=1e-12)
    assert_equal(method(net, x, 1)[:1], expected[:1], tolerance=1e-12)
    one_hot = torch.tensor([[0, 1], [1, 0]]).double()
    assert_equal(method(net, x, one_hot), expected, tolerance=1e-12)
    assert_equal(method(net, x, lambda y: y[:, 1]), method(net, x, 1), tolerance=1e-12)


@each_method
def test_more_inputs_of_the_model_go_along(name: str) -> None:
    net, x, scale, shift = model(), images(), torch.tensor([2.0, 3.0]).double(), torch.tensor(0.25).double()

    def two(x: Tensor, scale: Tensor, *, shift: Tensor) -> dict[str, Tensor]:
        return {"other": x.flatten(1), "scores": net(x * scale.reshape(-1, 1, 1, 1)) + shift}

    run = partial(METHODS[name].run, chunk_size=3)
    actual = run(two, x, 1, output="scores", args=(scale,), kwargs={"shift": shift})
    for n in range(2):
        alone = run(lambda x, n=n: net(x * scale[n]) + shift, x[n : n + 1], 1)
        assert_equal(actual[n : n + 1], alone, tolerance=1e-12)


@each_random_method
def test_one_seed_means_one_result(name: str) -> None:
    run = partial(METHODS[name].run, model(), images(), 1)
    mine, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    seeds = [int(torch.randint(2**62, (), generator=twin)) for _ in range(2)]
    first, second = run(generator=mine), run(generator=mine)
    assert_equal(first, run(generator=seeds[0], chunk_size=3), tolerance=1e-12)
    assert_equal(second, run(generator=seeds[1]), tolerance=1e-12)
    assert (first - second).abs().max() > 1e-6
    assert_equal(run(), run(generator=0), tolerance=1e-12)


# --- transforms ------------------------------------------------------------------------------------------------------


@each_method
def test_batch_equals_loop_and_vmap(name: str) -> None:
    net, x, target = model(), images(3), torch.tensor([1, 0, 1])

    def one(x: Tensor, target: Tensor) -> Tensor:
        return METHODS[name].run(net, x[None], target[None], chunk_size=4)[0]

    batch = METHODS[name].run(net, x, target, chunk_size=4)
    assert_equal(loop(one, x, target), batch, tolerance=1e-10)
    assert_equal(torch.vmap(one)(x, target), batch, tolerance=1e-10)


@each_method
def test_vmap_over_targets_and_parameters_equals_loop(name: str) -> None:
    fm, x = funcattr.functionalize(model()), images()
    stacked = {key: torch.stack([p.detach(), 0.7 * p.detach()]) for key, p in fm.params.items()}
    run = partial(METHODS[name].run, chunk_size=3)
    of_target, of_parameters = (lambda t: run(fm, x, t)), (lambda params: run(fm.bind(params), x, 1))
    assert_equal(torch.vmap(of_target)(torch.arange(2)), loop(of_target, torch.arange(2)), tolerance=1e-10)
    assert_equal(torch.vmap(of_parameters)(stacked), loop(of_parameters, stacked), tolerance=1e-10)


@each_smooth_method
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp loads its decompositions
def test_derivatives_equal_finite_differences(name: str) -> None:
    fm, x = funcattr.functionalize(model()), images()
    weight = fm.params["blocks.second.weight"].detach()
    towards = uniform(*x.shape, seed=4), uniform(*weight.shape, seed=5)
    factors = uniform(*METHODS[name].run(fm, x, 1).shape, seed=6)

    def number(x: Tensor, weight: Tensor) -> Tensor:
        return (factors * METHODS[name].run(fm.bind({"blocks.second.weight": weight}), x, 1, chunk_size=4)).sum()

    step = 1e-6
    ahead, behind = (number(x + s * towards[0], weight + s * towards[1]) for s in (step, -step))
    expected = (ahead - behind) / (2 * step)
    assert expected.abs() > 1e-3
    slopes = torch.func.grad(number, argnums=(0, 1))(x, weight)
    actual = sum((slope * direction).sum() for slope, direction in zip(slopes, towards, strict=True))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(torch.func.jvp(number, (x, weight), towards)[1], expected, rtol=1e-6, atol=1e-8)
    leaf = x.clone().requires_grad_()
    assert_equal(torch.autograd.grad(number(leaf, weight), leaf)[0], slopes[0], tolerance=1e-10)


# The others run by the code of these.
@pytest.mark.parametrize(
    "name",
    sweep(["rise", "occlusion", "shapley_sampling", "kernel_shap", "lime lasso"], quick=["lime lasso"]),
)
def test_compiled_equals_eager_without_recompiling(name: str, fresh_dynamo: None) -> None:
    fm, counter = funcattr.functionalize(model()), CompileCounterWithBackend("aot_eager")
    options = {"features": FEATURES} if "feature_mask" in METHODS[name].run.keywords else {}

    def run(x: Tensor, target: Tensor) -> Tensor:
        return METHODS[name].run(fm, x, target, chunk_size=METHODS[name].forwards // 2, **options)

    compiled = torch.compile(run, fullgraph=True, backend=counter)
    for x, target in ((images(), torch.tensor([0, 1])), (images().flip(0), torch.tensor([1, 1]))):
        assert_equal(compiled(x, target), run(x, target), tolerance=1e-10)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["kernel_shap", "lime lasso"])
def test_traced_graphs_equal_eager(name: str) -> None:
    net, x = model(), images()
    run = partial(METHODS[name].run, net, target=1, features=FEATURES)
    graph = make_fx(lambda x: run(x))(x)
    other = 0.5 * x.flip(0)
    assert_equal(graph(other), run(other), tolerance=1e-10)


# --- what a call leaves alone, and what it keeps ----------------------------------------------------------------------


@each_method
def test_nothing_of_the_users_is_touched_and_no_graph_is_kept(name: str) -> None:
    net, x = model(), images()
    before = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    tensors = (x, MASK, BASELINE)
    copies, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    assert not METHODS[name].run(net, x, 1).requires_grad
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before[1].items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert [t._version for t in tensors] == versions and all(map(torch.equal, tensors, copies))
    with torch.no_grad():
        assert not METHODS[name].run(net, x.requires_grad_(), 1).requires_grad


@each_method
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_any_floating_dtype(name: str, dtype: torch.dtype, tolerance: float) -> None:
    exact = METHODS[name].run(model(), images(), 1)
    actual = METHODS[name].run(model().to(dtype), images().to(dtype), 1)
    assert actual.dtype == dtype
    assert_equal(actual.double(), exact, tolerance=tolerance)


@each_method
def test_strides_do_not_matter(name: str) -> None:
    x = images()
    strided = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not strided.is_contiguous()
    assert_equal(METHODS[name].run(model(), strided, 1), METHODS[name].run(model(), x, 1), tolerance=1e-12)


class Peak(TorchDispatchMode):
    """The most bytes that were held at once by what operations have made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._now = 0, 0
        self._holders: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        self.bytes = max(self.bytes, self._now)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._holders.setdefault(key, 0):
            self._now += size
        self._holders[key] += 1
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self._now -= size


def peak(function: Callable[[], Any]) -> int:
    with Peak() as counted:
        function()
    return counted.bytes


def test_the_memory_count_sees_what_is_held_and_what_is_dropped() -> None:
    x = torch.zeros(1000, dtype=torch.float64)
    assert peak(lambda: [x + i for i in range(10)]) >= 10 * 8000
    assert peak(lambda: [(x + i).sum() for i in range(10)]) < 3 * 8000


@each_random_method
def test_memory_does_not_grow_with_the_samples(name: str) -> None:
    x = uniform(1, 2, 64, 64)
    groups: dict[str, Any] = {"feature_mask": torch.arange(64) // 8, "features": 8}
    if "feature_mask" not in METHODS[name].run.keywords:
        groups = {}

    def sums(x: Tensor) -> Tensor:
        return x.sum((2, 3))

    def run(samples: int) -> Tensor:
        return METHODS[name].run(sums, x, 0, samples=samples, chunk_size=4, **groups)

    run(9)  # imports what is imported once
    few, many = peak(lambda: run(9)), peak(lambda: run(90))
    assert x.nbytes * 4 < few and many < 1.1 * few
