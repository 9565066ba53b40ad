"""Every method inside transforms, equal to plain calls: design section 4, points 4, 6 and 7 (5: test_composition)."""

from functools import partial

import pytest
import torch
from hypothesis import strategies as st

import funcattr
from funcattr.testing import properties
from funcattr.testing.networks import Smooth, draw_comparable

from .contract import ROWS, Row
from .drawn import on_drawn_networks
from .sweeps import sweep

every_method = pytest.mark.parametrize("row", ROWS, ids=repr)
# Along one drawn direction; with `--long` entry by entry too.
each_way = pytest.mark.parametrize("differences", sweep(("directional", "whole"), quick=["directional"]))
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the result is the plain gradient.*"),  # some nets have no relu
    pytest.mark.filterwarnings("ignore:.*the relevance that was seeded.*"),  # in some all units are dead
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented.*"),
]


@on_drawn_networks(data=st.data())
def test_batch_equals_loop_and_vmap_over_examples(row: Row, data: st.DataObject) -> None:
    net = draw_comparable(data, mapped=True, write_views=False)
    properties.is_each_example_alone(row.at(net.layer), net.model, net.x, 1)


@on_drawn_networks(data=st.data())
def test_vmap_over_targets_equals_loop(row: Row, data: st.DataObject) -> None:
    net = draw_comparable(data, mapped=True, write_views=False)
    classes = torch.arange(net.output_shape[1], device=net.x.device)
    properties.maps_over_targets(row.at(net.layer), net.model, net.x, classes)


@on_drawn_networks(data=st.data())
def test_vmap_over_noise_equals_loop(row: Row, data: st.DataObject) -> None:
    net = draw_comparable(data, mapped=True, write_views=False)
    properties.maps_over_noise(row.at(net.layer), net.model, net.x, 0)


@on_drawn_networks(data=st.data())
def test_vmap_over_stacked_parameters_equals_loop(row: Row, data: st.DataObject) -> None:
    net = draw_comparable(data, mapped=True, write_views=False)
    properties.maps_over_parameters(row.at(net.layer), net.model, net.x, 0)


@every_method
@each_way
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp loads its decompositions
def test_derivative_equals_finite_differences(row: Row, differences: str) -> None:
    model, x = Smooth().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    target = torch.tensor([1, 0])
    properties.has_derivative(row.at(Smooth.layer), model, x, target, whole=differences == "whole")


@every_method
@each_way
def test_derivative_by_bound_parameters_equals_finite_differences(row: Row, differences: str) -> None:
    model, x = Smooth().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    name = "blocks.second.weight" if row.reads_target else "blocks.first.weight"  # behind the layer, and before it
    whole = differences == "whole"
    properties.has_derivative_by_parameters(row.at(Smooth.layer), model, x, 1, name, whole=whole)


def test_eight_threads_on_one_model_equal_serial() -> None:
    model = Smooth().double().eval()
    fm = funcattr.functionalize(model)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    jobs = [partial(row, model if i % 2 else fm, x, 1, Smooth.layer) for i, row in enumerate(ROWS)]
    properties.runs_in_threads(jobs, threads=8)
