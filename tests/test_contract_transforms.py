"""Every method inside transforms, equal to plain calls: design section 4, points 4, 6 and 7 (5: test_composition)."""

import threading

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import funcattr

from .contract import ROWS, Row, assert_equal, loop
from .drawn import Smooth, draw, on_drawn_networks
from .sweeps import sweep

every_method = pytest.mark.parametrize("row", ROWS, ids=repr)
# Along one drawn direction; with `--long` entry by entry too.
each_way = pytest.mark.parametrize("differences", sweep(("directional", "whole"), quick=["directional"]))
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the result is the plain gradient.*"),  # some nets have no relu
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented.*"),
]


@on_drawn_networks(data=st.data())
def test_batch_equals_loop_and_vmap_over_examples(row: Row, data: st.DataObject) -> None:
    net = draw(data, mapped=True, write_views=False)

    def one(x: Tensor) -> Tensor:
        return row(net.model, x[None], 1, net.layer)[0]

    batch = row(net.model, net.x, 1, net.layer)
    assert_equal(loop(one, net.x), batch)
    assert_equal(torch.vmap(one)(net.x), batch)


@on_drawn_networks(data=st.data())
def test_vmap_over_targets_equals_loop(row: Row, data: st.DataObject) -> None:
    net = draw(data, mapped=True, write_views=False)
    classes = torch.arange(net.output_shape[1], device=net.x.device)
    assert_equal(
        torch.vmap(lambda t: row(net.model, net.x, t, net.layer))(classes),
        loop(lambda t: row(net.model, net.x, t, net.layer), classes),
    )


@on_drawn_networks(data=st.data())
def test_vmap_over_noise_equals_loop(row: Row, data: st.DataObject) -> None:
    net = draw(data, mapped=True, write_views=False)
    noise = 0.1 * torch.randn(3, *net.x.shape, dtype=net.x.dtype, generator=torch.Generator().manual_seed(0)).to(net.x)

    def noisy(e: Tensor) -> Tensor:
        return row(net.model, net.x + e, 0, net.layer)

    assert_equal(torch.vmap(noisy)(noise), loop(noisy, noise))


@on_drawn_networks(data=st.data())
def test_vmap_over_stacked_parameters_equals_loop(row: Row, data: st.DataObject) -> None:
    net = draw(data, mapped=True, write_views=False)
    fm = funcattr.functionalize(net.model)
    stacked = {name: torch.stack([p.detach(), 0.7 * p.detach()]) for name, p in fm.params.items()}
    if not stacked:
        return

    def member(params: dict[str, Tensor]) -> Tensor:
        return row(fm.bind(params), net.x, 0, net.layer)

    assert_equal(torch.vmap(member)(stacked), loop(member, stacked))


@every_method
@each_way
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp loads its decompositions
def test_derivative_equals_finite_differences(row: Row, differences: str) -> None:
    model = Smooth().double().eval()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)

    def attribution(x: Tensor) -> Tensor:
        return row(model, x, torch.tensor([1, 0]), Smooth.layer)

    assert attribution(x).requires_grad
    assert torch.autograd.gradcheck(attribution, (x,), eps=1e-6, atol=1e-6, fast_mode=differences == "directional")
    direction = torch.randn_like(x)
    forward = torch.func.jvp(attribution, (x.detach(),), (direction,))[1]
    assert forward.abs().max() > 0
    step = 1e-6
    difference = (attribution(x + step * direction) - attribution(x - step * direction)).detach() / (2 * step)
    assert_equal(forward, difference, tolerance=1e-6)


@every_method
@each_way
def test_derivative_by_bound_parameters_equals_finite_differences(row: Row, differences: str) -> None:
    fm = funcattr.functionalize(Smooth().double().eval())
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    weight = fm.params["blocks.second.weight"].detach().clone().requires_grad_()

    def attribution(weight: Tensor) -> Tensor:
        return row(fm.bind({"blocks.second.weight": weight}), x, 1, Smooth.layer)

    assert torch.autograd.gradcheck(attribution, (weight,), eps=1e-6, atol=1e-6, fast_mode=differences == "directional")


def test_eight_threads_on_one_model_equal_serial() -> None:
    model = Smooth().double().eval()
    fm = funcattr.functionalize(model)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    jobs = [(row, model if i % 2 else fm) for i, row in enumerate(ROWS)]
    serial = [row(m, x, 1, Smooth.layer) for row, m in jobs]
    results: dict[tuple[int, int], Tensor] = {}

    def work(thread: int) -> None:
        for k in range(len(jobs)):
            i = (thread + k) % len(jobs)
            results[thread, i] = jobs[i][0](jobs[i][1], x, 1, Smooth.layer)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 8 * len(jobs)
    for (_, i), result in results.items():
        assert_equal(result, serial[i])
