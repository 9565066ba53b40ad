"""Every method, on drawn networks: design section 4, points 1 to 4, 6 and 7 (5 is in test_composition)."""

import copy
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr

from .contract import DEVICES, ROWS, Row, assert_equal, loop
from .strategies import Network, networks, targets

# What torch itself gets wrong, so that no method can be compared there. Each entry has a test that torch still does.
KNOWN_UPSTREAM = {
    "instance norm, strided cotangent": "On the CPU, torch's backward of instance_norm is wrong for a permuted "
    "cotangent and a batch of one (test_upstream.py shows it against finite differences).",
}

every_method = pytest.mark.parametrize("row", ROWS, ids=repr)


@pytest.fixture(autouse=True)
def _torch_says_what_it_lacks() -> Iterator[None]:
    """Drawn networks have no relu at times, and torch has no batching rule for some calls; both only warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the result is the plain gradient.*")
        warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented.*")
        yield


def _needs_layer_of_inputs_rank(row: Row, net: Network) -> bool:
    site = funcattr.read(net.model, net.layer)(net.x)[1][net.layer]
    return row.name == "guided_grad_cam" and site.ndim != net.x.ndim


def _draw(data: st.DataObject, **options: Any) -> Network:
    """A network, on one of the machine's devices, that torch itself differentiates right (see KNOWN_UPSTREAM)."""
    net, device = data.draw(networks(**options)), data.draw(st.sampled_from(DEVICES))
    net.model, net.x = net.model.to(device), net.x.to(device)
    instance_norm = any(b.args.get("kind") == "instance" for b in net.description.blocks)
    assume(not (instance_norm and len(net.description.blocks) > 1))
    return net


@every_method
@given(data=st.data(), spatial=st.sampled_from([1, 2, 3]))
def test_equals_the_reference(row: Row, data: st.DataObject, spatial: int) -> None:
    net = _draw(data, spatial=spatial, write_views=False)
    target = data.draw(targets(net.output_shape))
    target = target.to(net.x.device) if isinstance(target, Tensor) else target
    if _needs_layer_of_inputs_rank(row, net):
        return
    expected = row.reference(net.model, net.x, target, net.layer)
    assert_equal(row(net.model, net.x, target, net.layer), expected)


@pytest.mark.parametrize("row", [r for r in ROWS if r.conserves], ids=repr)
@given(data=st.data())
def test_conserves_the_output_of_a_homogeneous_net(row: Row, data: st.DataObject) -> None:
    net = _draw(data, only_relu=True, bias=False)
    total = row(net.model, net.x, 1, net.layer).flatten(1).sum(1)
    assert_equal(total, net.model(net.x).detach()[:, 1])


@every_method
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_keeps_dtype_and_shape_and_ignores_strides(row: Row, data: st.DataObject, dtype: torch.dtype) -> None:
    net = _draw(data, dtype=dtype)
    if _needs_layer_of_inputs_rank(row, net):
        return
    result = row(net.model, net.x, 0, net.layer)
    site = funcattr.read(net.model, net.layer)(net.x)[1][net.layer] if row.at_layer else net.x
    is_map = row.name in ("grad_cam", "linear_approx")
    shape = (
        net.x.shape if row.name == "guided_grad_cam" else (len(site), 1 if is_map else site.shape[1], *site.shape[2:])
    )
    assert (result.dtype, result.device, result.shape) == (dtype, net.x.device, torch.Size(shape))
    strided = net.x.transpose(0, -1).contiguous().transpose(0, -1)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2}[dtype]
    assert_equal(row(net.model, strided, 0, net.layer), result, tolerance=tolerance)


@every_method
@given(data=st.data())
def test_touches_nothing_of_the_user(row: Row, data: st.DataObject) -> None:
    net = _draw(data)
    if _needs_layer_of_inputs_rank(row, net):
        return
    before, x = copy.deepcopy(net.model), net.x.clone()
    objects = {name: dict(vars(m)) for name, m in net.model.named_modules()}
    rng = torch.get_rng_state()
    row(net.model, net.x, 0, net.layer)
    assert torch.equal(net.x, x)
    assert net.x.grad is None
    assert not net.x.requires_grad
    assert torch.equal(torch.get_rng_state(), rng)
    for name, module in net.model.named_modules():
        assert vars(module).keys() == objects[name].keys()
        assert all(vars(module)[k] is v for k, v in objects[name].items())
    for (_, p), (_, q) in zip(net.model.named_parameters(), before.named_parameters()):
        assert p.grad is None
        assert p.requires_grad == q.requires_grad
        assert torch.equal(p, q)
    for (_, p), (_, q) in zip(net.model.named_buffers(), before.named_buffers()):
        assert torch.equal(p, q)


@every_method
@given(data=st.data())
def test_batch_equals_loop_and_vmap_over_examples(row: Row, data: st.DataObject) -> None:
    net = _draw(data, write_views=False)
    if _needs_layer_of_inputs_rank(row, net):
        return

    def one(x: Tensor) -> Tensor:
        return row(net.model, x[None], 1, net.layer)[0]

    batch = row(net.model, net.x, 1, net.layer)
    assert_equal(loop(one, net.x), batch)
    assert_equal(torch.vmap(one)(net.x), batch)


@every_method
@given(data=st.data())
def test_vmap_over_targets_equals_loop(row: Row, data: st.DataObject) -> None:
    net = _draw(data, write_views=False)
    if _needs_layer_of_inputs_rank(row, net):
        return
    classes = torch.arange(net.output_shape[1], device=net.x.device)
    assert_equal(
        torch.vmap(lambda t: row(net.model, net.x, t, net.layer))(classes),
        loop(lambda t: row(net.model, net.x, t, net.layer), classes),
    )


@every_method
@given(data=st.data())
def test_vmap_over_noise_equals_loop(row: Row, data: st.DataObject) -> None:
    net = _draw(data, write_views=False)
    if _needs_layer_of_inputs_rank(row, net):
        return
    noise = 0.1 * torch.randn(3, *net.x.shape, dtype=net.x.dtype, generator=torch.Generator().manual_seed(0)).to(net.x)

    def noisy(e: Tensor) -> Tensor:
        return row(net.model, net.x + e, 0, net.layer)

    assert_equal(torch.vmap(noisy)(noise), loop(noisy, noise))


@every_method
@given(data=st.data())
def test_vmap_over_stacked_parameters_equals_loop(row: Row, data: st.DataObject) -> None:
    net = _draw(data, write_views=False)
    if _needs_layer_of_inputs_rank(row, net):
        return
    fm = funcattr.functionalize(net.model)
    stacked = {name: torch.stack([p.detach(), 0.7 * p.detach()]) for name, p in fm.params.items()}
    if not stacked:
        return

    def member(params: dict[str, Tensor]) -> Tensor:
        return row(fm.bind(params), net.x, 0, net.layer)

    assert_equal(torch.vmap(member)(stacked), loop(member, stacked))


class _Smooth(nn.Module):
    """Relu inside smooth functions, so that every method has a derivative that is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)).relu()
        h = self.second(h).sigmoid()
        return self.head(h.mean((2, 3))).exp()


@every_method
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp loads its decompositions
def test_derivative_equals_finite_differences(row: Row) -> None:
    model = _Smooth().double().eval()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)

    def attribution(x: Tensor) -> Tensor:
        return row(model, x, torch.tensor([1, 0]), "first")

    assert attribution(x).requires_grad
    assert torch.autograd.gradcheck(attribution, (x,), eps=1e-6, atol=1e-6)
    direction = torch.randn_like(x)
    forward = torch.func.jvp(attribution, (x.detach(),), (direction,))[1]
    step = 1e-6
    difference = (attribution(x + step * direction) - attribution(x - step * direction)).detach() / (2 * step)
    assert_equal(forward, difference, tolerance=1e-6)


@every_method
def test_derivative_by_bound_parameters_equals_finite_differences(row: Row) -> None:
    fm = funcattr.functionalize(_Smooth().double().eval())
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    weight = fm.params["second.weight"].detach().clone().requires_grad_()

    def attribution(weight: Tensor) -> Tensor:
        return row(fm.bind({"second.weight": weight}), x, 1, "first")

    assert torch.autograd.gradcheck(attribution, (weight,), eps=1e-6, atol=1e-6)


@every_method
def test_keeps_no_graph_and_honours_no_grad(row: Row) -> None:
    model, x = _Smooth().eval(), torch.randn(2, 2, 5, 5)
    assert not row(model, x, 0, "first").requires_grad
    with torch.no_grad():
        plain = row(model, x.requires_grad_(), 0, "first")
    assert not plain.requires_grad
    assert_equal(plain, row(model, x, 0, "first").detach())


def test_eight_threads_on_one_model_equal_serial() -> None:
    model = _Smooth().double().eval()
    fm = funcattr.functionalize(model)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    jobs = [(row, model if i % 2 else fm) for i, row in enumerate((ROWS * 2)[:16])]
    serial = [row(m, x, 1, "first") for row, m in jobs]
    results: dict[tuple[int, int], Tensor] = {}

    def work(thread: int) -> None:
        for k in range(len(jobs)):
            i = (thread + k) % len(jobs)
            results[thread, i] = jobs[i][0](jobs[i][1], x, 1, "first")

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 8 * len(jobs)
    for (_, i), result in results.items():
        assert_equal(result, serial[i])


@every_method
def test_nan_passes_through_to_its_own_example_only(row: Row) -> None:
    model, x = _Smooth().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    broken = x.clone()
    broken[0, 0, 0, 0] = float("nan")
    result = row(model, broken, 0, "first")
    assert result[0].isnan().any()
    assert_equal(result[1], row(model, x, 0, "first")[1])


# --- the suite's own helpers can fail ------------------------------------------------------------------------------


def test_assert_equal_fails_on_a_wrong_value_shape_or_dtype() -> None:
    good = torch.ones(3, dtype=torch.float64)
    assert_equal(good, good.clone())
    for wrong in (good * (1 + 1e-6), good[:2], good.float(), good * float("nan")):
        with pytest.raises(AssertionError):
            assert_equal(wrong, good)


def test_the_reference_check_fails_on_a_broken_rule() -> None:
    """A guided rule that forgets the mask of x, on a net where it matters."""
    broken = funcattr.Rulebook({"relu": lambda call, p: p.clamp(min=0)})
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    y, pull = funcattr.vjp(model, x, rules=broken)
    seed = torch.zeros_like(y).index_fill(1, torch.tensor([0]), 1.0)
    expected = next(r for r in ROWS if r.name == "guided_backprop").reference(model, x, 0, "0")
    with pytest.raises(AssertionError):
        assert_equal(pull(seed)[0], expected)


def test_loop_is_not_the_batched_call() -> None:
    calls: list[int] = []
    loop(lambda v: calls.append(1) or v, torch.zeros(4, 2))
    assert len(calls) == 4
