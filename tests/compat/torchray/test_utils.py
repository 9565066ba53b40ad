"""TorchRay's tools for images against numpy."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image

import funcattr
from funcattr.compat.torchray import utils
from funcattr.testing.seeding import uniform

from . import references as reference

X = uniform(2, 3, 9, 12)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect", "circular"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_imsmooth_equals_its_formula(mode: str, stride: int, padding: int) -> None:
    value = 0.7 if mode == "constant" else 0.0
    found = utils.imsmooth(X, 0.8, stride=stride, padding=padding, padding_mode=mode, padding_value=value)
    close(found, reference.smoothed(X, 0.8, mode, value, padding)[..., ::stride, ::stride])


def test_imsmooth_smooths_nothing_with_sigma_0_or_next_to_it() -> None:
    close(utils.imsmooth(X, 0), X)
    close(utils.imsmooth(X, 0.05), X)
    assert utils.imsmooth(X, 0, padding=1, padding_value=2)[0, 0, 0, 0] == 2
    for wrong in ({"sigma": -1}, {"sigma": 1, "stride": 0}, {"sigma": 1, "padding": -1}):
        with pytest.raises(funcattr.FuncattrError, match=r"^imsmooth\(sigma="):
            utils.imsmooth(X, **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(funcattr.FuncattrError, match=r"expected images \[N, C, H, W\], got shape \[3, 9, 12\]"):
        utils.imsmooth(X[0], 1)


@pytest.mark.parametrize("transform", [[[1, 0], [1, 0]], [[2, 1], [0.5, -0.5]], [[0.75, 1.5], [1.25, -2]]], ids=str)
def test_resample_equals_its_formula(transform: Any) -> None:
    (scale_u, shift_u), (scale_v, shift_v) = transform
    found = utils.resample(X, (8, 10), torch.tensor(transform))
    image = np.pad(X[1, 2].numpy(), 1)  # zeros around
    for row in range(8):
        for column in range(10):
            u = min(max((column + 0.5 + shift_u) / scale_u + 0.5, 0), 13)  # in pixel centres of the padded image
            v = min(max((row + 0.5 + shift_v) / scale_v + 0.5, 0), 10)
            i, j = min(int(v), 9), min(int(u), 12)
            below, beside = v - i, u - j
            corners = image[i : i + 2, j : j + 2]
            expected = np.array([1 - below, below]) @ corners @ np.array([1 - beside, beside])
            assert found[1, 2, row, column].item() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(funcattr.FuncattrError, match=r"^resample\(transform=\.\.\.\): expected \[\[s_u, t_u\]"):
        utils.resample(X, (8, 10), [[-1, 0], [1, 0]])


def test_images_are_scaled_and_drawn() -> None:
    matplotlib.use("agg")

    figure = pyplot.figure()
    scaled, handle = utils.imsc(X[0])
    close(scaled, (X[0] - X[0].min()) / (X[0].max() - X[0].min()))
    assert handle is figure.axes[0].images[0] and not figure.axes[0].axison
    np.testing.assert_allclose(handle.get_array(), scaled.movedim(0, -1).numpy(), atol=1e-6)
    grey, nothing = utils.imsc(X[0, :1], quiet=True)
    assert len(figure.axes[0].images) == 1 and grey.shape == (1, 9, 12) and nothing is None
    limited, _ = utils.imsc(X[0], quiet=True, lim=[-0.5, 0.25])
    close(limited, ((X[0] + 0.5) / 0.75).clamp(0, 1))
    assert not utils.imsc(torch.ones(1, 2, 2), quiet=True)[0].any()
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    of_pil, expected = utils.imsc(Image.fromarray(pixels), quiet=True)[0], torch.arange(12.0).reshape(2, 2, 3) / 11
    torch.testing.assert_close(of_pil, expected.movedim(-1, 0))
    assert utils.im_to_numpy(X[0, :1]).shape == (9, 12, 3)
    mosaic, _ = utils.imarraysc(X[:, :1], spacing=2)
    assert mosaic.shape == (1, 9, 26) and mosaic[:, :, 12:14].abs().sum() == 0
    close(mosaic[:, :, 14:], utils.imsc(X[1, :1], quiet=True)[0])
    assert len(figure.axes[0].images) == 2
    pyplot.close(figure)
    assert utils.imarraysc(uniform(5, 3, 4, 4), quiet=True)[0].shape == (3, 8, 12)
    for wrong in (X, X[0, :2], X[0, 0]):
        with pytest.raises(funcattr.FuncattrError, match=r"^imsc\(img=\.\.\.\): expected an image"):
            utils.imsc(wrong)
    with pytest.raises(funcattr.FuncattrError, match=r"^imarraysc\(tiles=\.\.\.\): expected images"):
        utils.imarraysc(X[0])


def test_images_are_read(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    found = utils.imread(tmp_path / "a.png")
    close(found, torch.from_numpy(pixels).movedim(-1, 0) / 255)
    assert utils.imread(str(tmp_path / "a.png"), as_pil=True, resize=8).size == (12, 8)
    assert utils.imread(tmp_path / "a.png", resize=(5, 7)).shape == (3, 7, 5)
    assert utils.imread(tmp_path / "grey.png").shape == (1, 4, 6)
    assert utils.imread(tmp_path / "grey.png", to_rgb=True).shape == (3, 4, 6)
    utils.xmkdir(str(tmp_path / "new" / "one"))
    utils.xmkdir(str(tmp_path / "new" / "one"))
    assert (tmp_path / "new" / "one").is_dir()
    assert utils.tensor_to_im(X).shape == (6, 1, 9, 12) and utils.get_device().type in ("cpu", "cuda")
    assert utils.get_device(None).type == "cpu"
