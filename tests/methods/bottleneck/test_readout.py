"""The readout bottleneck: its network by the formula, training against a plain loop, checkpoints, files, errors."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import funcattr
from funcattr import readout_iba
from funcattr.bottleneck import FeatureStatistics, ReadoutBottleneck, train_readout
from funcattr.sampling.draws import normal
from funcattr.testing.seeding import settle, uniform

from ... import bottleneck_references as references
from .test_bottleneck import of_reference, statistics

LAYERS = {"0": (3, 6, 6), "2": (4, 3, 3), "5": (5,)}


def net() -> Any:
    convolutions = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()
    return settle(lambda: nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(36, 5)))


def readout(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> ReadoutBottleneck:
    of = {name: statistics(*shape, layer=name) for name, shape in LAYERS.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ReadoutBottleneck(of["0"], [of["2"], of["0"], of["5"]]).to(dtype)


def trained(seed: int = 0) -> ReadoutBottleneck:
    """Not the identity any more."""
    found = readout(seed)
    with torch.no_grad():
        found.last.weight.mul_(1e5)
        found.last.bias.sub_(4)  # type: ignore[union-attr]
    return found


X, TARGET = uniform(4, 2, 6, 6), torch.tensor([0, 1, 2, 3])


def values(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {name: references.from_layer(model, x, name)[0] for name in LAYERS}


def alpha(network: ReadoutBottleneck, found: dict[str, Tensor]) -> Tensor:
    """By the formula."""
    parts = []
    for name in ("2", "0", "5"):
        given = statistics(*LAYERS[name])
        part = (found[name] - given.mean) / given.std.clamp(min=0.01)
        part = part[..., None, None].expand(-1, -1, 6, 6) if part.ndim == 2 else part
        parts.append(F.interpolate(part, (6, 6), mode="bilinear", align_corners=True))
    hidden = torch.cat(parts, 1)
    for layer in (network.first, network.second):
        hidden = torch.relu(torch.einsum("oi,nihw->nohw", layer.weight[:, :, 0, 0], hidden) + bias(layer))
    last = torch.einsum("oi,nihw->nohw", network.last.weight[:, :, 0, 0], hidden) + bias(network.last)
    return torch.minimum(torch.maximum(last, torch.tensor(-5.0)), torch.tensor(5.0))


def bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias[:, None, None]


def test_starts_as_the_identity() -> None:
    network = readout()
    assert [c.weight.shape[:2] for c in (network.first, network.second, network.last)] == [(6, 12), (6, 6), (3, 6)]
    found = network(values(net(), X))
    assert found.shape == (4, 3, 6, 6)
    assert (found > 4.9).all()


def test_equals_the_formula() -> None:
    network, model = trained(), net()
    expected = alpha(network, values(model, X))
    assert 0.1 < (expected.abs() < 5).double().mean() < 1  # some are clamped, some not
    torch.testing.assert_close(network(values(model, X)), expected)
    given = of_reference(statistics(*LAYERS["0"]))
    capacity = readout_iba(model, X, readout=network, per="element")
    for n in range(4):
        keep = references.smoothed(torch.sigmoid(expected[n]), 1.0)
        nats = references.divergence(values(model, X)["0"][n], keep, given)
        torch.testing.assert_close(capacity[n], nats / math.log(2))
    bits = readout_iba(model, X, readout=network)
    assert not bits.requires_grad
    torch.testing.assert_close(bits, capacity.sum(1, keepdim=True))


def test_one_forward_pass_that_ends_at_the_last_site() -> None:
    calls = list[int]()

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return x

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("more than the readouts runs")

    readout_iba(nn.Sequential(*net(), Fails()), X, readout=trained())
    model = nn.Sequential(*net())
    model[1] = nn.Sequential(Counted(), nn.ReLU())
    readout_iba(model, X, readout=trained())
    assert calls == [4]


def test_one_image_is_as_in_a_batch_and_compiles(fresh_dynamo: None) -> None:
    fm, network = funcattr.functionalize(net()), trained()
    bits = readout_iba(fm, X, readout=network)
    for n in range(4):
        torch.testing.assert_close(readout_iba(fm, X[n : n + 1], readout=network)[0], bits[n])
    compiled: Any = torch.compile(lambda x: readout_iba(fm, x, readout=network), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), bits)
    mapped = torch.func.vmap(lambda x: readout_iba(fm, x[None], readout=network)[0])(X)
    torch.testing.assert_close(mapped, bits)


# --- training --------------------------------------------------------------------------------------------------------

BATCHES = [(X[:2], TARGET[:2]), (X[2:], TARGET[2:])]


def by_hand(network: ReadoutBottleneck, epochs: int, beta: float, lr: float) -> list[list[float]]:
    """A plain loop: two forward passes, the second with the value replaced by a hook."""
    model, given = net(), of_reference(statistics(*LAYERS["0"]))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    history = []
    for epoch in range(epochs):
        sums = [0.0, 0.0]
        for i, (x, target) in enumerate(BATCHES):
            found = values(model, x)
            a = alpha(network, found)
            keep = torch.stack([references.smoothed(torch.sigmoid(each), 1.0) for each in a])
            noise = normal(torch.arange(2 * i, 2 * i + 2), LAYERS["0"], x, 0, epoch)
            z = (keep * found["0"] + (1 - keep) * (given.std * noise + given.mean)) * given.active
            loss = F.cross_entropy(references.from_layer(model, x, "0")[1](z), target)
            capacity = references.divergence(found["0"], keep, given).mean()
            optimizer.zero_grad()
            (loss + beta * capacity).backward(inputs=list(network.parameters()))
            optimizer.step()
            sums = [sums[0] + loss.item() / 2, sums[1] + capacity.item() / math.log(2) / 2]
        history.append(sums)
    return history


def test_trains_as_a_plain_loop_does() -> None:
    ours, theirs = readout(), readout()
    history = train_readout(net(), BATCHES, ours, epochs=3, lr=1e-2, beta=2.0)
    expected = torch.tensor(by_hand(theirs, 3, 2.0, 1e-2))
    torch.testing.assert_close(torch.stack(history, 1), expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(ours.first.weight, readout().first.weight)


def test_a_model_that_writes_into_its_input_leaves_the_batches_alone() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.mul_(2))

    of = {f"net.{name}": statistics(*shape, layer=f"net.{name}") for name, shape in LAYERS.items()}
    network = ReadoutBottleneck(of["net.0"], [of["net.2"]]).double()
    before = [x.clone() for x, _ in BATCHES]
    train_readout(Writes().eval(), BATCHES, network, epochs=2)
    assert all(torch.equal(x, b) for (x, _), b in zip(BATCHES, before, strict=True))


def test_a_checkpoint_takes_the_learning_rate_of_now(tmp_path: Path) -> None:
    train_readout(net(), BATCHES, readout(), epochs=1, lr=1e-2, checkpoint=tmp_path / "training.pt")
    resumed = readout()
    train_readout(net(), BATCHES, resumed, epochs=1, checkpoint=tmp_path / "training.pt")
    before = [p.detach().clone() for p in resumed.parameters()]
    train_readout(net(), BATCHES, resumed, epochs=3, lr=0.0, checkpoint=tmp_path / "training.pt")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), before, strict=True))


def test_leaves_the_model_alone_and_no_gradients() -> None:
    model, network = net(), readout()
    state, before = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    train_readout(model, BATCHES, network, epochs=1, lr=1e-2)
    assert all(p.grad is None for p in [*model.parameters(), *network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_stopped_training_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole, stopped, path = readout(), readout(), tmp_path / "training.pt"
    expected = train_readout(net(), BATCHES, whole, epochs=3, lr=1e-2)
    train_readout(net(), BATCHES, stopped, epochs=2, lr=1e-2, checkpoint=path)
    resumed = readout(seed=5)  # another process, another start
    history = train_readout(net(), BATCHES, resumed, epochs=3, lr=1e-2, checkpoint=path)
    torch.testing.assert_close(history.loss, expected.loss)
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    again = train_readout(net(), BATCHES, readout(), epochs=3, lr=1e-2, checkpoint=path)  # nothing is left to do
    torch.testing.assert_close(again.loss, expected.loss)


def test_takes_a_loss_of_ones_own() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean(1)

    batches = [(x, uniform(2, 5, seed=i)) for i, (x, _) in enumerate(BATCHES)]
    history = train_readout(net(), batches, readout(), loss=loss, beta=0.0, epochs=30, lr=1e-2)
    assert history.loss[-1] < history.loss[0]


def test_saved_and_loaded(tmp_path: Path) -> None:
    network, path = trained(), tmp_path / "readout.safetensors"
    network.save(path)
    state = torch.random.get_rng_state()
    loaded = ReadoutBottleneck.load(path)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(readout_iba(net(), X, readout=loaded), readout_iba(net(), X, readout=network))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no readout bottleneck"):
        ReadoutBottleneck.load(tmp_path / "other.safetensors")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_named_errors_of_the_network() -> None:
    image, vector = statistics(3, 6, 6), statistics(5)
    with pytest.raises(ValueError, match=r"\(statistics=...\): expected a layer of shape \[C, H, W\]"):
        ReadoutBottleneck(vector, [image])
    with pytest.raises(ValueError, match=r"\(readouts=...\): expected shapes"):
        ReadoutBottleneck(image, [])
    with pytest.raises(ValueError, match=r"\(readouts=...\): expected shapes .* got \[\[4, 5\]\]"):
        ReadoutBottleneck(image, [statistics(4, 5)])
    with pytest.raises(TypeError, match="expected FeatureStatistics, got int"):
        ReadoutBottleneck(image, [3])  # type: ignore[list-item]


def test_named_errors() -> None:
    with pytest.raises(ValueError, match="a readout explains the answer as a whole"):
        readout_iba(net(), X, 3, readout=readout())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(per='bits'\): expected 'position' or 'element'"):
        readout_iba(net(), X, readout=readout(), per="bits")  # type: ignore[arg-type]
    with pytest.raises(funcattr.UnknownSiteError, match="readout_iba: no such site '5'"):
        readout_iba(net()[:5], X, readout=readout())
    with pytest.raises(ValueError, match="values of shape"):
        readout_iba(
            net()[:3], uniform(2, 2, 5, 5), readout=ReadoutBottleneck(statistics(3, 6, 6), [statistics(3, 6, 6)])
        )


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "epoch 1 has none"),
        ([X], {}, r"expected pairs \(inputs, target\)"),
        (BATCHES, {"loss": lambda output, target: output.mean()}, r"one number for each of the 2 copies"),
        (BATCHES, {"epochs": 0}, r"\(epochs=0\): expected at least 1"),
    ],
)
def test_named_errors_of_the_training(batches: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_readout(net(), batches, readout(), **options)


def test_an_iterator_is_used_up() -> None:
    with pytest.raises(ValueError, match=r"epoch 2 has none\. An iterator is used up by one"):
        train_readout(net(), iter(BATCHES), readout(), epochs=2)


def test_the_reference_tells_networks_apart() -> None:
    found = values(net(), X)
    assert not torch.allclose(alpha(trained(1), found), alpha(trained(2), found))
    assert isinstance(statistics(3), FeatureStatistics)


def test_training_behind_a_relu_cuts_noise_at_zero() -> None:
    """The output is the layer, and the loss the size of what is below zero."""
    model = settle(lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten()), dtype=torch.float32)
    data = uniform(1000, 2, 4, 4, dtype=torch.float32)
    layer, answer = funcattr.bottleneck.feature_statistics(model, data, layer=["1", "2"]).values()

    def below_zero(output: Tensor, target: Tensor) -> Tensor:
        return output.clamp(max=0).abs().sum(1)

    losses = []
    for relu in (False, True):
        readout = funcattr.bottleneck.ReadoutBottleneck(layer, [layer, answer])
        batches = [(data[:20], torch.zeros(20))]
        history = funcattr.bottleneck.train_readout(model, batches, readout, epochs=1, relu=relu, loss=below_zero)
        losses.append(history.loss.item())
    assert losses[0] > 0
    assert losses[1] == 0
