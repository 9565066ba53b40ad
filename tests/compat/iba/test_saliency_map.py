"""Bits on pixels as scikit-image spreads them, and their picture."""

import math

import numpy as np
import pytest
import torch

from funcattr.compat.iba import plot_saliency_map, to_saliency_map, to_unit_interval
from funcattr.testing.seeding import uniform


@pytest.mark.parametrize(("layer", "image"), [((4, 5), (16, 13)), ((7, 7), (7, 7)), ((1, 3), (6, 4)), ((2, 2), (9, 3))])
def test_bits_are_spread_as_scikit_image_resizes(layer: tuple[int, int], image: tuple[int, int]) -> None:
    transform = pytest.importorskip("skimage.transform", reason="scikit-image comes with the extra 'demo'")
    nats = uniform(3, *layer).abs().numpy()
    bits = nats.sum(0) / math.log(2) * (math.prod(layer) / math.prod(image))
    expected = transform.resize(bits, image, order=1, preserve_range=True)
    np.testing.assert_allclose(to_saliency_map(nats, image), expected, rtol=1e-9)


def test_without_a_size_the_map_is_that_of_the_layer_and_nan_is_left_out() -> None:
    nats = uniform(3, 4, 5).numpy()
    nats[1, 2, 3] = np.nan
    np.testing.assert_allclose(to_saliency_map(nats), np.nansum(nats, 0) / math.log(2))


def test_a_smaller_map_keeps_the_bits() -> None:
    nats = uniform(3, 8, 8).abs().numpy()
    found = to_saliency_map(nats, (3, 5))
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found.sum(), nats.sum() / math.log(2))


def test_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r'got \[4, 5\]. Other layers have mode="capacity"'):
        to_saliency_map(uniform(4, 5).numpy(), (8, 8))


@pytest.mark.parametrize("values", [np.array([3.0, 1.0, 2.0]), torch.tensor([3.0, 1.0, 2.0])])
def test_unit_interval(values) -> None:
    np.testing.assert_allclose(np.asarray(to_unit_interval(values)), [1, 0, 0.5])


def test_picture() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    bits, image = np.linspace(0, 2, 48).reshape(6, 8), np.random.default_rng(0).random((6, 8, 3))
    axes = plot_saliency_map(bits, image)
    below, above = (np.asarray(drawn.get_array()) for drawn in axes.get_images())
    np.testing.assert_allclose(below[..., 0], image @ [0.2125, 0.7154, 0.0721])
    assert above[0, 0, 3] == pytest.approx(0.2)
    assert above[-1, -1, 3] == pytest.approx(0.7)
    bar = axes.figure.axes[1]
    assert bar.get_ylabel() == "Bits / Pixel"
    assert bar.get_ylim() == pytest.approx((0, 2))
    own = pyplot.subplots()[1]
    assert plot_saliency_map(bits, ax=own, vmax=5, colorbar_label="bits") is own
    assert own.figure.axes[1].get_ylim() == pytest.approx((0, 5))
    pyplot.close("all")
