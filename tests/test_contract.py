"""Every method, on drawn networks: what it computes, keeps and conserves (design section 4, points 1 to 3)."""

import inspect
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

import funcattr
from funcattr import rules
from funcattr.testing import properties
from funcattr.testing.networks import Smooth, draw_comparable, targets

from .contract import BOOKS_ELSEWHERE, ELSEWHERE, ROWS, Row, assert_equal, row
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


# --- the table is whole ----------------------------------------------------------------------------------------------


def public_methods() -> dict[str, CodeType]:
    """The methods and paths of the package by name, each with the code that runs when it is asked."""
    functions = {name: inspect.unwrap(v) for name, v in vars(funcattr).items() if inspect.isfunction(v)}
    found = {name: f.__code__ for name, f in functions.items() if f.__module__.startswith("funcattr.methods.")}
    paths: dict[str, Any] = {name: v for name, v in vars(funcattr.paths).items() if inspect.isclass(v)}
    return found | {name: path.integral.__code__ for name, path in paths.items()}


def asked_by(row: Row, methods: dict[str, CodeType]) -> set[str]:
    """The methods that a row asks first, not those that are part of others, and the path if it asks one along it."""
    names, entered = {code: name for name, code in methods.items()}, list[str]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in names:
            entered.append(names[frame.f_code])

    model, x = Smooth().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        row(model, x, 1, Smooth.layer)
    finally:
        sys.setprofile(before)
    # A noise tunnel is around another method.
    return {*entered[:1], *(name for name in entered if hasattr(funcattr.paths, name))}


def test_every_public_method_has_a_row_or_a_reason() -> None:
    methods = public_methods()
    covered = set().union(*(asked_by(row, methods) for row in ROWS))
    assert {"gradient", "noise_tunnel", "idgi", "blur"} <= covered
    assert covered | set(ELSEWHERE) == set(methods) and not covered & set(ELSEWHERE)
    for name, (file, _) in ELSEWHERE.items():
        assert name in (Path(__file__).parent / "methods" / file).read_text(), name


def test_every_rulebook_has_a_row_or_a_reason() -> None:
    covered = {row.rules.name for row in ROWS if row.rules is not None}
    assert covered | set(BOOKS_ELSEWHERE) == set(rules.COMPOSITES) and not covered & set(BOOKS_ELSEWHERE)


def test_a_method_without_a_row_is_found() -> None:
    """A part of another method is no method that is asked, nor is a rise along a path one along its own."""
    methods = public_methods()
    assert asked_by(row("guided_grad_cam"), methods) == {"guided_grad_cam"}
    assert asked_by(row("idgi"), methods) == {"integrated_gradients", "idgi"}
    assert "guided" in methods and "guided" not in set().union(*(asked_by(row, methods) for row in ROWS[-3:]))


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
