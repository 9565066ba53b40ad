"""Class activation maps: what the contract's drawn networks hardly have. Ties, zeros, signs, and the papers' claims."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.methods.gradient.principal_map import principal_map

from ...sweeps import sweep

CAMS = (
    *("grad_cam", "hires_cam", "layer_cam", "grad_cam_plus_plus", "xgrad_cam", "eigen_cam", "eigen_grad_cam"),
    *("score_cam", "ablation_cam"),
)
every_cam = pytest.mark.parametrize("name", CAMS)


def net(bias: bool = True) -> Any:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 5, 3, bias=bias), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3, bias))
    return nn.Sequential(*layers).double().eval()


X = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


@every_cam
def test_relu_is_the_signed_map_without_what_is_below_zero(name: str) -> None:
    cam = partial(getattr(funcattr, name), net(), X, 1, layer="0")
    signed = cam(relu=False)
    assert signed.min() < 0 or name in ("layer_cam", "eigen_cam")  # which of this net have values above 0 only
    torch.testing.assert_close(cam(), signed.clamp(min=0), rtol=0, atol=1e-12)


@every_cam
def test_features_of_zero_give_a_map_of_zero_and_a_derivative(name: str) -> None:
    cam = partial(getattr(funcattr, name), net(bias=False), target=1, layer="1", relu=False)
    zero = torch.zeros_like(X)
    assert torch.equal(cam(x=zero), torch.zeros(2, 1, 4, 4).double())
    gradient = torch.func.grad(lambda x: cam(x=x).sum())(zero)
    assert gradient.isfinite().all()


@every_cam
def test_dead_and_equal_channels_give_finite_maps_and_derivatives(name: str) -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[1:3] = model[0].weight[:1]
        model[0].bias[1:3] = model[0].bias[:1]
        model[0].bias[3:] = -100.0
    cam = partial(getattr(funcattr, name), model, target=1, layer="1", relu=False)
    assert cam(x=X).isfinite().all()
    assert torch.func.grad(lambda x: cam(x=x).square().sum())(X).isfinite().all()


@every_cam
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_single(name: str, dtype: torch.dtype) -> None:
    cam = partial(getattr(funcattr, name), target=1, layer="1", relu=False)
    found, expected = cam(net().to(dtype), X.to(dtype)), cam(net().float(), X.float())
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", ["hires_cam", "xgrad_cam"])
def test_signed_maps_sum_to_the_output_of_a_homogeneous_net(name: str) -> None:
    model = net(bias=False)
    found = getattr(funcattr, name)(model, X, 1, layer="1", relu=False)
    torch.testing.assert_close(found.flatten(1).sum(1), model(X)[:, 1])


def test_hires_cam_signed_is_linear_approx() -> None:
    found = funcattr.hires_cam(net(), X, 1, layer="1", relu=False)
    torch.testing.assert_close(found, funcattr.linear_approx(net(), X, 1, layer="1"))


def test_xgrad_cam_of_channels_that_sum_to_zero_is_zero() -> None:
    """Behind an instance norm each channel sums to 0 but for rounding, which a division would make into a map."""
    model = nn.Sequential(nn.InstanceNorm2d(2), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(32, 3)).double().eval()
    found = funcattr.xgrad_cam(model, X, 1, layer="0", relu=False)
    assert torch.equal(found, torch.zeros(2, 1, 6, 6).double())
    found = funcattr.xgrad_cam(model.float(), X.float(), 1, layer="0", relu=False)
    assert torch.equal(found, torch.zeros(2, 1, 6, 6))


# --- the sign and direction of Eigen-CAM -----------------------------------------------------------------------------


def svd_map(features: Tensor) -> Tensor:
    """By singular vectors, with whatever sign they come in. [C, P] -> [P]"""
    return torch.linalg.svd(features.T)[2][0] @ features


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 20, 2, 3), (1, 4, 1, 1), (1, 1, 3, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_the_map_is_the_first_singular_vector_up_to_a_sign_that_agrees_with_the_sum(
    shape: tuple[int, ...], seed: int
) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    found, flat = principal_map(features, relu=False).flatten(), features.reshape(shape[1], -1)
    expected = svd_map(flat)
    torch.testing.assert_close(found.abs(), expected.abs())
    assert found @ flat.sum(0) > 0
    torch.testing.assert_close(principal_map(-features, relu=False), -principal_map(features, relu=False))
    turned = features.flatten(2).roll(1, 2).reshape(shape)
    torch.testing.assert_close(principal_map(turned, relu=False).flatten(), found.roll(1))


def test_of_features_above_zero_the_map_is_above_zero() -> None:
    features = torch.rand(8, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    assert (principal_map(features, relu=False) > 0).all()


def test_where_singular_values_tie_the_map_is_the_projection_of_the_sum() -> None:
    """Two orthogonal channels of one length: all directions are first ones, and (1, 1) / sqrt(2) is nearest to ones."""
    features = torch.tensor([[[3.0, 0.0, 4.0], [4.0, 0.0, -3.0], [0.0, 1.0, 0.0]]]).double()
    expected = torch.tensor([7.0, 0.0, 1.0]).double() / 2**0.5
    torch.testing.assert_close(principal_map(features, relu=False)[0, 0], expected)
    nudged = features.clone()
    nudged[0, 0] *= 1 + 1e-16  # nothing that float64 can see
    torch.testing.assert_close(principal_map(nudged, relu=False)[0, 0], expected)


def test_where_nothing_tells_the_sign_the_map_is_zero() -> None:
    """Channels a and -a: the first singular vector is (1, -1) / sqrt(2), at right angles to the sum."""
    a = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    for features in (torch.cat([a, -a], 1), torch.cat([a, -a], 1).double(), torch.cat([a, -a, 0 * a], 1)):
        assert torch.equal(principal_map(features, relu=False), 0 * features[:, :1])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_map_is_homogeneous_at_any_size(scale: float) -> None:
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(principal_map(scale * features, relu=False) / scale, principal_map(features, relu=False))


def test_second_derivatives_are_those_of_the_singular_vector() -> None:
    features = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradgradcheck(lambda h: principal_map(h, relu=False), features.requires_grad_())


# --- the maps without gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["score_cam", "ablation_cam"])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 99])
def test_chunks_change_nothing_and_progress_shows(
    name: str, chunk_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cam = partial(getattr(funcattr, name), net(), X, 1, layer="1")
    torch.testing.assert_close(cam(chunk_size=chunk_size, progress=True), cam())
    assert name in capsys.readouterr().err


def test_ablation_cam_of_a_linear_tail_is_the_sum_over_channels_of_what_each_adds() -> None:
    layers = (nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model: Any = nn.Sequential(*layers).double().eval()
    h = model[0](X)
    added = model[3].weight[1] * h.mean((2, 3))
    found = funcattr.ablation_cam(model, X, 1, layer="0", relu=False)
    torch.testing.assert_close(found, (added[:, :, None, None] * h).sum(1, keepdim=True))


def test_ablation_cam_keeps_its_sign_where_the_score_is_negative() -> None:
    """A channel that speaks for the class weighs more than 0 though all scores lie below 0."""
    model = net()
    with torch.no_grad():
        low = net()
        low[4].bias -= 100
    torch.testing.assert_close(
        funcattr.ablation_cam(low, X, 1, layer="1", relu=False),
        funcattr.ablation_cam(model, X, 1, layer="1", relu=False),
    )


def test_score_cam_refuses_a_layer_of_other_spatial_dimensions() -> None:
    with pytest.raises(ValueError, match=r"^score_cam\(layer='3'\): the layer has 0 spatial dimensions, the input 2"):
        funcattr.score_cam(net(), X, 1, layer="3")
    with pytest.raises(ValueError, match=r"^score_cam\(x=...\): expected a shape \[N, C, \*spatial\], got \[2, 4\]"):
        funcattr.score_cam(nn.Linear(4, 3), torch.ones(2, 4), 1, layer="")


@pytest.mark.parametrize(
    "name",
    sweep(
        ("eigen_cam", "eigen_grad_cam", "score_cam", "ablation_cam", "grad_cam_plus_plus"),
        quick=("grad_cam_plus_plus",),
    ),
)
def test_compiled_equals_eager(name: str, fresh_dynamo: None) -> None:
    model = funcattr.functionalize(net())
    cam = partial(getattr(funcattr, name), model, target=1, layer="1")
    compiled = torch.compile(lambda x: cam(x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), cam(X))
