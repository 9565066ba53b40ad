"""Methods as functions of arrays; `test_quantus_live.py` has them inside Quantus."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.metrics import as_quantus
from funcattr.testing.seeding import settle


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


INPUTS, TARGETS = np.random.default_rng(0).normal(size=(4, 5)), np.array([0, 2, 1, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inputs_get_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = settle(network, dtype=dtype)
    found = as_quantus(funcattr.gradient)(model, INPUTS, TARGETS)
    expected = funcattr.gradient(model, torch.tensor(INPUTS).to(dtype), torch.tensor(TARGETS))
    wide = np.float64 if dtype == torch.float64 else np.float32  # numpy has no bfloat16
    assert isinstance(found, np.ndarray) and found.dtype == wide
    np.testing.assert_allclose(found, expected.to(torch.float64).numpy(), rtol=1e-6)


def test_the_models_flags_stay_and_so_do_the_inputs() -> None:
    model, inputs = settle(network).train(), INPUTS.copy()
    next(model.parameters()).requires_grad_(False)
    before = [(p.requires_grad, p._version) for p in model.parameters()]
    with torch.enable_grad():
        as_quantus(funcattr.guided_backprop)(model, inputs, TARGETS)
    assert before == [(p.requires_grad, p._version) for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters()) and all(m.training for m in model.modules())
    assert (inputs == INPUTS).all()


def test_views_that_are_read_only_or_reversed_are_taken_without_a_warning() -> None:
    model = settle(network)
    read_only = np.broadcast_to(INPUTS[:1], (4, 5))
    expected = as_quantus(funcattr.gradient)(model, read_only.copy(), TARGETS)
    np.testing.assert_allclose(as_quantus(funcattr.gradient)(model, read_only, TARGETS), expected)
    turned = as_quantus(funcattr.gradient)(model, INPUTS[::-1], TARGETS[::-1])
    np.testing.assert_allclose(turned, as_quantus(funcattr.gradient)(model, INPUTS, TARGETS)[::-1])


def test_options_of_the_call_come_on_top_and_the_device_is_left_out() -> None:
    seen: list[Any] = []

    def method(model: Any, x: Tensor, target: Any, **options: Any) -> Tensor:
        seen.append((options, target))
        return x

    as_quantus(method, steps=3, rule="a")(settle(network), INPUTS, None, steps=5, device="cuda")
    assert seen == [({"steps": 5, "rule": "a"}, None)]


def test_it_can_be_pickled() -> None:
    explain, model = as_quantus(funcattr.integrated_gradients, steps=4), settle(network)
    again = pickle.loads(pickle.dumps(explain))
    np.testing.assert_allclose(again(model, INPUTS, TARGETS), explain(model, INPUTS, TARGETS))


def test_what_is_not_of_pytorch_and_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^as_quantus\(...\)\(model=...\): expected a module of PyTorch, got str"):
        as_quantus(funcattr.gradient)("model", INPUTS, TARGETS)
    with pytest.raises(TypeError, match=r"^as_quantus\(method=...\): expected one tensor of attributions, got tuple"):
        as_quantus(lambda model, x, target: (x, x))(settle(network), INPUTS, TARGETS)
