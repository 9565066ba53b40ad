"""Every method, on drawn networks: what it computes, keeps and conserves (design section 4, points 1 to 3)."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

import funcattr
from funcattr import rules
from funcattr.testing import properties
from funcattr.testing.networks import Smooth, draw_comparable, targets

from .contract import ROWS, Row, assert_equal, row
from .drawn import on_drawn_networks

every_method = pytest.mark.parametrize("row", ROWS, ids=repr)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the result is the plain gradient.*"),  # some nets have no relu
    pytest.mark.filterwarnings("ignore:.*the relevance that was seeded.*"),  # in some all units are dead
]


@on_drawn_networks(data=st.data(), spatial=st.sampled_from([1, 2, 3]))
def test_equals_the_reference(row: Row, data: st.DataObject, spatial: int) -> None:
    net = draw_comparable(data, spatial=spatial, write_views=False)
    target = data.draw(targets(net.output_shape))
    target = target.to(net.x.device) if isinstance(target, Tensor) else target
    expected = row.reference(net.model, net.x, target, net.layer)
    assert_equal(row(net.model, net.x, target, net.layer), expected)


@on_drawn_networks([r for r in ROWS if r.conserves], data=st.data())
def test_conserves_the_output_of_a_homogeneous_net(row: Row, data: st.DataObject) -> None:
    net = draw_comparable(data, only_relu=True, bias=False)
    properties.conserves(row.at(net.layer), net.model, net.x, 1)


@on_drawn_networks([r for r in ROWS if r.rules is not None and not r.is_map], data=st.data())
def test_accounts_for_all_relevance(row: Row, data: st.DataObject) -> None:
    assert row.rules is not None
    net = draw_comparable(data, write_views=False)
    layer, start = net.layer if row.at_layer else None, "one" if row.divides else "output"
    report = properties.accounts_for_relevance(net.model, net.x, 1, rules=row.rules, layer=layer, start=start)
    assert_equal(row(net.model, net.x, 1, net.layer).sum(), net.x.new_tensor(report.reached))


@on_drawn_networks(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_keeps_dtype_and_shape_and_ignores_strides(row: Row, data: st.DataObject, dtype: torch.dtype) -> None:
    net = draw_comparable(data, dtype=dtype)
    attribution = row.at(net.layer)
    if row.rules is not None and dtype != torch.float64:
        # Beside a pole (or a kink) rounding is amplified: another order of sums gives another value.
        result = attribution(net.model, net.x, 0)
        assert result.isfinite().all()
    else:
        result = properties.ignores_strides(attribution, net.model, net.x, 0, properties.TOLERANCES[dtype])
    site = funcattr.read(net.model, net.layer)(net.x)[1][net.layer] if row.at_layer else net.x
    like = net.x if row.name == "guided_grad_cam" else site
    properties.has_form(result, like, 1 if row.is_map else None)


@on_drawn_networks(data=st.data())
def test_touches_nothing_of_the_user(row: Row, data: st.DataObject) -> None:
    net = draw_comparable(data)
    properties.touches_nothing(row.at(net.layer), net.model, net.x, 0)


@every_method
def test_keeps_no_graph_and_honours_no_grad(row: Row) -> None:
    properties.keeps_no_graph(row.at(Smooth.layer), Smooth().eval(), torch.randn(2, 2, 5, 5), 0)


@every_method
def test_nan_passes_through_to_its_own_example_only(row: Row) -> None:
    model, x = Smooth().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    properties.keeps_nan_apart(row.at(Smooth.layer), model, x, 0)


@every_method
def test_a_tangent_of_forward_mode_is_carried(row: Row) -> None:
    """A flag of autograd's does not show it: torch.autograd.forward_ad, without a transform."""
    torch.manual_seed(0)
    model, x, direction = Smooth().double().eval(), *torch.randn(2, 2, 2, 5, 5, dtype=torch.float64)

    def total(t: Tensor) -> Tensor:
        attribution = row(model, x + t * direction, 0, Smooth.layer)
        return (attribution * torch.linspace(1, 2, attribution.numel()).double().view_as(attribution)).sum()

    step, zero = 1e-6, torch.zeros((), dtype=torch.float64)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(total(forward_ad.make_dual(zero, zero + 1))).tangent
    expected = (total(zero + step) - total(zero - step)) / (2 * step)
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-7)


# --- the suite's own helpers can fail ------------------------------------------------------------------------------


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
