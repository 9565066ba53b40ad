"""Training through relevance: a loss on it has the derivative that finite differences give, and a step lowers it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import FunctionalModel

from .contract import assert_equal, row
from .zoo import case

# The random net explodes by alpha-beta, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives.*")

PAIRS = (("lrp_epsilon_plus", "cnn"), ("lrp_epsilon_alpha2_beta1", "resnet_basic"), ("attnlrp", "vit"))
Params = dict[str, Tensor]


def _loss(method: str, model: str) -> tuple[Callable[[FunctionalModel], Tensor], FunctionalModel]:
    """Cross-entropy, and the relevance that a mask says should not be there (right for the right reasons)."""
    c = case(model)
    fm, (x,), labels = funcattr.functionalize(c.build()), c.inputs(), torch.tensor([1, 2])
    outside = (torch.arange(x.shape[-1]) >= x.shape[-1] // 2).to(x)

    def loss(fm: FunctionalModel) -> Tensor:
        relevance = row(method)(fm, x, labels, c.layer)
        return F.cross_entropy(fm(x), labels) + (outside * relevance).square().mean((1, 2, 3)).sum()

    return loss, fm


@pytest.mark.parametrize(("method", "model"), PAIRS)
def test_the_gradient_of_a_loss_on_relevance_equals_finite_differences(method: str, model: str) -> None:
    loss, fm = _loss(method, model)
    params = {name: p.detach() for name, p in fm.params.items()}

    def at(params: Params) -> Tensor:
        return loss(fm.bind(params))

    gradient = torch.func.grad(at)(params)
    assert gradient.keys() == params.keys()
    for part in ("weight", "bias"):
        direction = {k: torch.randn_like(p) * k.endswith(part) for k, p in params.items()}
        step = 1e-7
        ahead, behind = ({k: p + s * direction[k] for k, p in params.items()} for s in (step, -step))
        difference = (at(ahead) - at(behind)) / (2 * step)
        derivative = torch.stack([(gradient[k] * direction[k]).sum() for k in params]).sum()
        assert derivative.abs() > 1e-3
        assert_equal(derivative, difference, tolerance=1e-5)


@pytest.mark.parametrize(("method", "model"), PAIRS)
def test_an_optimisers_step_lowers_the_loss(method: str, model: str) -> None:
    loss, fm = _loss(method, model)
    params = {name: p.detach().clone().requires_grad_() for name, p in fm.params.items()}
    optimiser = torch.optim.SGD(params.values(), lr=1e-4)
    before = loss(fm.bind(params))
    before.backward()
    squares = torch.stack([p.grad.square().sum() for p in params.values() if p.grad is not None]).sum()
    optimiser.step()
    after = loss(fm.bind(params))
    assert after < before
    assert_equal(before - after, 1e-4 * squares, tolerance=0.2)  # to first order
    assert all(p.grad is None for p in fm.params.values())
