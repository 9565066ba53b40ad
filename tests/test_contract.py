"""Every method, on drawn networks: what it computes, keeps and conserves (design section 4, points 1 to 3)."""

import copy

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import rules

from .contract import ROWS, Row, assert_equal, loop, row
from .drawn import Smooth, draw, on_drawn_networks
from .strategies import targets

every_method = pytest.mark.parametrize("row", ROWS, ids=repr)
pytestmark = pytest.mark.filterwarnings("ignore:.*the result is the plain gradient.*")  # some nets have no relu


@on_drawn_networks(data=st.data(), spatial=st.sampled_from([1, 2, 3]))
def test_equals_the_reference(row: Row, data: st.DataObject, spatial: int) -> None:
    net = draw(data, spatial=spatial, write_views=False)
    target = data.draw(targets(net.output_shape))
    target = target.to(net.x.device) if isinstance(target, Tensor) else target
    expected = row.reference(net.model, net.x, target, net.layer)
    assert_equal(row(net.model, net.x, target, net.layer), expected)


@on_drawn_networks([r for r in ROWS if r.conserves], data=st.data())
def test_conserves_the_output_of_a_homogeneous_net(row: Row, data: st.DataObject) -> None:
    net = draw(data, only_relu=True, bias=False)
    total = row(net.model, net.x, 1, net.layer).flatten(1).sum(1)
    assert_equal(total, net.model(net.x).detach()[:, 1])


@on_drawn_networks([r for r in ROWS if r.rules is not None and not r.is_map], data=st.data())
def test_accounts_for_all_relevance(row: Row, data: st.DataObject) -> None:
    """start = reached + what biases, dead units, stabilisers, softmax and constants took; nothing is unexplained."""
    assert row.rules is not None
    net = draw(data, write_views=False)
    layer, start = net.layer if row.at_layer else None, "one" if row.divides else "output"
    report = funcattr.conservation(net.model, net.x, 1, rules=row.rules, layer=layer, start=start)
    assert_equal(row(net.model, net.x, 1, net.layer).sum(), net.x.new_tensor(report.reached))
    # Relevance of both signs may be far larger than its sum.
    scale = max(abs(v) for flow in report.flows for v in (flow.arrived, flow.passed, *flow.lost.values()))
    assert abs(report.start - report.reached - sum(report.lost.values())) <= 1e-9 * scale
    assert all(abs(flow.lost["other"]) <= 1e-9 * scale for flow in report.flows)


@on_drawn_networks(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_keeps_dtype_and_shape_and_ignores_strides(row: Row, data: st.DataObject, dtype: torch.dtype) -> None:
    net = draw(data, dtype=dtype)
    result = row(net.model, net.x, 0, net.layer)
    site = funcattr.read(net.model, net.layer)(net.x)[1][net.layer] if row.at_layer else net.x
    channels = 1 if row.is_map else site.shape[1]
    shape = net.x.shape if row.name == "guided_grad_cam" else (len(site), channels, *site.shape[2:])
    assert (result.dtype, result.device, result.shape) == (dtype, net.x.device, torch.Size(shape))
    if row.rules is not None and dtype != torch.float64:
        # Beside a pole (or a kink) rounding is amplified: another order of sums gives another value.
        assert result.isfinite().all()
        return
    strided = net.x.transpose(0, -1).contiguous().transpose(0, -1)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2}[dtype]
    assert_equal(row(net.model, strided, 0, net.layer), result, tolerance=tolerance)


@on_drawn_networks(data=st.data())
def test_touches_nothing_of_the_user(row: Row, data: st.DataObject) -> None:
    net = draw(data)
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
def test_keeps_no_graph_and_honours_no_grad(row: Row) -> None:
    model, x = Smooth().eval(), torch.randn(2, 2, 5, 5)
    assert not row(model, x, 0, Smooth.layer).requires_grad
    with torch.no_grad():
        plain = row(model, x.requires_grad_(), 0, Smooth.layer)
    assert not plain.requires_grad
    assert_equal(plain, row(model, x, 0, Smooth.layer).detach())


@every_method
def test_nan_passes_through_to_its_own_example_only(row: Row) -> None:
    model, x = Smooth().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    broken = x.clone()
    broken[0, 0, 0, 0] = float("nan")
    result = row(model, broken, 0, Smooth.layer)
    assert result[0].isnan().any()
    assert_equal(result[1], row(model, x, 0, Smooth.layer)[1])


# --- the suite's own helpers can fail ------------------------------------------------------------------------------


def test_assert_equal_fails_on_a_wrong_value_shape_or_dtype() -> None:
    good = torch.ones(3, dtype=torch.float64)
    assert_equal(good, good.clone())
    for wrong in (good * (1 + 1e-6), good[:2], good.float(), good * float("nan")):
        with pytest.raises(AssertionError):
            assert_equal(wrong, good)


def test_drawn_networks_are_as_many_as_the_rows_share_and_a_failure_shows() -> None:
    counts = {"gradient": 0, "gradient_at_layer": 0}

    @on_drawn_networks(n=st.integers())
    def seen(row: Row, n: int) -> None:
        counts[row.name] += 1

    @on_drawn_networks(n=st.integers())
    def fails(row: Row, n: int) -> None:
        raise AssertionError("wrong")

    whole, half = (row(name) for name in counts)
    seen(whole)
    seen(half)
    assert counts["gradient"] == 2 * counts["gradient_at_layer"] > 0
    with pytest.raises(AssertionError, match="wrong"):
        fails(whole)


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


def test_the_checks_of_relevance_fail_on_a_broken_rule() -> None:
    """A rule for dense layers that forgets the bias, and one that loses a part without an account of it."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    plus = rules.epsilon_plus()
    expected = next(r for r in ROWS if r.name == "lrp_epsilon_plus").reference(model, x, 0, "0")
    assert_equal(funcattr.lrp(model, x, 0, rules=plus, start="one"), expected)
    with pytest.raises(AssertionError):
        assert_equal(
            funcattr.lrp(model, x, 0, rules=plus | {"dense": rules.epsilon(bias="ignore")}, start="one"), expected
        )
    lossy = funcattr.conservation(
        model, x, 0, rules=plus | {"dense": lambda call, r: 0.9 * rules.epsilon(call, r)}, start="one"
    )
    assert abs(lossy.lost["other"]) > 1e-3


def test_loop_is_not_the_batched_call() -> None:
    calls: list[int] = []
    loop(lambda v: calls.append(1) or v, torch.zeros(4, 2))
    assert len(calls) == 4
