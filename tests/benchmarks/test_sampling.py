"""Time and memory of a noise tunnel and of integrated gradients, beside the gradients that they consist of and Captum.

Memory at 1000 samples is not measured: it would take an hour. What is measured is that it does not grow with `samples`,
from one chunk to three; nothing in a chunk knows how many there are, but its numbers.
"""

from typing import Any

import pytest

from .measure import alternating, peak_memory
from .sampling import MODELS, beside_plain

BOUND = 1.05
"""Over `samples` times one plain gradient of the same chunk."""
BESIDE_CAPTUM = 1.05
GIBIBYTE = 2**30
LARGEST = 4 * GIBIBYTE
OURS = ("noise_tunnel", "vargrad", "integrated_gradients")
CHUNKS = {1: (8, 4), 8: (2, 1)}
"""Batch size to samples and chunk size."""

each_model = pytest.mark.parametrize("model", MODELS)


@each_model
@pytest.mark.parametrize("batch", CHUNKS)
def test_time(model: str, batch: int, benchmark: Any) -> None:
    samples, chunk_size = CHUNKS[batch]
    runs = beside_plain(model, batch, samples, chunk_size)
    ratios = benchmark.pedantic(alternating, args=(runs, 7), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{model}, batch {batch}, {samples} samples by {chunk_size}, time / plain:", _rounded(ratios))
    assert {name: ratios[name] for name in OURS if ratios[name] > BOUND} == {}
    for name in ("noise_tunnel", "integrated_gradients"):
        theirs = ratios.get(f"captum {name}")
        assert theirs is None or ratios[name] <= BESIDE_CAPTUM * theirs


@pytest.mark.parametrize("name", OURS)
def test_peak_memory_does_not_grow_with_samples(name: str, benchmark: Any) -> None:
    def peaks() -> dict[str, int]:
        given = {"plain, 16 images": ("plain", "16"), "16 samples": (name, "16"), "48 samples": (name, "48")}
        return {what: _peak("resnet50", *which) for what, which in given.items()}

    found = benchmark.pedantic(peaks, rounds=1)
    gibibytes = {what: peak / GIBIBYTE for what, peak in found.items()}
    benchmark.extra_info.update({what: round(peak, 3) for what, peak in gibibytes.items()})
    print(f"\nresnet50, one image, {name} with default chunks, peak GiB:", _rounded(gibibytes))
    assert found["48 samples"] <= 1.05 * found["16 samples"]
    assert found["48 samples"] <= 1.1 * found["plain, 16 images"]
    assert found["48 samples"] < LARGEST


def _peak(*arguments: str) -> int:
    return peak_memory(*arguments, module="tests.benchmarks.sampling")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
