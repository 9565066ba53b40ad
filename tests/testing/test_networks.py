"""Drawn networks are valid, reproducible, differentiable, and every block and spelling is reached."""

import time

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcattr.testing.blocks import ACTIVATIONS, RELUS, RELUS_IN_PLACE, ROUND_TRIPS, SLICES, build
from funcattr.testing.networks import KINDS, Block, Description, Network, networks, targets

from ..sweeps import sweep

relaxed = settings(deadline=None)  # the machine may be busy
any_network = st.integers(1, 3).flatmap(networks)


@relaxed
@given(net=any_network)
def test_networks_run_and_give_their_shape(net: Network) -> None:
    before = net.x.clone()
    out = net.model(net.x)
    assert out.shape == net.output_shape
    assert out.isfinite().all()
    assert torch.equal(net.x, before)
    assert torch.equal(net.model(net.x), out)
    assert net.layer in dict(net.model.named_modules())


@relaxed
@given(net=any_network)
def test_repr_rebuilds_the_network(net: Network) -> None:
    names = {"Network": Network, "Description": Description, "Block": Block, "torch": torch}
    again = eval(repr(net), names)
    assert again.description == net.description
    assert torch.equal(again.x, net.x)
    assert torch.equal(again.model(again.x), net.model(net.x))


@relaxed
@given(net=any_network)
def test_batch_equals_loop_over_examples(net: Network) -> None:
    out = net.model(net.x)
    loop = torch.cat([net.model(row.unsqueeze(0)) for row in net.x])
    torch.testing.assert_close(loop, out, rtol=1e-9, atol=1e-9)


@relaxed
@given(net=any_network)
def test_output_has_a_gradient_and_the_layer_too(net: Network) -> None:
    seen: list[Tensor] = []

    def keep(_: object, inputs: object, out: Tensor) -> Tensor:
        seen.append(out)
        return out.clone()  # for the next block may overwrite it

    net.model.get_submodule(net.layer).register_forward_hook(keep)
    x = net.x.clone().requires_grad_()
    out = net.model(x)
    gradients = torch.autograd.grad(out.sum(), [x, *seen])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert len(seen) == 1
    assert gradients[0].shape == x.shape


@relaxed
@given(net=networks(only_relu=True, bias=False))
def test_networks_of_relus_without_bias_are_homogeneous(net: Network) -> None:
    torch.testing.assert_close(net.model(net.x * 3), net.model(net.x) * 3, rtol=1e-9, atol=1e-9)


@relaxed
@given(net=networks(only_relu=True))
def test_networks_of_relus_are_piecewise_linear(net: Network) -> None:
    assert (_curvature(net) == 0).all()


def test_curvature_sees_a_smooth_nonlinearity() -> None:
    net = find(networks(kinds=["activation"], max_blocks=1), lambda net: bool(_curvature(net).any()))
    assert net.kinds == {"activation"}


def _curvature(net: Network) -> Tensor:
    """Return the second derivative of the summed output along ones."""
    x = net.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net.model(x).sum(), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x)
    (second,) = torch.autograd.grad(gradient.sum(), x, allow_unused=True, materialize_grads=True)
    return second


@relaxed
@given(net=networks(write_views=False, kinds=["slice", "relu", "arithmetic", "conv"]))
def test_without_write_views_no_slice_is_overwritten(net: Network) -> None:
    for before, after in zip(net.description.blocks, net.description.blocks[1:], strict=False):
        if before.kind == "slice":
            assert after.args.get("how") not in {*RELUS_IN_PLACE, "mul_", "add_", "*="}


@relaxed
@given(net=networks(dtype=torch.float32, kinds=["conv"], max_blocks=2))
def test_options_are_respected(net: Network) -> None:
    assert net.x.dtype == net.model(net.x).dtype == torch.float32
    assert net.kinds == {"conv"}
    assert len(net.description.blocks) <= 2


@relaxed
@given(data=st.data(), shape=st.tuples(st.integers(1, 3), st.integers(2, 4)))
def test_targets_are_classes(data: st.DataObject, shape: tuple[int, int]) -> None:
    target = data.draw(targets(shape))
    classes = torch.as_tensor(target)
    assert classes.dtype == torch.long
    assert classes.shape in ((), (shape[0],))
    assert (classes >= 0).all() and (classes < shape[1]).all()


def _collect(strategy: st.SearchStrategy[Network], count: int) -> list[Network]:
    nets: list[Network] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(net=strategy)
    def collect(net: Network) -> None:
        nets.append(net)

    collect()
    return nets


@pytest.mark.parametrize("spatial", sweep([1, 2, 3], quick=["2"]))
def test_every_kind_is_reached(spatial: int) -> None:
    nets = _collect(networks(spatial), 400)
    assert frozenset[str]().union(*(net.kinds for net in nets)) == set(KINDS)
    assert {net.description.head.args["how"] for net in nets} == {"flat", "mean", "mlp", "conv"}
    assert {len(net.description.blocks) for net in nets} == {1, 2, 3, 4, 5, 6}


SPELLINGS: dict[tuple[str, str], set[object]] = {
    ("relu", "how"): {*RELUS, *RELUS_IN_PLACE},
    ("activation", "how"): set(ACTIVATIONS),
    ("round_trip", "how"): set(ROUND_TRIPS),
    ("slice", "how"): set(SLICES),
    ("residual", "how"): {"+", "+=", "torch.add", "add_"},
    ("arithmetic", "how"): {"*", "/", "mul_", "add_", "*="},
    ("gate", "how"): {"*", "torch.mul"},
    ("norm", "kind"): {"batch", "group", "layer", "instance"},
    ("pool", "kind"): {"max", "avg", "adaptive_max", "adaptive_avg"},
    ("pool", "functional"): {True, False},
    ("attention", "fused"): {True, False},
    ("reused", "inplace"): {True, False},
    ("concat", "keep"): {True, False},
    ("conv", "padding_mode"): {"zeros", "replicate", "circular", "reflect"},
    ("conv", "padding"): {0, 1, 2, "same"},
    ("conv", "stride"): {1, 2},
    ("conv", "dilation"): {1, 2},
    ("conv", "bias"): {True, False},
}


@pytest.mark.parametrize(
    ("kind", "argument"),
    sweep(SPELLINGS, quick=("relu-how", "slice-how", "norm-kind")),
)
def test_every_spelling_is_reached(kind: str, argument: str) -> None:
    nets = _collect(networks(kinds=["conv", kind]), 300)
    blocks = [block for net in nets for block in net.description.blocks if block.kind == kind]
    assert {block.args[argument] for block in blocks} == SPELLINGS[kind, argument]


@pytest.mark.parametrize("kind", sweep(KINDS, quick=("norm", "attention", "pool")))
def test_failures_shrink_to_at_most_two_blocks(kind: str) -> None:
    net = find(
        networks(),
        lambda net: kind in net.kinds,
        settings=settings(max_examples=2000, database=None, derandomize=True, deadline=None),
    )
    assert len(net.description.blocks) <= 2
    assert net.description.shape[0] == 1


def test_examples_are_fast() -> None:
    start = time.perf_counter()
    nets = _collect(networks(), 100)
    for net in nets:
        net.model(net.x)
    per_example = (time.perf_counter() - start) / len(nets)
    assert per_example < 5 * 0.02  # 20 ms, with slack for a busy machine


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no such kind: \['lstm'\]"):
        find(networks(kinds=["lstm"]), lambda net: True)


def test_block_prints_as_it_is_written() -> None:
    assert repr(Block("relu", how="x.relu()")) == "Block('relu', how='x.relu()')"
    assert isinstance(build(Block("nothing", how="dropout")), torch.nn.Dropout)
