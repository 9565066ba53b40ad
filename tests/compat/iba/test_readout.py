"""The readout as a module of the live model: the numbers of the package's, and training in a loop of one's own."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import funcattr
from funcattr.compat.iba import IBAReadout

from .test_bottleneck import X, batches, data, net, state


def ready(model: Any) -> IBAReadout:
    iba = IBAReadout(model.relu, [model.conv2, model.head], model)
    torch.manual_seed(0)
    iba.estimate(model, batches())
    return iba


def test_the_map_is_that_of_the_packages_readout() -> None:
    model = net()
    iba = ready(model)
    assert iba.readout is not None
    with torch.no_grad():  # no longer the identity
        iba.readout.last.weight.mul_(1000)
    names = ["relu", "conv2", "head"]
    layer, *read = funcattr.bottleneck.feature_statistics(model, data(), layer=names).values()
    expected = funcattr.bottleneck.ReadoutBottleneck(layer, read).double()
    expected.load_state_dict(iba.readout.state_dict())
    bits = funcattr.readout_iba(model, X, readout=expected, per="element")[0]
    np.testing.assert_allclose(iba.analyze(X, model, mode="capacity"), bits.detach().numpy(), rtol=1e-6)
    assert iba.analyze(X, model).shape == (6, 6)


def test_trained_in_a_loop_of_ones_own() -> None:
    model = net()
    before = state(model)
    iba = ready(model)
    assert iba.readout is not None
    assert {name.split(".")[0] for name, _ in iba.named_parameters()} == {"alpha", "readout"}
    optimizer = torch.optim.Adam(iba.readout.parameters(), lr=1e-2)
    losses = []
    for images, _ in list(batches(300)) * 2:
        with iba.restrict_flow():
            output = model(images)
            loss = F.cross_entropy(output, torch.zeros(len(images)).long()) + iba.capacity().mean()
        optimizer.zero_grad()
        loss.backward(inputs=list(iba.readout.parameters()))
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and math.isfinite(losses[-1])
    assert state(model) == before


def test_named_errors() -> None:
    model = net()
    iba = IBAReadout(model.relu, [model.head], model)
    with pytest.raises(funcattr.FuncattrError, match="Call estimate"):
        iba.analyze(X, model)
    with pytest.warns(UserWarning, match="beta are without effect"):
        ready(model).analyze(X, model, beta=3)
    with pytest.raises(ValueError, match="mode='map'"):
        ready(model).analyze(X, model, mode="map")  # type: ignore[arg-type]
