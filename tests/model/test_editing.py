"""Edits inside of checkpointed parts, which autograd runs again: right, or refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr import UnsupportedOperationError
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal

X = uniform(2, 4)


class Net(nn.Module):
    """A part that may be checkpointed, whose derivative depends on what an edit makes of its value. [N, 4] -> [N, 3]"""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)
        self.checkpointed = checkpointed

    def part(self, h: Tensor) -> Tensor:
        return funcattr.site(self.act(h), "inside").square()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(checkpoint(self.part, h, use_reentrant=False) if self.checkpointed else self.part(h))


def edited(checkpointed: bool, site: str) -> funcattr.FunctionalModel:
    return funcattr.edit(settle(lambda: Net(checkpointed)), {site: lambda value: 2 * value})


def by_autograd(model: Callable[[Tensor], Tensor]) -> Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 1].sum(), x)[0]


@pytest.mark.parametrize("site", ["act", "act@input", "inside"])
def test_the_users_own_derivative_of_an_edit_in_a_checkpointed_part_is_refused(site: str) -> None:
    expected = by_autograd(edited(False, site))
    with pytest.raises(UnsupportedOperationError, match=f"^edit: '{site}' lies in a checkpointed part"):
        by_autograd(edited(True, site))
    with torch.autograd.graph.save_on_cpu(), pytest.raises(UnsupportedOperationError, match="in a checkpointed part"):
        by_autograd(edited(True, site))
    assert_equal(funcattr.gradient(edited(True, site), X, 1), expected)
    with torch.no_grad():
        assert_equal(edited(True, site)(X), edited(False, site)(X))


@pytest.mark.parametrize("site", ["first", "last"])
def test_edits_beside_a_checkpointed_part_are_right(site: str) -> None:
    assert_equal(by_autograd(edited(True, site)), by_autograd(edited(False, site)))


def test_what_packs_saved_tensors_around_the_call_runs_nothing_again() -> None:
    with torch.autograd.graph.save_on_cpu():
        found = by_autograd(edited(False, "act"))
    assert_equal(found, by_autograd(edited(False, "act")))


def test_models_that_offload_what_they_save_run_nothing_again() -> None:
    class Offloads(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autograd.graph.save_on_cpu():
                return super().forward(x)

    model = funcattr.edit(settle(lambda: Offloads(False)), {"act": lambda value: 2 * value})
    assert_equal(by_autograd(model), by_autograd(edited(False, "act")))


@pytest.mark.parametrize("method", ["integrated_gradients", "expected_gradients", "deep_lift"])
def test_methods_at_a_site_in_a_checkpointed_part_go_by_the_tape(method: str) -> None:
    whole, parted = (settle(lambda c=c: Net(c)) for c in (False, True))
    for site in ("act", "inside"):
        run = getattr(funcattr, method)
        assert_equal(run(parted, X, 1, layer=site), run(whole, X, 1, layer=site))


def test_forward_passes_of_edits_in_a_checkpointed_part_are_taken() -> None:
    assert_equal(edited(True, "act")(X), edited(False, "act")(X))
    found = [funcattr.feature_ablation(edited(checkpointed, "act"), X, 1) for checkpointed in (True, False)]
    assert_equal(*found)


def test_a_bound_parameter_in_a_checkpointed_part_that_is_edited_is_refused() -> None:
    bound = torch.ones(5, dtype=X.dtype, requires_grad=True)
    model = edited(True, "act").bind({"first.bias": bound})
    with pytest.raises(UnsupportedOperationError, match="in a checkpointed part"):
        model(X)
