"""Randomised layers and correlations of ranks, against plain computations."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.metrics import randomization
from funcattr.metrics.correlation import pearson, spearman
from funcattr.sampling import draws
from funcattr.testing.seeding import settle, uniform

DOUBLE = torch.float64


class Odd(nn.Module):
    """Its layers run in another order than they are registered in; a parameter is its own, a module is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(6, 3), nn.Linear(5, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.attention = nn.MultiheadAttention(6, 1, batch_first=True)
        self.unused = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).tanh().unsqueeze(1)
        return self.head(self.attention(h, h, h)[0].squeeze(1) * self.scale)


MODEL = settle(Odd, dtype=DOUBLE)
X = uniform(4, 5, seed=1)


def test_layers_come_as_they_end_with_the_last_first() -> None:
    found = randomization(funcattr.gradient, MODEL, X, 1)
    assert found.layers == ("", "head", "attention", "body")
    assert found.similarity.shape == (4, 4)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_equals_a_loop_over_changed_copies(order: Any) -> None:
    found = randomization(
        funcattr.gradient, MODEL, X, 1, order=order, similarity="pearson", absolute=False, generator=7
    )
    groups = [["scale", "unused.weight", "unused.bias"], ["head.weight", "head.bias"]]
    groups.append([name for name, _ in MODEL.named_parameters() if name.startswith("attention")])
    groups.append(["body.weight", "body.bias"])
    names = [name for name, _ in MODEL.named_parameters()]
    changed: dict[str, Tensor] = {}
    whole = funcattr.gradient(MODEL, X, 1)
    for k, group in enumerate(groups):
        changed = changed if order == "cascading" else {}
        for name in group:
            p = MODEL.get_parameter(name).detach()
            e = draws.normal(torch.tensor([0]), p.shape, p, 7, names.index(name))[0]
            changed[name] = p.mean() + p.std(correction=0) * e
        other = settle(Odd, dtype=DOUBLE)
        other.load_state_dict({**MODEL.state_dict(), **changed})
        now = funcattr.gradient(other, X, 1)
        for n in range(4):
            expected = np.corrcoef(whole[n].numpy(), now[n].numpy())[0, 1]
            torch.testing.assert_close(found.similarity[n, k].item(), float(expected), rtol=1e-9, atol=1e-9)


def test_a_method_that_does_not_look_at_the_model_stays_the_same() -> None:
    for order in ("cascading", "independent"):
        found = randomization(lambda model, x, target: x, MODEL, X, order=order).similarity
        torch.testing.assert_close(found, torch.ones_like(found))


def test_nothing_of_the_model_or_of_the_random_state_is_touched() -> None:
    before, state = {k: v.clone() for k, v in MODEL.state_dict().items()}, torch.get_rng_state()
    randomization(funcattr.gradient, MODEL, X, 1)
    assert all(torch.equal(v, before[k]) for k, v in MODEL.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_guided_backpropagation_changes_less_than_the_gradient() -> None:
    model = settle(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
        ),
        dtype=DOUBLE,
    )
    x = uniform(6, 1, 8, 8, seed=3)
    guided, plain = (
        randomization(method, model, x, 1).similarity[:, 0].mean()
        for method in (funcattr.guided_backprop, funcattr.gradient)
    )
    assert guided > plain + 0.1


class InPlace(nn.Module):
    """Normalises what it is given where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused = nn.Linear(5, 3), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.last(x.sub_(1.0).div_(0.5)).tanh())


def test_an_input_that_the_model_overwrites_stays_and_layers_without_an_effect_are_left_out() -> None:
    model, x = settle(InPlace, dtype=DOUBLE).eval(), X.clone()
    torch.nn.init.ones_(model.get_parameter("norm.weight"))
    torch.nn.init.zeros_(model.get_parameter("norm.bias"))
    found = randomization(funcattr.gradient, model, x, 1)
    assert torch.equal(x, X) and found.layers == ("last",)  # the norm's parameters have no spread


def test_compiled_code_does_not_say_which_layers_run(fresh_dynamo: None) -> None:
    with pytest.raises(Exception, match="it asks which layers run"):
        torch.compile(lambda x: randomization(funcattr.gradient, MODEL, x, 1), fullgraph=True, backend="eager")(X)


def naive_spearman(a: np.ndarray, b: np.ndarray) -> float:
    def rank(v: np.ndarray) -> np.ndarray:
        return np.array([(v < one).sum() + ((v == one).sum() - 1) / 2 for one in v])

    return float(np.corrcoef(rank(a), rank(b))[0, 1])


def test_correlations_equal_plain_ones_ties_included() -> None:
    a, b = uniform(5, 40, seed=1), uniform(5, 40, seed=2)
    a[2:4], b[3] = (5 * a[2:4]).round(), (3 * b[3]).round()
    for n in range(5):
        torch.testing.assert_close(spearman(a, b)[n].item(), naive_spearman(a[n].numpy(), b[n].numpy()))
        torch.testing.assert_close(pearson(a, b)[n].item(), float(np.corrcoef(a[n], b[n])[0, 1]))


def test_constant_rows_and_nan_have_no_correlation() -> None:
    a = uniform(3, 9, seed=1)
    flat, broken = torch.full((3, 9), 0.1, dtype=DOUBLE), a.clone()
    broken[1, 4] = torch.nan
    assert spearman(a, flat).isnan().all() and pearson(flat, a).isnan().all()
    assert spearman(a, broken).isnan().tolist() == pearson(a, broken).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "bottom"}, r"^randomization\(order='bottom'\): expected one of 'cascading', 'independent'"),
        ({"similarity": "ssim"}, r"^randomization\(similarity='ssim'\): expected one of 'spearman', 'pearson'"),
        ({"model": torch.tanh}, r"^randomization\(model=...\): expected a model with floating-point parameters"),
        ({"method": lambda *_: torch.ones(3, 2)}, r"^randomization\(method=...\): expected attributions with 4 rows"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    given = {"method": funcattr.gradient, "model": MODEL, "x": X, "target": 1, **options}
    with pytest.raises(ValueError, match=message):
        randomization(**given)
