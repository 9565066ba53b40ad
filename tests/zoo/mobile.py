"""Depthwise-separable networks: MobileNet v2 and v3, EfficientNet, ConvNeXt."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[..., nn.Module]


class ConvNormActivation(nn.Sequential):
    """Convolution that keeps the size (but for its stride), batch norm, in-place activation."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        padding = (kernel - 1) // 2
        layers: list[nn.Module] = [
            nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(after),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        scale = self.scale_activation(self.fc2(scale))
        return scale * x


class StochasticDepth(nn.Module):
    """Drop whole rows in training; the identity otherwise."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty([x.shape[0]] + [1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * keep.bernoulli_(1 - self.p).div_(1 - self.p)


class InvertedResidual(nn.Module):
    """Expand, filter by depth, project without activation; add if the shapes agree."""

    def __init__(self, before: int, after: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = before * expand
        self.use_res_connect = stride == 1 and before == after
        self.conv = nn.Sequential(
            ConvNormActivation(before, wide, 1, activation=nn.ReLU6),
            ConvNormActivation(wide, wide, 3, stride, groups=wide, activation=nn.ReLU6),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    """Relu6 throughout."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(3, 4, 3, 2, activation=nn.ReLU6),
            InvertedResidual(4, 6, 2, 2),
            InvertedResidual(6, 6, 1, 2),
            ConvNormActivation(6, 12, 1, activation=nn.ReLU6),
        )
        self.classifier = nn.Sequential(nn.Dropout(p=0.2), nn.Linear(12, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class GatedResidual(nn.Module):
    """The block of MobileNetV3 and (`depth_p` > 0) of EfficientNet."""

    def __init__(
        self,
        before: int,
        after: int,
        stride: int,
        *,
        activation: Activation,
        squeeze: tuple[Activation, Activation],
        depth_p: float = 0.0,
    ) -> None:
        super().__init__()
        wide = before * 2
        self.use_res_connect = stride == 1 and before == after
        self.block = nn.Sequential(
            ConvNormActivation(before, wide, 1, activation=activation),
            ConvNormActivation(wide, wide, 5, stride, groups=wide, activation=activation),
            SqueezeExcitation(wide, 2, *squeeze),
            ConvNormActivation(wide, after, 1, activation=None),
        )
        self.stochastic_depth = StochasticDepth(depth_p)

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.use_res_connect:
            result = self.stochastic_depth(result)
            result += x
        return result


class MobileNetV3(nn.Module):
    """Hardswish, and gates by hardsigmoid."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        gated = {"activation": nn.Hardswish, "squeeze": (nn.ReLU, nn.Hardsigmoid)}
        self.features = nn.Sequential(
            ConvNormActivation(3, 4, 3, 2, activation=nn.Hardswish),
            GatedResidual(4, 6, 2, **gated),
            GatedResidual(6, 6, 1, **gated),
            ConvNormActivation(6, 12, 1, activation=nn.Hardswish),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(12, 10),
            nn.Hardswish(inplace=True),
            nn.Dropout(p=0.2, inplace=True),
            nn.Linear(10, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class EfficientNet(nn.Module):
    """SiLU, gates by sigmoid, stochastic depth."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        gated = {"activation": nn.SiLU, "squeeze": (lambda: nn.SiLU(inplace=True), nn.Sigmoid)}
        self.features = nn.Sequential(
            ConvNormActivation(3, 4, 3, 2, activation=nn.SiLU),
            nn.Sequential(GatedResidual(4, 6, 2, **gated), GatedResidual(6, 6, 1, depth_p=0.2, **gated)),
            ConvNormActivation(6, 12, 1, activation=nn.SiLU),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(p=0.2, inplace=True), nn.Linear(12, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of an image. [N, C, H, W] -> [N, C, H, W]"""

    def forward(self, input: Tensor) -> Tensor:
        x = input.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    """Permute the dimensions, as a module."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.permute(x, self.dims)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then a channels-last perceptron, scaled per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.stochastic_depth = StochasticDepth(0.1)

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer_scale * self.block(x)
        result = self.stochastic_depth(result)
        result += x
        return result


class ConvNeXt(nn.Module):
    """A patchifying stem and two stages of one block."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, kernel_size=4, stride=4), LayerNorm2d(6, eps=1e-6)),
            nn.Sequential(ConvNeXtBlock(6)),
            nn.Sequential(LayerNorm2d(6, eps=1e-6), nn.Conv2d(6, 8, kernel_size=2, stride=2)),
            nn.Sequential(ConvNeXtBlock(8)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(8, eps=1e-6), nn.Flatten(1), nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))
