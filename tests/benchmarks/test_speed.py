"""Time and memory of each method, as ratios to one plain forward and backward pass of the same model and batch."""

from typing import Any

import pytest

from .measure import MODELS, alternating, functions, peak_memory

TIME = {
    "gradient": 1.05,
    "guided_backprop": 1.15,
    "deconvnet": 1.15,
    "grad_cam": 0.65,
}
MEMORY = 1.1


@pytest.mark.parametrize("model", MODELS)
def test_time(model: str, benchmark: Any) -> None:
    candidates = functions(model)
    ratios = benchmark.pedantic(alternating, args=(candidates,), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{model}, time / plain:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    assert {name: ratios[name] for name in TIME if ratios[name] > TIME[name]} == {}


@pytest.mark.parametrize("model", MODELS)
def test_peak_memory(model: str, benchmark: Any) -> None:
    names = ("plain", *TIME)
    peaks = benchmark.pedantic(lambda: {name: peak_memory(model, name) for name in names}, rounds=1)
    ratios = {name: peaks[name] / peaks["plain"] for name in names}
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{model}, peak memory / plain:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    assert {name: ratio for name, ratio in ratios.items() if ratio > MEMORY} == {}
