"""Time and memory of each method, as ratios to one plain forward and backward pass of the same model and batch."""

from typing import Any

import pytest

from .. import zennit_peer
from .measure import MODELS, ZENNIT, alternating, beside_zennit, functions, peak_memory, ratios_with_memory_kept

TIME = {
    "gradient": 1.05,
    "guided_backprop": 1.15,
    "deconvnet": 1.15,
    "grad_cam": 0.65,
    "epsilon": 1.3,
    "epsilon_plus": 1.7,
    "excitation_backprop": 1.7,
    "epsilon_gamma_box": 2.5,
}
# On a ResNet50 much is page faults (see `ratios_with_memory_kept`). Runs differ by 0.1; z+ there is at its bound.
TIME_OF_RESNET = {**TIME, "epsilon_plus": 1.8}
TIME_WITH_PAGE_FAULTS = {
    "gradient": 1.1,
    "guided_backprop": 1.2,
    "deconvnet": 1.2,
    "grad_cam": 0.65,
    "epsilon": 1.5,
    "epsilon_plus": 2.1,
    "excitation_backprop": 1.9,
    "epsilon_gamma_box": 2.9,
}
TIME_OF_ATTENTION = {"attnlrp": 1.4}
BOUNDS = {"vgg16": TIME, "resnet50": TIME_WITH_PAGE_FAULTS}
MEMORY = {
    **dict.fromkeys(("gradient", "guided_backprop", "deconvnet", "grad_cam"), 1.1),
    **dict.fromkeys(("epsilon_plus", "excitation_backprop"), 1.3),
}
CONVOLUTIONAL = [name for name, (_, layer) in MODELS.items() if layer]


@pytest.mark.parametrize("model", MODELS)
def test_time(model: str, benchmark: Any) -> None:
    candidates = functions(model)
    ratios = benchmark.pedantic(alternating, args=(candidates,), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{model}, time / plain:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    bounds = BOUNDS.get(model, TIME_OF_ATTENTION)
    assert {name: ratios[name] for name, bound in bounds.items() if ratios[name] > bound} == {}


def test_time_with_memory_kept(benchmark: Any) -> None:
    ratios = benchmark.pedantic(ratios_with_memory_kept, args=("resnet50",), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print("\nresnet50 with memory kept, time / plain:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    assert {name: ratios[name] for name, bound in TIME_OF_RESNET.items() if ratios[name] > bound} == {}


@pytest.mark.skipif(not zennit_peer.is_installed(), reason=zennit_peer.WHY_NOT)
@pytest.mark.parametrize("model", CONVOLUTIONAL)
def test_time_beside_zennit(model: str, benchmark: Any) -> None:
    ratios = benchmark.pedantic(alternating, args=(beside_zennit(model), 3), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{model}, time / plain:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    assert all(ratios[name] < ratios[f"zennit {name}"] for name in ZENNIT)


@pytest.mark.parametrize("model", CONVOLUTIONAL)
def test_peak_memory(model: str, benchmark: Any) -> None:
    names = ("plain", *MEMORY)
    peaks = benchmark.pedantic(lambda: {name: peak_memory(model, name) for name in names}, rounds=1)
    ratios = {name: peaks[name] / peaks["plain"] for name in names}
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{model}, peak memory / plain:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    assert {name: ratios[name] for name in MEMORY if ratios[name] > MEMORY[name]} == {}
